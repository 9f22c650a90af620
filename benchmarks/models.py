"""Forward and training-step time of our residual presets over timm's and torchvision's same networks, in one process.

    python benchmarks/models.py [--rounds 15] [--size 96] [--batch 8] [--compile] [--same] [--only resnet50,nfnet_f0]

Both networks take turns, call by call, and the median of the paired ratios is printed: at most 1.02 is the goal. On a
GPU it runs in bf16 autocast; on a CPU in float32; channels_last in both. `--compile` adds torch.compile's rows, which
take minutes to compile on a CPU; `--same` measures the noise, a library's network against itself.
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


def paired(mine: Callable[[], object], theirs: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Time both in turns, in milliseconds; who goes first changes every round."""
    for call in (mine, theirs) * 3:
        seconds(call)
    pairs = []
    for number in range(rounds):
        first, second = (mine, theirs) if number % 2 else (theirs, mine)
        times = {first: seconds(first), second: seconds(second)}
        pairs.append((times[mine] * 1e3, times[theirs] * 1e3))
    return pairs


def library_network(name: str) -> nn.Module:
    """Build the library's network of the same name."""
    source, twin = TWINS[name]
    return torchvision.models.get_model(twin) if source == "torchvision" else timm.create_model(twin)


def rows(names: list[str], size: int, batch: int, rounds: int, compiled: bool, same: bool) -> Iterator[str]:
    """Measure one line after the other.

    Each pair is built twice, once in either order: where a network lies in memory is worth some per cent.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    for name in names:
        builders = {
            "mine": partial(library_network, name)
            if same
            else lambda name=name: build(load_preset(name, **AXES.get(name, {})), 3, 1000),
            "theirs": partial(library_network, name),
        }
        found: dict[str, list[tuple[float, float]]] = {"forward": [], "step": []}
        for order in (("mine", "theirs"), ("theirs", "mine")):
            cases = {who: case(builders[who](), images, compiled) for who in order}
            for what, pairs in found.items():
                pairs += paired(getattr(cases["mine"], what), getattr(cases["theirs"], what), rounds)
        for what, pairs in found.items():
            ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            label = f"{'/'.join(TWINS[name])} | {'compiled' if compiled else 'eager'} {what}"
            yield f"| {name} | {label} | {ours:.1f} | {other:.1f} | {ratio:.3f} |"


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--same", action="store_true", help="the library's network against itself: the noise")
    parser.add_argument("--only", default=",".join(TWINS))
    options = parser.parse_args()
    torch.manual_seed(0)
    print("| ours | theirs | what | ours ms | theirs ms | ratio |\n| --- | --- | --- | ---: | ---: | ---: |")
    for compiled in (False, True) if options.compile else (False,):
        for row in rows(options.only.split(","), options.size, options.batch, options.rounds, compiled, options.same):
            print(row, flush=True)


if __name__ == "__main__":
    main()
