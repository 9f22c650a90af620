"""`repro cancel`: take a study's runs out of SLURM's queue, and stop its launchers on this host. Imports no torch."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from repro import ablation, attempts, folder
from repro.console import console as make_console
from repro.errors import InputError
from repro.launch import presence
from repro.launch.presence import Presence
from repro.launch.slurm import ending, queue, record
from repro.launch.slurm.commands import RefusedError, SilentError, ask, here
from repro.launch.slurm.queue import Element
from repro.request import parse_request, study_arguments
from repro.study import Study

PATIENCE, POLL = 90.0, 0.5  # seconds that cancelled jobs have to leave the queue; between two looks at it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    study_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Cancel the study of that name."""
    return cancel(options.name, options.words)


def cancel(name: str, words: Sequence[str]) -> int:
    """Stop what trains the runs that are asked for; exit status 0, also when nothing does, and 1 when something stays.

    A run that saves itself goes on with the next `repro run`; one that could not is named as cancelled.

    Raises:
        InputError: SLURM does not answer, or refuses.
    """
    request, out = parse_request(words), make_console()
    study = request.study_on_disk(ablation.load(name))
    jobs = _Jobs.of(study)
    jobs.cancel(out)
    whole = not (request.only or request.seeds_given) and not _others_run(study)
    launchers = presence.present(study.directory)
    stays = _stop(launchers, whole, out)
    stays |= jobs.settle(out)
    if not jobs.live and not launchers:
        out.print(f"nothing to cancel: no job and no launcher works at {study.directory}", soft_wrap=True)
    return 1 if stays else 0


@dataclass
class _Jobs:
    """The elements of SLURM's queue that are to train runs of the study, by the run's folder."""

    live: Mapping[Path, Element]

    @classmethod
    def of(cls, study: Study) -> _Jobs:
        """Ask the queue. Raises InputError where there are records of jobs and no answer."""
        wanted = {entry.directory for entry in study.runs}
        elements = {path: element for path, element in record.newest(study.directory).items() if path in wanted}
        if not elements:
            return cls({})
        if not here():
            raise InputError(
                f"{record.folder_of(study.directory)}: there are jobs of SLURM, and no scancel on PATH here"
            )
        try:
            found = queue.look(elements.values())
        except SilentError as error:
            raise InputError(f"SLURM's controller does not answer ({error}); nothing was cancelled") from None
        return cls({path: found[name] for path, name in elements.items() if name in found and found[name].live})

    def cancel(self, out: Console) -> None:
        """Take them out of the queue. Raises InputError when SLURM refuses."""
        for name in queue.compress(element.name for element in self.live.values()):
            mine = [
                element for element in self.live.values() if element.name.partition("_")[0] == name.partition("_")[0]
            ]
            waiting = sum(element.waiting for element in mine)
            try:
                ask("scancel", name)
            except (RefusedError, SilentError) as error:
                raise InputError(f"scancel {name}: {error}") from None
            out.print(f"cancelled job {name}: {len(mine) - waiting} running, {waiting} pending", markup=False)

    def settle(self, out: Console) -> bool:
        """Wait until they have left the queue, and name each run that has not saved itself; true when some stay."""
        if not self.live:
            return False
        if any(not element.waiting for element in self.live.values()):
            out.print("waiting for the running ones to save themselves and end")
        left = self._wait()
        for path, element in self.live.items():
            if element.name not in left:
                _name(path, element)
        if left:
            out.print(f"still in the queue after {PATIENCE:g} s: {', '.join(queue.compress(left))}", markup=False)
        return bool(left)

    def _wait(self) -> Collection[str]:
        """Elements that are still in the queue when the patience is over."""
        names, deadline = {element.name for element in self.live.values()}, time.monotonic() + PATIENCE
        while True:
            with suppress(SilentError):
                names = {name for name, element in queue.look(names).items() if element.live}
            if not names or time.monotonic() > deadline:
                return names
            time.sleep(POLL)


def _name(directory: Path, element: Element) -> None:
    """Write down that a run was cancelled, unless it has saved itself or has an outcome after all."""
    history = attempts.read(directory)
    began = bool(history) and history[-1].job == element.name
    if began and history[-1].end is not None:
        return
    try:
        last = queue.ended(element.name)
    except SilentError:
        last = None
    why = ending.cause(element.name, last, waited=not began)
    with suppress(folder.AlreadyRunningError):
        ending.write_down(directory, element.name, why, began=began)


def _others_run(study: Study) -> bool:
    """Whether runs of the same table and scale are trained that were not asked for."""
    mine = {entry.directory for entry in study.runs}
    return any(folder.is_alive(path) for path in study.directory.glob("*/seed*-*") if path not in mine)


def _stop(launchers: Sequence[Presence], whole: bool, out: Console) -> bool:
    """Ask the launchers on this host to stop; one that follows jobs ends with them. True when one goes on."""
    stays, host = False, socket.gethostname()
    for one in launchers:
        what = f"launcher={one.launcher} (process {one.pid} on {one.host})"
        if one.launcher == "slurm":
            out.print(f"{what} follows the jobs and ends with them", markup=False)
        elif one.host != host:
            out.print(f"{what} trains this study: run the same command on {one.host}", markup=False)
            stays = True
        elif not whole:
            words = "by the words that it was started with, without seeds= and variants="
            out.print(f"{what} trains more than these runs: it is stopped as a whole, {words}", markup=False)
            stays = True
        else:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGTERM)
            out.print(f"asked {what} to stop; its runs save themselves and go on with the next repro run", markup=False)
    return stays
