"""Step time of our run (Trainer, metrics, records, averaging) over a bare PyTorch loop: same network, same batches.

    python benchmarks/training.py [--rounds 6] [--seconds 1.5] [--threads 1] [--only resnet20]
    python benchmarks/training.py --gpu

In one process the loops take turns, each with a network and loaders built anew; who goes first changes every round, as
where a network lies in memory is worth 1 to 3 %. A turn's first steps are not timed; all that follows is: epoch ends,
records and progress of our run too, but no evaluation, which the others do not have. The ratio is the median over
rounds of a loop's step time to the bare loop's of the same round, and to the bare loop with the same average where the
weights are averaged; of wall time and of the process's CPU time, which other processes disturb less (with --gpu it is
the host's work). `usual`: what torchvision's reference script does in every step, the loss and accuracies read by the
host. The goal is at most 1.03 for `run`, and at most 2 % of a step for the loader (order, crop and flip).

GMACs/s counts three forward passes a step. On the CPU in float32 with channels_last; with --gpu in bf16 autocast,
channels_last and the fused optimiser, ImageNet's networks on synthetic images that lie on the device, eager and
compiled, beside the share of the device's peak (two FLOPs a MAC; see PEAKS for what is assumed).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.compose import compose
from repro.config import RunConfig
from repro.cost.count import cached_price
from repro.data import Splits, load
from repro.data.order import Shuffle
from repro.models import build
from repro.optim.config import EmaConfig
from repro.optim.ema import Ema
from repro.optim.optimizers import build_optimizer
from repro.optim.schedules import build_schedule
from repro.training.callbacks import Clock
from repro.training.heartbeat import Heart
from repro.training.pieces import assemble, prepare_torch

WARM = 3
"""First steps of a turn, which are not timed."""

PEAKS = {
    "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0,
    "RTX 4090": 165.0, "RTX 3090": 71.0, "V100": 125.0, "T4": 65.0,
}  # fmt: skip
"""Peak TFLOP/s by a part of the device's name: the maker's dense bf16 figure, fp16 for V100 and T4, which lack it."""

CIFAR = ("data=shapes", "data.size=32", "recipe=he2015_cifar", "recipe.batch_size=32")
FEWER = "recipe.batch_size=16"
IMAGENET = ("data=imagenet", "data.val=0", "recipe=xie2017_imagenet", "recipe.batch_size=256")


@dataclass(frozen=True)
class Case:
    """A network on data, and where the images come from: the data set's loader, or one batch again and again."""

    name: str
    overrides: tuple[str, ...]
    synthetic: bool = False


CPU_CASES = (
    Case("resnet20, width 8, digits 8", ("model=resnet20", "model.stem_width=8", "model.widths=[8,16,32]")),
    Case("resnet20, 32", ("model=resnet20", *CIFAR)),
    Case("resnet56, 32", ("model=resnet56", *CIFAR)),
    Case("resnext29 8x8d (64d narrowed), 32", ("model=resnext29_8x64d", "model.width_per_group=8", *CIFAR, FEWER)),
)
GPU_CASES = (
    Case("resnet20, 32", ("model=resnet20", *CIFAR, "recipe.batch_size=128")),
    Case("resnet56, 32", ("model=resnet56", *CIFAR, "recipe.batch_size=128")),
    Case("resnet50, 224", ("model=resnet50", *IMAGENET), synthetic=True),
    Case("resnext50_32x4d, 224", ("model=resnext50_32x4d", *IMAGENET), synthetic=True),
)


@dataclass(frozen=True)
class Task:
    """One case on one device, for so many timed steps."""

    case: Case
    config: RunConfig
    device: torch.device

    def lasting(self, steps: int) -> Task:
        """Return the task with that many timed steps."""
        return self._with(duration=f"{WARM + steps}st")

    def averaged(self, decay: float | None) -> Task:
        """Return the task with or without an average of the weights."""
        return self._with(ema=EmaConfig(decay=decay))

    def _with(self, **changes: Any) -> Task:
        recipe = self.config.recipe.model_copy(update=changes)
        return replace(self, config=self.config.model_copy(update={"recipe": recipe}))

    def loading(self) -> Callable[..., Splits]:
        """What makes the splits."""
        return synthetic_splits if self.case.synthetic else load


class _Repeated:
    """A loader that gives one batch on the device again and again."""

    def __init__(self, batch: tuple[Tensor, Tensor], steps: int) -> None:
        self.batch = batch
        self.steps = steps
        self.sampler = Shuffle(steps, 0)

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([self.batch] * self.steps)


def synthetic_splits(data: Any, *_: Any, batch_size: int, device: torch.device, **__: Any) -> Splits:
    """Make splits of random images, normalised, `(N, C, H, W)` in channels_last, that lie on the device."""
    images = torch.randn(batch_size, data.channels, data.size, data.size, device=device)
    labels = torch.randint(0, data.classes, (batch_size,), device=device)
    train_loader = _Repeated((images.to(memory_format=torch.channels_last), labels), 1000)
    empty: Any = []
    sizes = {"train": 1000 * batch_size, "val": 0, "test": 0}
    return Splits(train_loader, empty, empty, sizes, "synthetic", data.channels, data.size, data.classes)


@dataclass(frozen=True)
class Seconds:
    """Wall time, and CPU time of this process."""

    wall: float
    cpu: float

    def __sub__(self, earlier: Seconds) -> Seconds:
        return Seconds(self.wall - earlier.wall, self.cpu - earlier.cpu)

    def __truediv__(self, steps: int) -> Seconds:
        return Seconds(self.wall / steps, self.cpu / steps)


def clock(device: torch.device) -> Seconds:
    """Read the clocks when the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Seconds(time.perf_counter(), time.process_time())


class Stopwatch(L.Callback):
    """Times a fit from the end of its first steps to its end."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begin = self.end = Seconds(0.0, 0.0)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin after the first steps."""
        if trainer.global_step == WARM:
            self.begin = clock(self.device)

    def on_train_end(self, *_: Any) -> None:
        """Stop."""
        self.end = clock(self.device)


def ours(task: Task) -> Seconds:
    """Seconds a step of a run: the Trainer, with metrics, schedule and records, without evaluation."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    loading = mock.patch("repro.training.datamodule.load", task.loading())
    with tempfile.TemporaryDirectory() as name, quiet, loading, Heart(Path(name)) as heart:
        prepare_torch(task.config)
        pieces = assemble(task.config, Path(name), Clock(), heart, None)
        watch = Stopwatch(task.device)
        pieces.trainer.callbacks.append(watch)
        pieces.trainer.limit_val_batches = 0
        pieces.trainer.fit(pieces.module, datamodule=pieces.data)
        pieces.data.close()
        return (watch.end - watch.begin) / (pieces.trainer.global_step - WARM)


def set_up(task: Task) -> tuple[nn.Module, Splits]:
    """Build the network on the device and the loaders, for a loop by hand."""
    config = task.config
    torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.seed)
    net = build(config.model, config.data.channels, config.data.classes).to(memory_format=torch.channels_last)
    net = net.to(task.device).train()
    if config.trainer.compile:
        net.compile()
    splits = task.loading()(
        config.data, config.recipe.augment, config.recipe.evaluation,
        batch_size=config.recipe.batch_size, seed=config.seed, device=task.device, channels_last=True,
    )  # fmt: skip
    return net, splits


def precision(task: Task) -> AbstractContextManager[Any]:
    """Autocast as the run's precision has it."""
    mixed = task.config.trainer.precision == "bf16-mixed"
    return torch.autocast(task.device.type, torch.bfloat16) if mixed else nullcontext()


def batches(splits: Splits, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through as many epochs as the steps take."""
    for step in range(0, steps, len(splits.train)):
        splits.train.sampler.set_epoch(step // len(splits.train))
        for _, batch in zip(range(min(steps - step, len(splits.train))), splits.train, strict=False):
            yield batch


def by_hand(task: Task, reads: bool = False) -> Seconds:
    """Time a step of a plain loop with the recipe's optimiser, schedule and, where it has one, average.

    `reads`: the host reads loss, top-1 and top-5 of every batch, as usual scripts do.
    """
    net, splits = set_up(task)
    recipe = task.config.recipe
    optimizer = build_optimizer(net, recipe, fused=task.config.trainer.fused)
    schedule = build_schedule(recipe, len(splits.train))
    average = Ema(net, recipe.ema) if recipe.ema.decay is not None else None
    sums = [0.0, 0.0, 0.0]
    begin = Seconds(0.0, 0.0)
    for step, (images, labels) in enumerate(batches(splits, schedule.total)):
        if step == WARM:
            begin = clock(task.device)
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        optimizer.zero_grad()
        with precision(task):
            logits = net(images)
            loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        if average is not None:
            average.update(net, step + 1)
        if reads:
            hits = logits.detach().topk(5).indices == labels[:, None]
            found = loss.item(), hits[:, 0].sum().item(), hits.sum().item()
            sums = [total + value for total, value in zip(sums, found, strict=True)]
    return (clock(task.device) - begin) / (schedule.total - WARM)


def loader_seconds(task: Task, epochs: int = 3) -> float:
    """Seconds a step that the training loader takes alone: the median of whole epochs, with what begins them."""
    _, splits = set_up(task)
    found = []
    for epoch in range(epochs + 1):
        splits.train.sampler.set_epoch(epoch)
        begin = clock(task.device)
        for _ in splits.train:
            pass
        found.append(((clock(task.device) - begin) / len(splits.train)).wall)
    return statistics.median(found[1:])


Loops = dict[str, tuple[Callable[[Task], Seconds], float | None, str]]
DECAY = 0.999
LOOPS: Loops = {
    "bare": (by_hand, None, "bare"),
    "run": (ours, None, "bare"),
    "usual": (partial(by_hand, reads=True), None, "bare"),
    "bare, averaged": (by_hand, DECAY, "bare, averaged"),
    "run, averaged": (ours, DECAY, "bare, averaged"),
}
"""A loop, the decay of its average, and the loop that it is compared with."""


def measure(task: Task, rounds: int, seconds: float) -> dict[str, list[Seconds]]:
    """Time the loops in turns that last about `seconds`; an odd round goes through them in the reverse order."""
    first = by_hand(task.lasting(2))
    task = task.lasting(max(5, round(seconds / first.wall)))
    found: dict[str, list[Seconds]] = {name: [] for name in LOOPS}
    for number in range(rounds):
        for name in list(LOOPS)[:: -1 if number % 2 else 1]:
            loop, decay, _ = LOOPS[name]
            found[name].append(loop(task.averaged(decay)))
    return found


def rows(task: Task, rounds: int, seconds: float) -> Iterator[str]:
    """Measure one case and write a line for each loop, and one for its loader."""
    config = task.config
    cost = cached_price(config.model, config.data.size, config.data.channels, config.data.classes)
    found = measure(task, rounds, seconds)
    compiled = ", compiled" if config.trainer.compile else ""
    for name, (_, _, base) in LOOPS.items():
        step = statistics.median(turn.wall for turn in found[name])
        rate = config.recipe.batch_size / step
        gmacs = rate * cost.training_macs / 1e9
        cells = [task.case.name + compiled, name, f"{step * 1e3:.2f}", f"{rate:,.0f}", f"{gmacs:,.1f}"]
        cells += [_ratio(found[name], found[base], clock_name) for clock_name in ("wall", "cpu")]
        yield _line([*cells, *share_of_peak(task.device, gmacs)])
    if not task.case.synthetic:
        alone = loader_seconds(task)
        share = alone / statistics.median(turn.wall for turn in found["bare"])
        cells = [task.case.name, "loader", f"{alone * 1e3:.2f}", f"{config.recipe.batch_size / alone:,.0f}", ""]
        yield _line([*cells, f"{share:.1%} of a step", "", *([""] if task.device.type == "cuda" else [])])


def _ratio(loop: list[Seconds], base: list[Seconds], clock_name: str) -> str:
    """Median and range over rounds of one loop's time to another's."""
    pairs = [getattr(one, clock_name) / getattr(other, clock_name) for one, other in zip(loop, base, strict=True)]
    return "1" if loop is base else f"{statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})"


def peak(device_name: str) -> float | None:
    """Return the assumed peak in TFLOP/s; None for a device that is not in the table."""
    return next((value for part, value in PEAKS.items() if part in device_name), None)


def share_of_peak(device: torch.device, gmacs: float) -> list[str]:
    """Say which share of the device's peak that is; nothing on a CPU, whose peak is not known."""
    if device.type != "cuda":
        return []
    limit = peak(torch.cuda.get_device_name())
    return ["unknown" if limit is None else f"{2 * gmacs / 1e3 / limit:.1%}"]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tasks(gpu: bool, threads: int, only: str) -> Iterator[Task]:
    """Compose the configs of what is measured; on a GPU eager and compiled."""
    device = torch.device("cuda" if gpu else "cpu")
    settings = ["trainer=gpu", "trainer.fused=true"] if gpu else ["trainer=cpu", f"trainer.threads={threads}"]
    for case in GPU_CASES if gpu else CPU_CASES:
        if only in case.name:
            for compiled in (False, True) if gpu else (False,):
                overrides = [*case.overrides, *settings, f"trainer.compile={compiled}", "trainer.deterministic=false"]
                yield Task(case, compose(overrides), device)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long a turn lasts, about")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args()
    if min(options.rounds, options.seconds, options.threads) <= 0:
        parser.error("--rounds, --seconds and --threads must be more than 0")
    if not any(options.only in case.name for case in (GPU_CASES if options.gpu else CPU_CASES)):
        parser.error(f"--only {options.only}: no case has this in its name")
    if options.gpu and not torch.cuda.is_available():
        parser.error("--gpu needs a CUDA device, and torch finds none")
    if options.gpu:
        name = torch.cuda.get_device_name()
        print(f"{name}: assumed peak {peak(name) or 'unknown'} TFLOP/s in bf16 (dense)\n")
    columns = ["network", "loop", "step ms", "images/s", "GMACs/s", "wall / bare (range)", "CPU / bare (range)"]
    columns += ["share of peak"] if options.gpu else []
    print(_line(columns) + "\n" + _line(["---", "---", *["---:"] * (len(columns) - 2)]))
    for task in tasks(options.gpu, options.threads, options.only):
        for row in rows(task, options.rounds, options.seconds):
            print(row, flush=True)


if __name__ == "__main__":
    main()
