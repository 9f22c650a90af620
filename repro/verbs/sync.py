"""`repro sync`: upload to W&B what tracked runs kept on disk. Imports no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from repro import ablation
from repro.errors import InputError
from repro.paths import runs_dir
from repro.request import parse_request
from repro.tracking.server import first_line, require_server, unreachable
from repro.tracking.uploads import Found, find, run_folders

Job = tuple[Path, Callable[[], None]]

TIMEOUT = 60.0
"""Seconds that the server may take for the beginning, and for the end, of one run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's words."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ABLATION KEY=VALUE | FOLDER",
        help="a study, as for `repro run`, or folders that hold runs; everything in the folder of runs without",
    )


def main(options: argparse.Namespace) -> int:
    """Upload what those words mean."""
    return sync(options.words)


def sync(words: Sequence[str]) -> int:
    """Upload runs and summaries that the server does not have; exit status 1 when some could not be uploaded."""
    folders, studies = _places(words)
    url = require_server()
    from repro.tracking.wandb_studies import waiting_summaries

    found, summaries = find(folders, url), list(waiting_summaries(studies, url))
    for reason in found.left:
        print(f"left alone: {reason}", file=sys.stderr)
    failed = _upload(found, summaries, url)
    done = len(found.waiting) + len(summaries) - failed
    if found.waiting or summaries:
        print(f"{done} of {done + failed} uploaded to {url}; {_count(found.uploaded)} already there")
    elif found.uploaded:
        print(f"nothing to upload: {url} has everything of {_count(found.uploaded)}")
    else:
        print("nothing to upload: no run here was tracked with logger=wandb")
    return 1 if failed else 0


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _places(words: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the folders of runs and those of studies that are meant. Raises InputError for what is neither."""
    if words and not Path(words[0]).is_dir():
        name, *rest = words
        if "=" in name:
            raise InputError(f"{name!r}: expected an ablation's name or a folder before KEY=VALUE")
        study = parse_request(rest).study_on_disk(ablation.load(name))
        return [run.directory for run in study.runs if run.directory.is_dir()], [study.directory]
    for word in words:
        if not Path(word).is_dir():
            raise InputError(f"{word}: there is no such folder")
    roots = [Path(word) for word in words] or [runs_dir()]
    runs = [directory for root in roots for directory in run_folders(root)]
    return list(dict.fromkeys(runs)), _studies(roots, runs)


def _studies(roots: Sequence[Path], runs: Sequence[Path]) -> list[Path]:
    """Folders of studies: two above a run's, where that is not above what was asked for."""
    above = [directory.parent.parent for directory in runs]
    return list(dict.fromkeys(study for study in above if any(study.is_relative_to(root) for root in roots)))


def _upload(found: Found, summaries: Sequence[Path], url: str) -> int:
    """Upload one after the other; returns how many failed. A server that is gone, or two failures in a row, end it."""
    from repro.tracking.wandb_runs import stop, upload
    from repro.tracking.wandb_studies import upload_summary

    jobs: list[Job] = [(entry.directory, partial(upload, entry, url, TIMEOUT)) for entry in found.waiting]
    jobs += [(directory, partial(upload_summary, directory, url, TIMEOUT)) for directory in summaries]
    failed = in_a_row = 0
    try:
        for index, (directory, job) in enumerate(jobs):
            in_a_row = 0 if _done(directory, job) else in_a_row + 1
            failed += in_a_row > 0
            gone = unreachable(url) if in_a_row else None
            if gone is not None or in_a_row == 2:
                reason = "two failed in a row" if gone is None else f"{url} cannot be reached: {gone}"
                print(f"repro: the others wait ({reason})", file=sys.stderr)
                return failed + len(jobs) - index - 1
    finally:
        stop()
    return failed


def _done(directory: Path, job: Callable[[], None]) -> bool:
    """Do one upload and say how it went."""
    try:
        job()
    except Exception as error:
        print(f"repro: {directory}: not uploaded ({first_line(error)})", file=sys.stderr)
        return False
    print(f"uploaded {directory}")
    return True
