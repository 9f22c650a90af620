"""What a tracker costs a run: seconds that each adds to a small run, with servers that answer, are gone, or are mute.

    python benchmarks/tracking.py [REPEATS]

Trains one small run REPEATS times (3) with each tracker, each in a process of its own, the trackers in turn, and prints
a Markdown table: the median of a whole run's seconds without the imports of torch and Lightning, the spread, and what
is beyond the run with the CSV file alone. Servers are on 127.0.0.1; nothing leaves the machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.dead_servers import black_hole, refused, silent  # noqa: E402
from tests.wandb_stub import KEY, WandbStub  # noqa: E402

RUN = ["model=resnet20", "model.stem_width=4", "model.widths=[4,8,8]", "scale=smoke", "recipe.duration=5ep"]

TRAIN = """
import sys, time, warnings
from pathlib import Path
from repro.compose import compose
from repro.train import train
warnings.simplefilter("ignore")
config = compose(sys.argv[2:])
begin = time.perf_counter()
train(config, Path(sys.argv[1]))
print("SECONDS", time.perf_counter() - begin)
"""


@contextmanager
def nothing() -> Iterator[str]:
    """No server."""
    yield ""


@contextmanager
def answering() -> Iterator[str]:
    """A server that takes everything."""
    with WandbStub() as stub:
        yield stub.url


CASES: dict[str, tuple[str, Callable[[], AbstractContextManager[str]], bool]] = {
    "csv": ("csv", nothing, False),
    "tensorboard": ("tensorboard", nothing, False),
    "wandb offline (no key)": ("wandb", nothing, False),
    "wandb online": ("wandb", answering, True),
    "wandb, connection refused": ("wandb", refused, True),
    "wandb, black hole": ("wandb", black_hole, True),
    "wandb, silent server": ("wandb", silent, True),
}


def seconds(logger: str, url: str, key: bool) -> float:
    """Train the run in a process of its own; returns the seconds that it says."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment |= {"HOME": folder} | ({"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY} if key else {})
        command = [sys.executable, "-c", TRAIN, f"{folder}/run", *RUN, f"logger={logger}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    return float(done.stdout.split("SECONDS")[1])


def measure(repeats: int) -> dict[str, list[float]]:
    """Measure every case, in turn, so that a slow minute of the machine is everyone's."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repeats):
        for name, (logger, server, key) in CASES.items():
            with server() as url:
                found[name].append(seconds(logger, url, key))
    return found


def main(repeats: int = 3) -> None:
    """Print the table."""
    found = measure(repeats)
    alone = statistics.median(found["csv"])
    print(f"A run of 5 epochs on digits, {repeats} times each; load before: {os.getloadavg()[0]:.1f}\n")
    print("| tracker | seconds, median | lowest to highest | beyond csv |\n| :-- | --: | --: | --: |")
    for name, times in found.items():
        middle = statistics.median(times)
        print(f"| {name} | {middle:.2f} | {min(times):.2f} to {max(times):.2f} | {middle - alone:+.2f} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
