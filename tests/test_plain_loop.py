"""A run is a plain PyTorch loop: the same losses step by step and the same weights, for each part of a recipe.

Bounds: equal bit for bit wherever the loop here does the same float32 operations in the same order; where it says the
same formula in other operations (an average, a norm, a batch in parts), to the relative bound that its case names.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro import folder
from repro.classifier import Batch, Classifier
from repro.compose import compose
from repro.config import RunConfig
from repro.data import Splits, load
from repro.models import build
from repro.models.auxiliary import Outputs
from repro.results import Result
from repro.train import train
from repro.training.checkpoint import State, load_weights
from tests.writers import write_cifar

pytestmark = pytest.mark.training

SMALL = ["model=resnet20", "model.depths=[1,1,1]", "model.stem_width=8", "model.widths=[8,16,32]"]
DIGITS = [
    "scale=laptop", "recipe.duration=30st", "recipe.batch_size=100", "recipe.lr=0.05", "recipe.weight_decay=1e-3",
    "recipe.optimizer.nesterov=false", "recipe.schedule.name=constant", "recipe.schedule.warmup=0%",
]  # fmt: skip
WITHOUT_NORM = [
    *SMALL, "model.order=pre", "model.norm=none", "model.alpha=0.2", "model.beta=true",
    "model.weight_standardization=true", "model.gamma=true",
]  # fmt: skip


@dataclass
class Trained:
    """What a training leaves: the loss of each step, the weights, the result of a run."""

    losses: list[float]
    weights: State
    result: Result


Harness = Callable[[list[str]], tuple[RunConfig, Trained]]


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Train as `repro train` does, in this process, and write down the loss of each step."""
    losses: list[Tensor] = []
    original = Classifier.training_step

    def recorded(self: Classifier, batch: Batch, batch_idx: int) -> Tensor:
        loss = original(self, batch, batch_idx)
        losses.append(loss.detach())
        return loss

    monkeypatch.setattr(Classifier, "training_step", recorded)

    def run(overrides: list[str]) -> tuple[RunConfig, Trained]:
        config, directory = compose(overrides), tmp_path / "run"
        result = train(config, directory)
        return config, Trained([float(loss) for loss in losses], load_weights(directory, "raw"), result)

    return run


def pieces(config: RunConfig) -> tuple[nn.Module, Splits]:
    """The network with its initial weights, and the loaders of the run."""
    torch.manual_seed(config.seed)
    net = build(config.model, config.data.channels, config.data.classes).to(memory_format=torch.channels_last)
    recipe = config.recipe
    return net, load(
        config.data, recipe.augment, recipe.evaluation,
        batch_size=recipe.batch_size, seed=config.seed, device=torch.device("cpu"), channels_last=True,
    )  # fmt: skip


def top1_error(net: nn.Module, splits: Splits) -> float:
    """Top-1 error in % on the test split."""
    net.eval()
    with torch.no_grad():
        hits = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in splits.test)
    return 100 * (1 - hits / splits.sizes["test"])


def assert_equal(found: State, expected: State, bound: float = 0.0) -> None:
    """Compare two states; the bound is relative to each tensor's largest value."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if bound == 0.0 or not value.is_floating_point():
            assert torch.equal(found[name], value), name
        else:
            gap = float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-3))
            assert gap <= bound, (name, gap)


def test_resnet20_trains_as_the_paper_writes_it_bit_for_bit(harness: Harness, tmp_path: Path) -> None:
    """He et al., CVPR 2016, section 4.2: SGD with momentum 0.9, weight decay 1e-4, lr 0.1 divided by 10 twice."""
    write_cifar(tmp_path, "cifar10", train_rows=176, test_rows=40)
    config, run = harness(
        [
            "model=resnet20", "data=cifar10", "recipe=he2015_cifar", f"data.root={tmp_path}", "data.val=16", "seed=3",
            "recipe.duration=200st", "recipe.batch_size=16",
        ]
    )  # fmt: skip

    net, splits = pieces(config)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    losses: list[float] = []
    net.train()
    for epoch in range(20):
        splits.train.sampler.set_epoch(epoch)
        for images, labels in splits.train:
            step = len(losses)
            optimizer.param_groups[0]["lr"] = 0.1 if step < 100 else 0.01 if step < 150 else 0.001
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    assert run.losses == losses
    assert len(losses) == 200
    assert_equal(run.weights, net.state_dict())
    assert run.result.last["test_top1_error"] == pytest.approx(top1_error(net, splits), abs=1e-3)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert run.result.timing is not None
    assert run.result.timing.steps == 200


def all_weights(net: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(net.parameters()), "weight_decay": 1e-3}]


def weights_of_layers_alone(net: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for matrices and filters; none for scales, shifts and biases."""
    return [
        {"params": [p for p in net.parameters() if p.ndim > 1], "weight_decay": 1e-3},
        {"params": [p for p in net.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]


def cosine_after_warmup(step: int) -> float:
    """From 0.02 to 0.1 in six steps, then half a cosine to 0 at step 30."""
    if step < 6:
        return 0.1 * (0.2 + 0.8 * step / 6)
    return 0.1 * 0.5 * (1 + math.cos(math.pi * (step - 6) / 24))


def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with 0.9 of the target on the label and 0.1 spread over all ten classes, written out."""
    log_p = logits.log_softmax(1)
    return (-0.9 * log_p[torch.arange(len(labels)), labels] - 0.1 * log_p.mean(1)).mean()


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of mixed targets, above 0.2 taken as 1: the mean over images and classes."""
    return F.binary_cross_entropy_with_logits(logits, (targets > 0.2).float())


def soft(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of mixed targets, written out."""
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def with_heads(outputs: Outputs, labels: Tensor) -> Tensor:
    """The loss of the network, and 0.3 of the loss of each auxiliary classifier."""
    return F.cross_entropy(outputs.logits, labels) + 0.3 * sum(F.cross_entropy(x, labels) for x in outputs.auxiliary)


def no_clip(net: nn.Module) -> bool:
    return True


def clip_global_norm(net: nn.Module) -> bool:
    """Scale all gradients so that their common norm is at most 0.5; say whether it was more."""
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in net.parameters()))
    for p in net.parameters():
        p.grad *= min(1.0, 0.5 / (norm + 1e-6))
    return norm > 0.5


def clip_adaptively(net: nn.Module) -> bool:
    """AGC (Brock et al., arXiv:2102.06171, equation 3), lambda 0.01, eps 1e-3: by filter, or by vector; whether any."""
    clipped = False
    classifier = [module.weight for module in net.modules() if isinstance(module, nn.Linear)][-1]
    for p in net.parameters():
        if p is classifier:
            continue
        units = range(len(p)) if p.numel() > max(p.shape, default=1) else [...]
        for unit in units:
            weight, gradient = float(p.data[unit].norm()), float(p.grad[unit].norm())
            largest = 0.01 * max(weight, 1e-3)
            if gradient > largest:
                p.grad[unit] *= largest / gradient
                clipped = True
    return clipped


@dataclass(frozen=True)
class Case:
    """Changes to the recipe, and what they mean in a plain loop."""

    overrides: list[str] = field(default_factory=list)
    model: list[str] = field(default_factory=lambda: SMALL)
    lr: Callable[[int], float] = lambda step: 0.05
    nesterov: bool = False
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy
    groups: Callable[[nn.Module], list[dict[str, Any]]] = all_weights
    clip: Callable[[nn.Module], bool] = no_clip
    bound: float = 0.0


NESTEROV = [
    "recipe.optimizer.nesterov=true", "recipe.lr=0.1", "recipe.schedule.name=cosine", "recipe.schedule.warmup=6st",
    "recipe.schedule.warmup_factor=0.2",
]  # fmt: skip
CASES = {
    "momentum": Case(),
    "nesterov, cosine after warm-up": Case(NESTEROV, lr=cosine_after_warmup, nesterov=True),
    "label smoothing": Case(["recipe.label_smoothing=0.1"], loss=smoothed, bound=2e-4),
    "no decay of scales, shifts and biases": Case(["recipe.no_decay=[norm,bias]"], groups=weights_of_layers_alone),
    "global norm": Case(
        ["recipe.lr=0.01", "recipe.clip.norm=0.5"], lr=lambda step: 0.01, clip=clip_global_norm, bound=1e-4
    ),
    "AGC": Case(
        ["recipe.clip.agc=0.01"], model=WITHOUT_NORM, clip=clip_adaptively, bound=2e-4
    ),
    "mixup": Case(["recipe.augment.mix.mixup=0.4"], loss=soft, bound=2e-4),
    "BCE and CutMix": Case(
        ["recipe.loss=bce", "recipe.bce_threshold=0.2", "recipe.augment.mix.cutmix=1.0"], loss=binary, bound=2e-4
    ),
    "auxiliary classifiers": Case(
        ["data.size=32", "recipe.duration=3st", "recipe.batch_size=8"], model=["model=googlenet"], loss=with_heads
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_part_of_a_recipe_is_what_it_says(harness: Harness, case: Case) -> None:
    config, run = harness([*case.model, *DIGITS, *case.overrides])

    net, splits = pieces(config)
    optimizer = torch.optim.SGD(case.groups(net), lr=1.0, momentum=0.9, nesterov=case.nesterov)
    losses: list[float] = []
    clipped = 0
    net.train()
    while len(losses) < len(run.losses):
        splits.train.sampler.set_epoch(len(losses) // len(splits.train))
        for images, targets in splits.train:
            for group in optimizer.param_groups:
                group["lr"] = case.lr(len(losses))
            optimizer.zero_grad()
            loss = case.loss(net(images), targets)
            loss.backward()
            clipped += case.clip(net)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == len(run.losses):
                break

    assert len(losses) == int(config.recipe.duration.removesuffix("st"))
    assert clipped > len(losses) / 2
    assert run.losses == (pytest.approx(losses, rel=case.bound) if case.bound else losses)
    assert_equal(run.weights, net.state_dict(), 10 * case.bound)


class Operators(TorchDispatchMode):
    """Counts the operators that are dispatched to kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_a_step_is_the_loops_operators_and_a_few_small_ones(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the loop's own: the number of hits, and of loss and logits what Lightning and we do to keep them."""
    inside, alone = Operators(), Operators()
    begin, end = Classifier.on_train_batch_start, Classifier.on_train_batch_end

    def begin_counting(self: Classifier, *arguments: Any) -> None:
        inside.__enter__()
        begin(self, *arguments)

    def end_counting(self: Classifier, *arguments: Any) -> None:
        end(self, *arguments)
        inside.__exit__(None, None, None)

    monkeypatch.setattr(Classifier, "on_train_batch_start", begin_counting)
    monkeypatch.setattr(Classifier, "on_train_batch_end", end_counting)
    config, run = harness([*SMALL, *DIGITS])

    net, splits = pieces(config)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, foreach=True)
    images, labels = next(iter(splits.train))
    for _ in run.losses:
        with alone:
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()

    more = inside.found - alone.found
    assert not alone.found - inside.found
    assert more.keys() <= {"argmax", "eq", "sum", "detach", "clone", "div"}
    assert more.total() <= 11 * len(run.losses)


@pytest.mark.parametrize(
    ("ema", "updates", "decay"),
    [
        (["recipe.ema.decay=0.9"], range(1, 31), lambda done: 0.9),
        (["recipe.ema.decay=0.9", "recipe.ema.every=4"], range(4, 31, 4), lambda done: 0.9),
        (
            ["recipe.ema.decay=0.9", "recipe.ema.warmup=true"],
            range(1, 31),
            lambda done: min(0.9, (1 + done) / (10 + done)),
        ),
    ],
    ids=["every step", "every fourth step", "with TensorFlow's warm-up"],
)
def test_the_result_is_of_the_averaged_weights(
    harness: Harness, tmp_path: Path, ema: list[str], updates: range, decay: Callable[[int], float]
) -> None:
    config, run = harness([*SMALL, *DIGITS, *ema])

    net, splits = pieces(config)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    average = {name: value.clone() for name, value in net.state_dict().items()}
    step = done = 0
    net.train()
    while step < 30:
        splits.train.sampler.set_epoch(step // len(splits.train))
        for images, labels in splits.train:
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
            step += 1
            if step in updates:
                for name, value in net.state_dict().items():
                    new = decay(done) * average[name] + (1 - decay(done)) * value
                    average[name] = new if value.is_floating_point() else value.clone()
                done += 1
            if step == 30:
                break

    assert_equal(run.weights, net.state_dict())
    assert_equal(load_weights(tmp_path / "run", "ema"), average, bound=1e-5)
    assert run.result.last["test_raw_top1_error"] == pytest.approx(top1_error(net, splits), abs=1e-3)
    net.load_state_dict(average)
    assert run.result.last["test_top1_error"] == pytest.approx(top1_error(net, splits), abs=1e-3)
    assert "val_raw_top1_error" in (tmp_path / "run" / folder.CURVE).read_text().splitlines()[0]


def test_the_average_is_tested_whole_after_the_network_has_left_its_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning takes a network off its GPU after training: parameters stay the same objects, buffers do not."""
    config = compose([*SMALL, *DIGITS, "recipe.ema.decay=0.9"])
    stayed = train(config, tmp_path / "stayed").last
    teardown = SingleDeviceStrategy.teardown

    def leave(self: SingleDeviceStrategy) -> None:
        teardown(self)
        self.lightning_module.double().float()

    monkeypatch.setattr(SingleDeviceStrategy, "teardown", leave)
    assert train(config, tmp_path / "left").last == stayed


def test_a_batch_in_parts_is_the_whole_batch(harness: Harness, tmp_path: Path) -> None:
    """Without batch statistics: the mean loss of the parts, and the weights, are those of the whole batch."""
    config, run = harness([*WITHOUT_NORM, *DIGITS, "trainer.micro_batch=25"])
    assert config.accumulation == 4
    assert len(run.losses) == 4 * 30
    parts = [sum(run.losses[step : step + 4]) / 4 for step in range(0, 120, 4)]

    net, splits = pieces(config)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    losses: list[float] = []
    net.train()
    while len(losses) < 30:
        splits.train.sampler.set_epoch(len(losses) // len(splits.train))
        for images, labels in splits.train:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == 30:
                break

    assert parts == pytest.approx(losses, rel=1e-4)
    assert_equal(run.weights, net.state_dict(), bound=1e-3)
    assert run.result.timing is not None
    assert run.result.timing.steps == 30
