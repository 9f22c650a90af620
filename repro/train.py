"""One run, from a resolved config to a result. The only door to torch and Lightning.

`python -m repro.train RUN_FOLDER` trains the config.yaml in that folder; Lightning's DDP re-executes exactly this
command for the other ranks. Knows nothing of ablations or studies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro import attempts, environment, folder
from repro.config import RunConfig
from repro.cost.count import cached_price
from repro.errors import InputError
from repro.record import SHARED, failed, identity, now
from repro.results import Cost, Data, Failure, Result, Timing, write_result
from repro.tracking import finish_loggers
from repro.training import interrupt
from repro.training.callbacks import Clock
from repro.training.checkpoint import load_state, remove_state, save_weights, sweep
from repro.training.distributed import is_step, together
from repro.training.failures import explain
from repro.training.heartbeat import Heart
from repro.training.interrupt import Interrupted
from repro.training.log import say, settle
from repro.training.memory import peak_memory
from repro.training.pieces import Pieces, assemble, prepare_torch
from repro.training.resume import State

GRACE = 10.0
"""Seconds that a run has to save itself when its launcher has died."""


def train(config: RunConfig, directory: Path) -> Result:
    """Train one run and write its result; a run that has an outcome in this folder is not trained again.

    It goes on from its checkpoint where there is one. Returns the result on rank 0 (and an equal one on the other
    ranks, which write nothing).

    Raises:
        folder.AlreadyRunningError: another process trains this run.
        Interrupted: it was asked to end, and has saved itself.
        InputError: something that was given cannot be used, the run's folder included.
        Exception: whatever stopped the run, after a `failed` result was written.
    """
    with interrupt.heeded():
        if not _is_first_rank():
            with together(config, directory, explain):
                return _run(config, directory, now(), None, None, [])
        with folder.locked(directory):
            done = folder.outcome(directory)
            if done is not None and done.id == config.id:
                _prune(config, directory)
                return done  # another launcher has trained it since this one looked
            return _attempt(config, directory)


def _attempt(config: RunConfig, directory: Path) -> Result:
    """Train under the lock, and write down how it began and how it ended."""
    started, state = now(), _begin(config, directory)
    trackers: list[Any] = []  # they end after the run's own files are written, which they must not delay
    fail = partial(_fail, config, directory, started)
    try:
        with Heart(directory, state["step"] if state else 0) as heart:
            with together(config, directory, explain, fail):
                result = _run(config, directory, started, heart, state, trackers)
            write_result(directory, result)
    except Interrupted as saved:
        _end(directory, "interrupted", saved.step, message=str(saved))
        finish_loggers(trackers, None)
        raise
    except Exception as error:
        finish_loggers(trackers, fail(explain(error)))
        raise
    outcome: attempts.End = "diverged" if result.status == "diverged" else "finished"
    _end(directory, outcome, result.timing.steps if result.timing else None)
    _prune(config, directory)
    finish_loggers(trackers, result)
    return result


def _begin(config: RunConfig, directory: Path) -> State | None:
    """Make the folder ready and note that the run is begun; return what it goes on from."""
    try:
        folder.set_aside(directory)
        folder.write_config(directory, config)
        sweep(directory)
        state = load_state(directory, config.id)
        attempts.begin(directory, state["step"] if state else 0)
    except OSError as error:
        raise InputError(f"{directory}: the run folder cannot be written ({error.strerror}); set REPRO_RUNS") from None
    return state


def _fail(config: RunConfig, directory: Path, started: str, failure: Failure) -> Result:
    """Write down why the run failed, as far as the disk takes it."""
    result = failed(config, started, failure)
    with suppress(OSError):
        write_result(directory, result)
    _end(directory, "failed", kind=failure.kind, message=failure.message)
    say(f"failed: {failure.message}")
    return result


def _end(directory: Path, how: attempts.End, step: int | None = None, **why: Any) -> None:
    """Note the attempt's end; on a full disk it stays open, and counts as one that was killed."""
    with suppress(OSError):
        attempts.end(directory, how, step, **why)


def _prune(config: RunConfig, directory: Path) -> None:
    if not config.checkpoint.keep:
        remove_state(directory)


def _run(
    config: RunConfig, directory: Path, started: str, heart: Heart | None, state: State | None, trackers: list[Any]
) -> Result:
    """Train and test; `heart`, `state` (what the run goes on from) and the `trackers` it begins are rank 0's."""
    clock = Clock()
    data, model = config.data, config.model
    cost = cached_price(model, data.size, data.channels, data.classes)
    prepare_torch(config)
    pieces = assemble(config, directory, clock, heart, state)
    clock.set_up += clock.total
    trackers += pieces.trainer.loggers
    try:
        _fit_and_test(pieces)
        averaged = pieces.module.averaged_weights()  # on every rank: its statistics may be computed over all of them
        if pieces.trainer.is_global_zero:
            _leave_files(config, directory, pieces, averaged)
    finally:
        pieces.data.close()
    return _result(config, pieces, cost, started, state)


def _leave_files(config: RunConfig, directory: Path, pieces: Pieces, averaged: dict[str, Tensor] | None) -> None:
    """Write the whole curve and the weights. Raises OSError where they cannot be: then the run has not finished."""
    pieces.record.close()
    if config.checkpoint.weights:
        save_weights(directory, pieces.module.net.state_dict(), averaged)


def _fit_and_test(pieces: Pieces) -> None:
    """Train to the end or to a divergence; read the test split once, and only after a whole training."""
    trainer, module, record = pieces.trainer, pieces.module, pieces.record
    trainer.fit(module, datamodule=pieces.data)
    record.finish(trainer, module)
    if record.diverged:
        return
    steps = trainer.global_step
    trainer.test(module, datamodule=pieces.data, verbose=False)
    tested = module.held_out_metrics("test")
    record.last |= tested
    for logger in trainer.loggers:
        logger.log_metrics(tested, step=steps)


def _result(config: RunConfig, pieces: Pieces, cost: Cost, started: str, state: State | None) -> Result:
    splits, record, clock = pieces.data.splits, pieces.record, pieces.clock
    assert splits is not None
    images = pieces.trainer.global_step * config.recipe.batch_size
    gpu = torch.cuda.get_device_name() if config.trainer.accelerator == "gpu" else None
    return Result(
        **identity(config, started),
        status="diverged" if record.diverged else "finished",
        epochs=record.epochs_done,
        last=record.last,
        best=record.best,
        cost=cost,
        timing=Timing(
            setup=clock.set_up,
            train=clock.train,
            evaluate=clock.evaluate,
            total=clock.total,
            images_per_second=images / clock.train,
            steps=pieces.trainer.global_step,
            peak_memory=max(peak_memory(), state["peak_memory"] if state else 0),
            shared=bool(os.environ.get(SHARED)),
        ),
        data=Data(
            name=config.data.name,
            fingerprint=splits.fingerprint,
            train_transform=splits.train_transform,
            test_transform=splits.test_transform,
            **splits.sizes,
        ),
        environment=environment.describe(gpu, state["codes"] if state else ()),
        failure=Failure(kind="nan", message=record.diverged) if record.diverged else None,
    )


def _is_first_rank() -> bool:
    """Whether this process is rank 0, asked before Lightning has started any other rank."""
    if is_step():
        return os.environ["SLURM_PROCID"] == "0"
    return os.environ.get("LOCAL_RANK", "0") == "0" and os.environ.get("NODE_RANK", "0") == "0"


def die_with_parent() -> None:
    """Save and end this process when the pipe on its standard input closes, as it does when the launcher dies."""

    def watch() -> None:
        while os.read(0, 4096):  # unbuffered: a lock held at the interpreter's end would be fatal
            continue
        interrupt.request("the death of its launcher")
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Train the run in the folder that is named.

    Exit status: 0 finished or diverged, 1 failed, 2 bad input, `folder.BUSY`, `folder.INTERRUPTED`.
    """
    if arguments[1:] == ["--die-with-parent"]:
        die_with_parent()
    elif len(arguments) != 1:
        print("usage: python -m repro.train RUN_FOLDER", file=sys.stderr)
        return 2
    status = _train_in(Path(arguments[0]))
    settle()
    return status


def _train_in(directory: Path) -> int:
    try:
        with interrupt.heeded(signal.SIGINT):
            train(folder.read_config(directory / folder.CONFIG), directory)
    except folder.AlreadyRunningError:
        return folder.BUSY
    except Interrupted as saved:
        say(str(saved))
        return folder.INTERRUPTED
    except InputError as error:
        with suppress(OSError):
            print(f"repro: {error}", file=sys.stderr)
        return 2
    except Exception:
        with suppress(OSError):
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
