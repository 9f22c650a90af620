"""Step time of our run (Trainer, metrics, records) over a bare PyTorch loop: same network, same batches, one process.

    python benchmarks/step.py [ROUNDS]

Both train the same epochs of resnet20 and resnet56 (first width 8) on digits; rounds alternate, and the ratio of the
medians is printed. The goal is at most 1.03.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from repro.compose import compose
from repro.config import RunConfig
from repro.data import load
from repro.models import build
from repro.optim.schedules import build_schedule
from repro.train import train

NARROW = ["scale=laptop", "model.stem_width=8", "model.widths=[8,16,32]", "recipe.duration=6ep"]


def bare(config: RunConfig) -> float:
    """Seconds a step of a plain loop: no metrics, no records, the same schedule and loader."""
    torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.seed)
    net = build(config.model, config.data.channels, config.data.classes).to(memory_format=torch.channels_last)
    recipe = config.recipe
    splits = load(
        config.data, batch_size=recipe.batch_size, seed=config.seed, device=torch.device("cpu"), channels_last=True
    )
    optimizer = torch.optim.SGD(
        net.parameters(), lr=recipe.lr, momentum=recipe.optimizer.momentum, nesterov=recipe.optimizer.nesterov,
        weight_decay=recipe.weight_decay, foreach=True,
    )  # fmt: skip
    schedule = build_schedule(recipe, len(splits.train))
    net.train()
    step, begin = 0, time.perf_counter()
    while step < schedule.total:
        splits.train.sampler.set_epoch(step // len(splits.train))
        for images, labels in splits.train:
            optimizer.param_groups[0]["lr"] = schedule(step)
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
            step += 1
    return (time.perf_counter() - begin) / step


def ours(config: RunConfig) -> float:
    """Seconds a step of a whole run's training clock."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        timing = train(config, Path(folder)).timing
    assert timing is not None
    return timing.train / timing.steps


def main(rounds: int = 5) -> None:
    """Print one line for each network."""
    for name in ("resnet20", "resnet56"):
        config = compose([f"model={name}", *NARROW])
        bare(config), ours(config)
        pairs = [(bare(config), ours(config)) for _ in range(rounds)]
        plain, run = (statistics.median(column) for column in zip(*pairs, strict=True))
        each = ", ".join(f"{second / first:.3f}" for first, second in pairs)
        print(f"{name}: bare {plain * 1e3:.2f} ms, run {run * 1e3:.2f} ms a step, ratio {run / plain:.3f} ({each})")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
