"""A fault campaign: small studies are disturbed at random until they are done, and compared with an undisturbed one.

    python benchmarks/faults.py [--launcher local|slurm] [--events 100] [--seed 0] [--launchers 2]

Events are SIGKILL, SIGTERM, SIGUSR1 and SIGUSR2 to a run, SIGKILL, SIGTERM and SIGINT to a launcher, requeueing on
SLURM, and a disk that is full for a while (a small file system of its own, which needs root). Prints a Markdown table;
exit status 1 when a run was lost, trained twice or ended otherwise, or a file cannot be read.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fault_study import Damage, damage, directories, planned, write_table

from repro import attempts, folder
from repro.study import Study

sys.path.append(str(Path(__file__).resolve().parents[1]))

REPRO = [sys.executable, "-m", "repro"]
WORDS = ("checkpoint.every=0.02", "launcher.retries=1000")
CAPACITY = "64m"  # of the disk that is filled

Event = Callable[["Campaign"], bool]
"""Disturbs the campaign; false when there was nothing to disturb."""


@dataclass
class Campaign:
    """One study that is disturbed, and the launchers that work at it."""

    study: Study
    table: Path
    runs: Path
    launcher: str
    width: int
    chance: random.Random
    seeds: int
    launchers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    restarts: int = 0

    def tend(self) -> bool:
        """Start a launcher again that has ended before the study; false when every run is done."""
        if all(folder.state(directory) in folder.DONE for directory in directories(self.study, self.runs)):
            return False
        self.launchers = [process for process in self.launchers if process.poll() is None]
        while len(self.launchers) < self.width:
            self.launchers.append(self._start())
            self.restarts += 1
        return True

    def _start(self) -> subprocess.Popen[bytes]:
        words = [f"seeds={self.seeds}", "scale=laptop", f"launcher={self.launcher}", *WORDS]
        environment = {**os.environ, "REPRO_RUNS": str(self.runs)}
        log = self.runs.parent / f"{self.runs.name}-launchers.log"
        with log.open("ab") as output:
            return subprocess.Popen(
                [*REPRO, "run", str(self.table), *words], stdout=output, stderr=output, env=environment
            )

    def victims(self) -> list[int]:
        """Processes that train a run now."""
        found = []
        for directory in directories(self.study, self.runs):
            begun = attempts.read(directory)
            if begun and begun[-1].end is None and folder.is_alive(directory):
                found.append(begun[-1].pid)
        return found

    def wait(self) -> None:
        """Let the launchers end by themselves."""
        for process in self.launchers:
            process.wait(timeout=120)


def to_run(number: signal.Signals) -> Event:
    """Send a signal to a run."""
    return lambda campaign: _send(campaign, campaign.victims(), number)


def to_launcher(number: signal.Signals) -> Event:
    """Send a signal to a launcher."""
    return lambda campaign: _send(campaign, [process.pid for process in campaign.launchers], number)


def _send(campaign: Campaign, processes: list[int], number: signal.Signals) -> bool:
    if not processes:
        return False
    try:
        os.kill(campaign.chance.choice(processes), number)
    except ProcessLookupError:
        return False
    return True


def fill_disk(campaign: Campaign) -> bool:
    """Fill the file system of the runs for a while."""
    if not campaign.runs.is_mount():
        return False
    filler = campaign.runs / ".filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                continue
    except OSError:
        time.sleep(campaign.chance.uniform(0.3, 2.0))
    finally:
        filler.unlink(missing_ok=True)
    return True


def requeue(campaign: Campaign) -> bool:
    """Let SLURM take a running job back into its queue."""
    listed = subprocess.run(["squeue", "-h", "-t", "R", "-o", "%A"], capture_output=True, text=True, check=False)
    jobs = listed.stdout.split()
    return (
        bool(jobs)
        and subprocess.run(["scontrol", "requeue", campaign.chance.choice(jobs)], check=False).returncode == 0
    )


EVENTS: dict[str, Event] = {
    "KILL a run": to_run(signal.SIGKILL),
    "TERM a run": to_run(signal.SIGTERM),
    "USR1 a run": to_run(signal.SIGUSR1),
    "USR2 a run": to_run(signal.SIGUSR2),
    "KILL a launcher": to_launcher(signal.SIGKILL),
    "TERM a launcher": to_launcher(signal.SIGTERM),
    "INT a launcher": to_launcher(signal.SIGINT),
    "disk full": fill_disk,
}


@contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A folder that is a small file system of its own where root may mount one, and a plain folder elsewhere."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={CAPACITY}", "tmpfs", str(path)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield path
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=False)


def heed_ctrl_c() -> None:
    """Let the launchers be interrupted also where this script was started in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def disturb(campaign: Campaign, events: dict[str, Event], most: int, pause: float) -> Counter[str]:
    """Disturb the study until it is done, with at most that many events."""
    counted: Counter[str] = Counter()
    while campaign.tend():
        time.sleep(campaign.chance.uniform(0.2, 2 * pause))
        name = campaign.chance.choices(list(events), [1 if "launcher" in name else 3 for name in events])[0]
        if counted.total() < most and events[name](campaign):
            counted[name] += 1
    campaign.wait()
    return counted


def undisturbed(table: Path, runs: Path, seeds: int) -> None:
    """Train the study once in peace, on this machine."""
    words = [f"seeds={seeds}", "scale=laptop"]
    environment = {**os.environ, "REPRO_RUNS": str(runs)}
    subprocess.run([*REPRO, "run", str(table), *words], check=True, stdout=subprocess.DEVNULL, env=environment)


def cluster(stack: ExitStack, launcher: str) -> dict[str, Event]:
    """Start SLURM where it is asked for; returns the events that may happen."""
    if launcher == "local":
        return EVENTS
    from tests.slurm_lab import Lab

    stack.enter_context(Lab(nodes=2, cpus=1))
    return EVENTS | {"requeue a job": requeue}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launcher", choices=("local", "slurm"), default="local")
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="seeds of a study, which has four rows")
    parser.add_argument("--epochs", type=int, default=30, help="length of a run")
    parser.add_argument("--launchers", type=int, default=1, help="at work at once on a study")
    parser.add_argument("--pause", type=float, default=1.5, help="mean seconds between two events")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the runs there, to look at them")
    return parser.parse_args()


def main() -> int:
    """Disturb studies until there were enough events; print the table."""
    options, counted, found = arguments(), Counter[str](), Damage()
    chance, begin, studies, restarts = random.Random(options.seed), time.monotonic(), 0, 0
    heed_ctrl_c()
    with ExitStack() as stack:
        base = Path(options.keep or stack.enter_context(tempfile.TemporaryDirectory())).resolve()
        base.mkdir(parents=True, exist_ok=True)
        table = write_table(base / "faults.yaml", options.epochs)
        undisturbed(table, base / "undisturbed", options.seeds)
        study = planned(table, base / "undisturbed", options.seeds)
        events = cluster(stack, options.launcher)
        while counted.total() < options.events:
            runs = stack.enter_context(small_disk(base / f"runs{studies}"))
            campaign = Campaign(study, table, runs, options.launcher, options.launchers, chance, options.seeds)
            happened = disturb(campaign, events, options.events - counted.total(), options.pause)
            hurt = damage(study, runs, base / "undisturbed")
            counted, found = counted + happened, found + hurt
            studies, restarts = studies + 1, restarts + campaign.restarts
            print(f"study {studies}: {happened.total()} events, {campaign.restarts} launchers, {hurt}", file=sys.stderr)
            if hurt:
                print("the runs: ", shutil.copytree(runs, tempfile.mkdtemp() + "/runs"), file=sys.stderr)
    seconds = time.monotonic() - begin
    print(f"| {options.launcher}: {studies} studies of {len(study.runs)} runs, {options.launchers} at work | |")
    print("| :-- | --: |")
    rows = {**dict(sorted(counted.items())), "events": counted.total(), "launchers started": restarts}
    rows |= {"runs lost": found.lost, "runs trained twice": found.twice, "different from undisturbed": found.different}
    rows |= {"unreadable files": found.unreadable, "left-over files": found.left_over, "seconds": round(seconds)}
    print("\n".join(f"| {name} | {value} |" for name, value in rows.items()))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
