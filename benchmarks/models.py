"""Forward and training-step time of our residual presets over timm's and torchvision's same networks, in one process.

    python benchmarks/models.py [--rounds 15] [--size 96] [--batch 8] [--compile] [--only resnet50,nfnet_f0]

Both networks take turns, call by call, and the median of the paired ratios is printed: at most 1.02 is the goal. On a
GPU it runs in bf16 autocast; on a CPU in float32; channels_last in both. `--compile` adds torch.compile's rows, which
take minutes to compile on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from repro.models import build
from repro.models.presets import load_preset

TWINS = {
    "resnet18": ("torchvision", "resnet18"),
    "resnet50": ("torchvision", "resnet50"),
    "resnext50_32x4d": ("torchvision", "resnext50_32x4d"),
    "resnet50d": ("timm", "resnet50d"),
    "seresnet50": ("timm", "seresnet50"),
    "preresnet50": ("timm", "resnetv2_50"),
    "resnetrs50": ("timm", "resnetrs50"),
    "regnetx_016": ("torchvision", "regnet_x_1_6gf"),
    "regnety_016": ("timm", "regnety_016"),
    "nf_resnet50": ("timm", "nf_resnet50"),
    "nfnet_f0": ("timm", "dm_nfnet_f0"),
}
"""Our preset: the library and its name there."""

AXES: dict[str, dict[str, Any]] = {"nf_resnet50": {"skip_init": False, "shortcut": "D"}}
"""What makes a preset the library's network, where the library deviates from the paper."""


@dataclass(frozen=True)
class Case:
    """One network at work: `forward` in evaluation, `step` a whole training step."""

    forward: Callable[[], Tensor]
    step: Callable[[], None]


def case(network: nn.Module, images: Tensor, compiled: bool) -> Case:
    """Prepare a network for both measurements."""
    device = images.device
    network = network.to(device=device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9, foreach=True)
    labels = torch.arange(len(images), device=device)
    work: nn.Module = torch.compile(network) if compiled else network  # type: ignore[assignment]
    precision = partial(torch.autocast, "cuda", torch.bfloat16) if device.type == "cuda" else nullcontext

    def forward() -> Tensor:
        network.eval()
        with torch.inference_mode(), precision():
            return work(images)

    def step() -> None:
        network.train()
        optimizer.zero_grad()
        with precision():
            loss = F.cross_entropy(work(images), labels)
        loss.backward()
        optimizer.step()

    return Case(forward, step)


def seconds(call: Callable[[], object]) -> float:
    """Time one call, with everything that it started on a device."""
    begin = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def compare(mine: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Return both medians in milliseconds and the median of the paired ratios; who goes first changes every round."""
    for call in (mine, theirs) * 3:
        seconds(call)
    pairs = []
    for number in range(rounds):
        first, second = (mine, theirs) if number % 2 else (theirs, mine)
        times = {first: seconds(first), second: seconds(second)}
        pairs.append((times[mine], times[theirs]))
    ours, other = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    return ours, other, statistics.median(a / b for a, b in pairs)


def rows(names: list[str], size: int, batch: int, rounds: int, compiled: bool) -> Iterator[str]:
    """Measure one line after the other."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    for name in names:
        source, twin = TWINS[name]
        library = torchvision.models.get_model if source == "torchvision" else timm.create_model
        mine = case(build(load_preset(name, **AXES.get(name, {})), 3, 1000), images, compiled)
        theirs = case(library(twin), images, compiled)
        for what in ("forward", "step"):
            ours, other, ratio = compare(getattr(mine, what), getattr(theirs, what), rounds)
            mode = "compiled" if compiled else "eager"
            label = f"{source}/{twin}"
            yield f"| {name} | {label} | {mode} {what} | {ours:.1f} | {other:.1f} | {ratio:.3f} |"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", default=",".join(TWINS))
    options = parser.parse_args()
    torch.manual_seed(0)
    print("| ours | theirs | what | ours ms | theirs ms | ratio |\n| --- | --- | --- | ---: | ---: | ---: |")
    for compiled in (False, True) if options.compile else (False,):
        for row in rows(options.only.split(","), options.size, options.batch, options.rounds, compiled):
            print(row, flush=True)


if __name__ == "__main__":
    main()
