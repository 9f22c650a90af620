"""What SLURM says of jobs: in the queue by squeue, afterwards by sacct, or by scontrol where there is no accounting.

The parsers are pure. An element is one job of an array, named as SLURM's tools do: `12_3`; a job alone is `12`.
Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from repro.launch.slurm import record
from repro.launch.slurm.commands import RefusedError, SilentError, ask, here

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
LIVE = (
    *WAITING, "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT",
)  # fmt: skip
"""States of an element that may still train its run."""

HELD = (
    "JobHeldUser", "JobHeldAdmin", "launch failed requeued held", "launch_failed_requeued_held", "JobHoldMaxRequeue",
    "DependencyNeverSatisfied", "BadConstraints", "PartitionTimeLimit", "PartitionNodeLimit", "ReqNodeNotAvail",
    "PartitionDown", "PartitionInactive", "AssocGrpSubmitJobsLimit", "QOSTimeLimit", "AssocMaxWallDurationPerJobLimit",
)  # fmt: skip
"""Reasons for which a job waits until somebody does something."""

_GONE = "invalid job id"


@dataclass(frozen=True)
class Element:
    """One job of an array as SLURM sees it. `exit` is `STATUS:SIGNAL`; empty fields were not said."""

    name: str
    state: str
    reason: str = ""
    nodes: str = ""
    exit: str = ""

    @property
    def live(self) -> bool:
        """Whether it may still train its run."""
        return self.state in LIVE

    @property
    def waiting(self) -> bool:
        """Whether it waits for its turn."""
        return self.state in WAITING

    @property
    def words(self) -> str:
        """Say it in a few words: `pending in job 12_3 (Resources)`, `running in job 12_3 on n1`."""
        if self.waiting:
            return f"pending in job {self.name}" + (f" ({self.reason})" if self.reason else "")
        return f"{self.state.lower()} in job {self.name}" + (f" on {self.nodes}" if self.nodes else "")


def expand(name: str) -> tuple[str, ...]:
    """Name each element of `10_[3-5,8%2]` or `10_[0-8:4]`; any other name is its own."""
    match = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", name)
    if not match:
        return (name,)
    return tuple(f"{match[1]}_{index}" for part in match[2].split(",") for index in _indices(part))


def _indices(part: str) -> Iterable[int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
    if not match:
        return ()
    first = int(match[1])
    return range(first, int(match[2] or first) + 1, int(match[3] or 1))


def compress(names: Iterable[str]) -> list[str]:
    """Name elements of the same job together, as scancel takes them: `10_[3,4,8]`."""
    jobs: dict[str, list[str]] = {}
    for name in names:
        job, _, index = name.partition("_")
        jobs.setdefault(job, []).extend([index] if index else [])
    return [f"{job}_[{','.join(sorted(indices, key=int))}]" if indices else job for job, indices in jobs.items()]


def base_state(text: str) -> str:
    """Return the state without what stands around it: `CANCELLED by 0` and `CANCELLED+` are CANCELLED."""
    words = text.replace("+", " ").split()
    return words[0].upper() if words else "UNKNOWN"


def _said(text: str) -> str:
    return "" if text.strip() in ("None", "(null)", "N/A", "None assigned", "Unknown") else text.strip()


def parse_squeue(text: str) -> dict[str, Element]:
    """Read `squeue --noheader --array --format=%i|%T|%r|%N`."""
    return {element.name: element for element in _rows(text, ("name", "state", "reason", "nodes"))}


def parse_sacct(text: str) -> dict[str, Element]:
    """Read `sacct --noheader --parsable2 --format=JobID,State,ExitCode,NodeList,Reason`; steps are left out.

    A requeued job has a line for each of its starts (`--duplicates`), the newest last.
    """
    return {element.name: element for element in _rows(text, ("name", "state", "exit", "nodes", "reason"))}


def _rows(text: str, columns: Sequence[str]) -> Iterator[Element]:
    for line in text.splitlines():
        cells = dict(zip(columns, line.split("|"), strict=False))
        if len(cells) < len(columns) or "." in cells["name"]:
            continue
        for name in expand(cells["name"].strip()):
            yield Element(
                name,
                base_state(cells["state"]),
                _said(cells["reason"]),
                _said(cells["nodes"]),
                _said(cells.get("exit", "")),
            )


def parse_scontrol(text: str) -> dict[str, Element]:
    """Read `scontrol --oneliner show job`: a line for each element, `Key=value` apart by blanks."""
    found = {}
    for line in text.splitlines():
        cells = dict(re.findall(r"(?:^|\s)(\w[\w:/]*)=(\S*)", line))
        if "JobId" not in cells or "JobState" not in cells:
            continue
        array, index = cells.get("ArrayJobId"), cells.get("ArrayTaskId", "")
        listed = f"{array}_{index if index.isdigit() else f'[{index}]'}" if array else cells["JobId"]
        for name in expand(listed):
            reason, nodes = _said(cells.get("Reason", "")), _said(cells.get("NodeList", ""))
            found[name] = Element(name, base_state(cells["JobState"]), reason, nodes, cells.get("ExitCode", ""))
    return found


def look(elements: Iterable[str]) -> dict[str, Element]:
    """Ask for these elements; those that the controller has forgotten are left out.

    Raises:
        SilentError: the controller does not answer.
    """
    wanted = set(elements)
    jobs = sorted({name.partition("_")[0] for name in wanted})
    if not jobs:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N", f"--jobs={','.join(jobs)}"]
    try:
        found = parse_squeue(ask(*command))
    except RefusedError as error:  # squeue refuses a number that it does not know only when it is the only one
        if _GONE not in str(error).lower():
            raise SilentError(str(error)) from None
        return {}
    return {name: element for name, element in found.items() if name in wanted}


def ended(name: str) -> Element | None:
    """Ask how an element ended that is in the queue no more; None when nobody knows.

    Raises:
        SilentError: neither the accounting nor the controller answers.
    """
    columns = "--format=JobID,State,ExitCode,NodeList,Reason"
    if accounting():
        with suppress(RefusedError):  # then the controller may know
            text = ask("sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", columns, f"--jobs={name}")
            if found := parse_sacct(text).get(name):
                return found
    try:
        return parse_scontrol(ask("scontrol", "--oneliner", "show", "job", name)).get(name)
    except RefusedError:
        return None


@cache
def accounting() -> bool:
    """Whether the cluster keeps accounts of its jobs."""
    try:
        ask("sacct", "--noheader", "--parsable2", "--format=JobID", "--starttime=now")
    except RefusedError:
        return False
    return True


def known(study: Path) -> dict[Path, str]:
    """Say in words where each run of the study is in the queue; empty, and quickly, where there is no SLURM."""
    elements = record.newest(study)
    if not elements or not here():
        return {}
    try:
        found = look(elements.values())
    except SilentError:
        return {}
    live = {path: found[name] for path, name in elements.items() if name in found and found[name].live}
    return {path: element.words for path, element in live.items()}
