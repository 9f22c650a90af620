"""Price every preset at its published input, in a process of its own, first with an empty cache and then from it.

    python benchmarks/zoo.py

Prints seconds, the highest resident memory and the five slowest. The goal is under 60 s on two cores and under 2 GB.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from repro.console import console
from repro.cost.count import own_price
from repro.models.presets import load_preset
from repro.paths import options

MAC_OS = sys.platform == "darwin"


def measure() -> None:
    """Price all presets in this process and print what it took as JSON."""
    seconds = {}
    start = time.perf_counter()
    for name in options("model"):
        before = time.perf_counter()
        own_price(load_preset(name))
        seconds[name] = time.perf_counter() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if MAC_OS else 1024)
    print(
        json.dumps({"total": time.perf_counter() - start, "cpu": time.process_time(), "peak": peak, "seconds": seconds})
    )


def main() -> None:
    from rich.table import Table

    table = Table("cache", "presets", "seconds", "CPU seconds", "peak memory GB", "slowest five (seconds)")
    with tempfile.TemporaryDirectory() as cache:
        for state in ("empty", "full"):
            command = [sys.executable, "-W", "ignore", __file__, "--measure"]
            run = subprocess.run(command, env={**os.environ, "REPRO_CACHE": cache}, stdout=subprocess.PIPE, check=True)
            found = json.loads(run.stdout)
            slowest = sorted(found["seconds"].items(), key=lambda item: -item[1])[:5]
            names = ", ".join(f"{name} {seconds:.2f}" for name, seconds in slowest)
            count = str(len(found["seconds"]))
            table.add_row(
                state, count, f"{found['total']:.2f}", f"{found['cpu']:.2f}", f"{found['peak'] / 1e9:.2f}", names
            )
    console().print(table)


if __name__ == "__main__":
    measure() if "--measure" in sys.argv else main()
