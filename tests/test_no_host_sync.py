"""No training step makes the host wait for the device: through the whole Trainer, with everything of a recipe on.

Without a GPU, torch's `meta` device stands in for one: like a GPU it is not the host, so that whatever reads a value
(`item`, `bool`, `float`, `cpu`, `tolist`, `nonzero`, a boolean index, `equal`, `unique`) raises, while scalars that
torch's optimisers keep on the CPU (the step of Adam) may be read, as on a GPU. What would wait there without reading,
a blocking copy from the host, is counted: an epoch of 2 N steps must have as many as one of N. Only what the end of an
epoch or a run reads (the metrics, the weights' file) is replaced: there it is allowed. With a GPU, CUDA itself refuses
every synchronisation between two steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from repro.classifier import Batch, Classifier
from repro.compose import compose
from repro.train import train
from tests.writers import write_cifar

pytestmark = pytest.mark.training

META = torch.device("meta")
NUMBERS = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 15),
    reason="PyTorch 2.11 makes a tensor of a number on the meta device without an operator that a mode would see",
)
BATCH = 8
SMALL = [
    "model=resnet20", "model.depths=[1,1,1]", "model.stem_width=8", "model.widths=[8,16,16]", "data=cifar10",
    "data.val=0", "recipe=he2015_cifar", f"recipe.batch_size={BATCH}", "recipe.schedule.milestones=[]",
]  # fmt: skip
CASES = {
    "as in He et al. 2015": [],
    "average, global norm": ["recipe.ema.decay=0.99", "recipe.ema.warmup=true", "recipe.clip.norm=1.0"],
    "mixup or CutMix": ["recipe.augment.mix.mixup=0.2", "recipe.augment.mix.cutmix=1.0"],
    "BCE, halves": [
        "recipe.loss=bce", "recipe.bce_threshold=0.2", "recipe.augment.mix={mixup: 0.2, cutmix: 1.0, mode: half}",
    ],
    "random resized crop, AutoAugment": [
        "recipe.augment.crop=random_resized", "recipe.augment.policy.name=auto_augment",
    ],
    "scale jitter, TrivialAugment": [
        "recipe.augment.crop=scale_jitter", "recipe.augment.policy.name=trivial_augment",
    ],
    "jitter, lighting, erasing, cutout": [
        "recipe.augment.color_jitter=[0.4,0.4,0.4,0.1]", "recipe.augment.lighting=0.1", "recipe.augment.erase=0.5",
        "recipe.augment.cutout=0.5",
    ],
    "adamw": ["recipe.optimizer={name: adamw}", "recipe.lr=1e-3"],
    "lamb": ["recipe.optimizer={name: lamb}", "recipe.lr=1e-3"],
    "rmsprop_tf": ["recipe.optimizer={name: rmsprop_tf, eps: 1e-3}", "recipe.lr=1e-3"],
    "accumulation": [f"trainer.micro_batch={BATCH // 2}"],
    "everything": [
        "recipe.ema.decay=0.99", "recipe.clip.agc=0.01", "recipe.label_smoothing=0.1", "recipe.augment.mix.mixup=0.2",
        "recipe.augment.policy={name: rand_augment, magnitude: 9, std: 0.5, increasing: true}",
        "recipe.augment.repeats=2", "recipe.no_decay=[norm,bias]", "recipe.schedule={name: cosine, warmup: 1st}",
    ],
}  # fmt: skip


class Copies(TorchDispatchMode):
    """Counts copies from the host's memory to the device that a GPU's driver would wait for, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _waits(func.overloadpacket.__name__, args, kwargs):
            self.found[str(func)] += 1
        return func(*args, **kwargs)


def _waits(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operator copies from the host: a transfer, a tensor made of Python's values, an index on the host."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    from_host = any(tensor.device.type == "cpu" for tensor in tensors)
    to_device = kwargs.get("device") == META or any(tensor.device == META for tensor in tensors)
    if name in ("_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"):
        return from_host and to_device and not kwargs.get("non_blocking")
    if name == "copy_":
        return from_host and to_device and not (len(args) > 2 and args[2])
    return name == "lift_fresh" and to_device


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Trainer's one device be `meta`, and leave out what an epoch's or a run's end reads."""
    monkeypatch.setattr(SingleDeviceStrategy, "root_device", META)
    monkeypatch.setattr(CPUAccelerator, "setup_device", lambda self, device: None)
    monkeypatch.setattr(Classifier, "train_metrics", lambda self: {"train_loss": 0.0, "train_top1_error": 0.0})
    monkeypatch.setattr(Classifier, "held_out_metrics", lambda self, split: {f"{split}_top1_error": 0.0})
    for loop in ("fit_loop", "evaluation_loop"):  # asks all ranks, once before the first epoch
        monkeypatch.setattr(f"lightning.pytorch.loops.{loop}.has_len_all_ranks", lambda loader, *_: len(loader) > 0)
    monkeypatch.setattr(SingleDeviceStrategy, "teardown", lambda self: None)  # brings all back when it has trained
    monkeypatch.setattr("repro.train.save_weights", lambda *_: None)


def copies(steps: int, overrides: list[str], root: Path) -> Counter[str]:
    """Train one epoch of that many steps on the device that cannot be read; return the blocking copies."""
    place = root / f"training {len(list(root.iterdir()))}"
    write_cifar(place, "cifar10", train_rows=steps * BATCH, test_rows=5)
    config = compose([*SMALL, *overrides, f"data.root='{place}'", f"recipe.duration={steps}st"])
    with Copies() as counted:
        result = train(config, place / "run")
    assert result.timing is not None
    assert result.timing.steps == steps
    return counted.found


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES.keys())
def test_no_step_waits_for_the_device(tmp_path: Path, overrides: list[str]) -> None:
    copies(2, overrides, tmp_path)  # what is made once in a process
    few = copies(3, overrides, tmp_path)
    assert few["aten._to_copy.default"], "the order of an epoch is brought to the device"
    assert copies(6, overrides, tmp_path) == few


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    "read",
    [
        lambda loss: loss.item(),
        lambda loss: bool(loss > 0),
        lambda loss: loss.cpu(),
        lambda loss: loss.tolist(),
        lambda loss: loss[loss > 0],
        lambda loss: loss.nonzero(),
    ],
    ids=["item", "bool", "cpu", "tolist", "boolean index", "nonzero"],
)
def test_a_read_in_a_step_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Tensor], object]
) -> None:
    reached = change_step(monkeypatch, read)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta|nonzero"):
        copies(2, [], tmp_path)
    assert reached == [0]


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda loss: torch.tensor(1.0, device=loss.device), marks=NUMBERS),
        lambda loss: torch.ones(3).to(loss.device),
        lambda loss: torch.empty(3, device=loss.device).copy_(torch.ones(3)),
        lambda loss: torch.empty(3, device=loss.device)[torch.tensor([0, 2])],
    ],
    ids=["from a number", "to", "copy_", "index on the host"],
)
def test_a_copy_in_a_step_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: Callable[[Tensor], object]
) -> None:
    change_step(monkeypatch, copy)
    copies(2, [], tmp_path)
    assert copies(5, [], tmp_path).total() - copies(2, [], tmp_path).total() == 3


def change_step(monkeypatch: pytest.MonkeyPatch, extra: Callable[[Tensor], object]) -> list[int]:
    """Do something more with the loss of each step; return the list in which steps are written down before."""
    original = Classifier.training_step
    reached: list[int] = []

    def changed(self: Classifier, batch: Batch, batch_idx: int) -> Tensor:
        loss = original(self, batch, batch_idx)
        reached.append(batch_idx)
        extra(loss.detach())
        return loss

    monkeypatch.setattr(Classifier, "training_step", changed)
    return reached


@pytest.fixture
def strict_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let CUDA refuse to synchronise from the start of an epoch's second step to the end of its last."""

    def watch(name: str, mode: Callable[[Classifier, int], str | None]) -> None:
        original = getattr(Classifier, name)

        def watched(self: Classifier, *arguments: Any) -> None:
            original(self, *arguments)
            chosen = mode(self, arguments[-1])
            if chosen is not None:
                torch.cuda.set_sync_debug_mode(chosen)

        monkeypatch.setattr(Classifier, name, watched)

    watch("on_train_batch_start", lambda _, step: "error" if step == 1 else None)
    watch("on_train_batch_end", lambda m, step: "default" if step == m.trainer.num_training_batches - 1 else None)
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.usefixtures("strict_steps")
@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("fused", [False, True], ids=["as it is", "fused"])
def test_no_step_waits_for_the_gpu(tmp_path: Path, overrides: list[str], fused: bool) -> None:
    write_cifar(tmp_path, "cifar10", train_rows=12 * BATCH, test_rows=5)
    gpu = ["trainer=gpu", f"trainer.fused={fused}"]
    config = compose([*SMALL, *gpu, *overrides, f"data.root={tmp_path}", "recipe.duration=12st"])
    assert train(config, tmp_path / "run").status == "finished"


def test_the_stand_in_runs_a_network() -> None:
    """Backward on the stand-in leaves gradients there: nothing falls back to the host."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2)).to(META)
    net(torch.empty(2, 3, 8, 8, device=META)).sum().backward()
    assert all(p.grad is not None and p.grad.device == META for p in net.parameters())
