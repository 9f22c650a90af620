"""The command line. Imports nothing heavy until a verb needs it.

Exit status: 0 done, 1 some run failed, 2 bad input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from repro.errors import InputError, unknown

_STUDY = "scale=laptop, seeds=3 or seeds=[0,7], variants=[a,b], launcher.parallel=2, and any Hydra override of a run"


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are our one-line errors."""

    def error(self, message: str) -> NoReturn:
        message = message.replace(", KEY=VALUE", "")  # argparse takes what may be left out for required
        raise InputError(f"{message} (see {self.prog} --help)")


def _list(options: argparse.Namespace) -> int:
    from repro.verbs.catalogue import list_all

    return list_all(options.kind, options.json)


def _show(options: argparse.Namespace) -> int:
    from repro.verbs.catalogue import show

    return show(options.name, options.json)


def _cost(options: argparse.Namespace) -> int:
    from repro.verbs.catalogue import cost

    return cost(options.name, options.words, options.input, options.json)


def _plan(options: argparse.Namespace) -> int:
    from repro.verbs.plan import plan

    return plan(options.name, options.words, options.json)


def _status(options: argparse.Namespace) -> int:
    from repro.verbs.plan import status

    return status(options.name, options.words, options.json)


def _run(options: argparse.Namespace) -> int:
    from repro.verbs.run import run

    return run(options.name, options.words)


def _report(options: argparse.Namespace) -> int:
    from repro.verbs.report import report

    return report(options.name, options.words, "json" if options.json else options.format, options.out)


def _doctor(options: argparse.Namespace) -> int:
    from repro.verbs.doctor import doctor

    return doctor(options.json)


VERBS: dict[str, tuple[Callable[[argparse.Namespace], int] | None, str]] = {
    "list": (_list, "the published tables that can be rerun; also: list models, data, recipes, scales"),
    "show": (_show, "a table with its published values, or the axes of a model"),
    "cost": (_cost, "parameters, MACs and activations of a model, by layer"),
    "plan": (_plan, "what a study would train, and what its rows cost; nothing is trained"),
    "run": (_run, "train what is missing of a study, then report"),
    "status": (_status, "the state of a study's runs"),
    "report": (_report, "published and reproduced numbers side by side, with verdicts"),
    "train": (None, "one run (a Hydra app: repro train --help)"),
    "doctor": (_doctor, "what this machine has and lacks"),
}


def _parser(verb: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"repro {verb}", description=VERBS[verb][1])
    if verb == "list":
        parser.add_argument("kind", nargs="?", default="ablations", help="ablations, models, data, recipes or scales")
    elif verb == "show":
        parser.add_argument("name", metavar="ABLATION|MODEL")
    elif verb == "cost":
        parser.add_argument("name", metavar="MODEL")
        parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="axes of the model, for example groups=32")
        parser.add_argument("--input", type=_size, metavar="N", help="height and width of the input, in pixels")
    elif verb != "doctor":
        parser.add_argument("name", metavar="ABLATION", help="a name from `repro list`, or a file of your own")
        parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help=_STUDY)
    if verb == "report":
        parser.add_argument("--format", choices=("md", "json"), default="md")
        parser.add_argument("--out", metavar="FOLDER", help="write page, figure and index there instead of printing")
    if verb != "run":
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in VERBS.items())
    return (
        "usage: repro VERB ...\n\nPublished CNN ablation tables, rerun with one command.\n\n"
        f"{verbs}\n\nrepro VERB --help says more."
    )


def _size(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise InputError(f"--input {text}: expected a whole number of pixels")
    return int(text)


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
    verb = VERBS[name][0]
    assert verb is not None
    return verb(_parser(name).parse_intermixed_args(rest))


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
