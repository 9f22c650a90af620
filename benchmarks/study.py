"""What a study costs beyond its training: wall time over training time, and the start-up of the reading verbs.

    python benchmarks/study.py [ABLATION] [SCALE]

Runs the study in a fresh folder and prints ratios. `wall x runs at a time / sum of training` is the goal of 1.15.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from repro.environment import cores

REPRO = [sys.executable, "-m", "repro"]


def timed(arguments: list[str], environment: dict[str, str]) -> float:
    """Seconds that a command takes."""
    begin = time.perf_counter()
    subprocess.run([*REPRO, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begin


def main(ablation: str = "plain_vs_residual", scale: str = "laptop") -> None:
    """Run the study once and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "REPRO_RUNS": folder}
        wall = timed(["run", ablation, f"scale={scale}"], environment)
        timings = [json.loads(path.read_text())["timing"] for path in Path(folder).rglob("result.json")]
        verbs = ("list", f"show {ablation}")
        fastest = {verb: min(timed(verb.split(), environment) for _ in range(5)) for verb in verbs}
    width = min(cores(), len(timings))
    train, evaluate, total = (sum(timing[key] for timing in timings) for key in ("train", "evaluate", "total"))
    print(f"{ablation} at scale {scale}: {len(timings)} runs, {width} at a time, wall {wall:.1f} s")
    print(f"sum of training steps {train:.1f} s, of evaluation {evaluate:.1f} s, of whole runs {total:.1f} s")
    print(f"wall x {width} / sum of training               {wall * width / train:.3f}   (goal 1.15)")
    print(f"wall x {width} / sum of training + evaluation  {wall * width / (train + evaluate):.3f}")
    print(f"wall / sum of training                    {wall / train:.3f}")
    for verb, seconds in fastest.items():
        print(f"repro {verb:30} {seconds:.2f} s   (goal 0.7)")


if __name__ == "__main__":
    main(*sys.argv[1:])
