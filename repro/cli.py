"""The command line. Imports nothing heavy until a verb needs it.

Exit status: 0 done, 1 some run failed, 2 bad input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from repro.errors import InputError, unknown

VERBS = {
    "list": "the published tables that can be rerun; also: list models, data, recipes, scales",
    "show": "a table with its published values, a recipe, or the axes of a model",
    "cost": "parameters, MACs, activations and memory of a model, as a whole or by layer",
    "compare": "models side by side: published error against cost, as a table and a figure",
    "budget": "widths that keep a model's cost while its number of groups changes",
    "signal": "what a model does to the variance of its signal at initialisation, measured and plotted",
    "plan": "what a study would train, and what its rows cost; nothing is trained",
    "run": "train what is missing of a study, then report",
    "status": "the state of a study's runs",
    "cancel": "stop a study that is being trained, here or on a cluster; it can go on later",
    "report": "published and reproduced numbers side by side, with verdicts",
    "diff": "what differs between two runs: config, code, result",
    "sync": "upload what trackers kept on disk",
    "evaluate": "runs, rows of a study or published weights on a held-out split: errors, likelihood, calibration",
    "train": "one run (a Hydra app: repro train --help)",
    "doctor": "what this machine has and lacks",
}
"""Each verb is a module of `repro.verbs` with `add_arguments(parser)` and `main(options)`; `train` is Hydra's."""

_WRITES = ("run", "cancel", "sync")  # every other verb reads, and has --json


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are our one-line errors."""

    def error(self, message: str) -> NoReturn:
        message = message.replace(", KEY=VALUE", "")  # argparse takes what may be left out for required
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser(verb: str, module: ModuleType) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"repro {verb}", description=VERBS[verb])
    module.add_arguments(parser)
    if verb not in _WRITES:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {text}" for name, text in VERBS.items())
    return (
        "usage: repro VERB ...\n\nPublished CNN ablation tables, rerun with one command.\n\n"
        f"{verbs}\n\nrepro VERB --help says more."
    )


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in VERBS:
        raise unknown("verb", name, VERBS)
    if name == "train":
        from repro.verbs.train import train_app

        return train_app(rest)
    module = import_module(f"repro.verbs.{name}")
    status: int = module.main(_parser(name, module).parse_intermixed_args(rest))
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status; a mistake of the user's is one line on standard error."""
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("repro: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
