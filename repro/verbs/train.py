"""`repro train`: one run as an ordinary Hydra app. Several devices start from the run's own resolved config."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from repro import folder
from repro.compose import compose, to_config, with_library
from repro.config import RunConfig
from repro.errors import InputError
from repro.paths import conf_dir, runs_dir
from repro.results import Result, read_result

INTERRUPTED = 130  # exit status after Ctrl-C


def train_app(arguments: list[str]) -> int:
    """Hand the arguments to Hydra: overrides, `--cfg job`, `--help`, `-m`. Returns the exit status."""
    import hydra

    statuses: list[int] = []
    mistakes: list[InputError] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")
    def app(tree: Any) -> None:
        try:
            statuses.append(train_one(to_config(tree)))
        except InputError as error:  # Hydra would print a traceback and exit with 1
            mistakes.append(error)

    _check(arguments)
    sys.argv = ["repro train", *(word for given in arguments for word in with_library(given))]
    app()
    if mistakes:
        raise mistakes[0]
    return max(statuses, default=0)


def _check(arguments: list[str]) -> None:
    """Find mistakes in the overrides of a single run before Hydra does, and say them in one line."""
    words = [word for word in arguments if "=" in word and not word.startswith(("-", "hydra"))]
    if not {"-m", "--multirun"} & set(arguments):
        compose(words)
        return
    for word in words:
        if word.startswith("model=") and "," in word and "/" in word:
            raise InputError(
                f"{word}: a library's networks are not swept by their names; write model=_timm "
                "model.architecture=a,b 'model.name=timm/${model.architecture}', or the same with torchvision"
            )


def train_one(config: RunConfig) -> int:
    """Train one run in its own folder, unless it is finished there. Returns the exit status."""
    from repro.prepare import prepare

    directory = Path(config.dir) if config.dir else _default_folder(config)
    state = folder.state(directory)
    if state in folder.DONE:
        found = read_result(directory)
        assert found is not None
        if found.id != config.id:
            raise InputError(
                f"dir={directory} holds another run ({found.id}, this one is {config.id}); name another folder"
            )
        print(f"already {state}: {directory / 'result.json'} (delete the folder to train again)")
        return _say(directory, found)
    if state == "running":
        raise _busy(directory)
    prepare({config.model.name: config})
    folder.write_config(directory, config)
    status = _train(config, directory)
    result = read_result(directory)
    return _say(directory, result) if result else status or 1


def _busy(directory: Path) -> InputError:
    return InputError(f"{directory}: another process is training this run")


def _default_folder(config: RunConfig) -> Path:
    return runs_dir() / "train" / config.model.name / f"seed{config.seed}-{config.id}"


def _train(config: RunConfig, directory: Path) -> int:
    import traceback

    from repro.train import train
    from repro.training.interrupt import Interrupted, heeded

    try:
        with heeded(signal.SIGINT):
            train(config, directory)
    except InputError:
        raise
    except folder.AlreadyRunningError:
        raise _busy(directory) from None
    except Interrupted as saved:
        return _stopped(f"saved at step {saved.step}", "goes on from there", saved.reason)
    except (KeyboardInterrupt, SystemExit):  # a second Ctrl-C; Lightning turns the first of these into the second
        return _stopped("before the run's end", "goes on from its last checkpoint")
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _stopped(where: str, then: str, reason: str = "SIGINT") -> int:
    """Say that the run was stopped, and how to go on; return the exit status."""
    print(f"repro: stopped, {where}; the same command {then}", file=sys.stderr)
    return INTERRUPTED if reason == "SIGINT" else folder.INTERRUPTED


def _say(directory: Path, result: Result) -> int:
    """Print how the run ended and return the exit status."""
    if result.status == "failed":
        print(f"FAILED: {result.failure.message if result.failure else ''} ({directory})", file=sys.stderr)
        return 1
    if result.status == "diverged":
        print(f"diverged: {result.failure.message if result.failure else ''} ({directory})")
        return 0
    last, timing = result.last, result.timing
    speed = f", {timing.images_per_second:,.0f} images/s" if timing else ""
    error = f"test error {last['test_top1_error']:.2f} %, last epoch {last['epoch']:.0f}{speed}"
    print(f"{error}; {directory / 'result.json'}")
    return 0
