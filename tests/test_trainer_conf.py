"""What `trainer=` sets besides devices: compilation, memory format, precision. Each is seen at work in a short run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from repro.classifier import Batch, Classifier
from repro.compose import compose
from repro.config import RunConfig
from repro.models import build
from repro.results import Result
from repro.train import train
from repro.training.checkpoint import load_weights
from tests.test_distributed import Case, assert_is_of_the_weights, folder_of, train_together

pytestmark = pytest.mark.training

DATA = [
    "scale=laptop", "data=shapes", "data.size=32", "data.train=64", "data.val=16", "data.test=24",
    "recipe.batch_size=16", "recipe.duration=3st", "recipe.schedule.name=constant", "recipe.schedule.warmup=0%",
    "recipe.lr=0.01",
]  # fmt: skip
NETWORKS = ["resnet20", "efficientnet_b0", "timm/mobilenetv3_small_050", "torchvision/shufflenet_v2_x0_5"]
ONE_UNIT = ["model=resnet20", "model.depths=[1]", "model.widths=[4]", "model.stem_width=4"]


class Seen:
    """What a run's steps were like: of the filters and of the images, whether they lie channels last; types."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.channels_last: set[bool] = set()
        self.logits: set[torch.dtype] = set()
        self.losses: list[Tensor] = []
        step, forward = Classifier.training_step, Classifier.forward

        def look_at_step(module: Classifier, batch: Batch, batch_idx: int) -> Tensor:
            filters = [m.weight for m in module.net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
            self.channels_last |= {_is_channels_last(tensor) for tensor in (batch[0], *filters) if tensor.shape[1] > 1}
            loss = step(module, batch, batch_idx)
            self.losses.append(loss.detach())
            return loss

        def look_at_logits(module: Classifier, images: Tensor) -> object:
            logits = forward(module, images)
            assert isinstance(logits, Tensor)
            self.logits.add(logits.dtype)
            return logits

        monkeypatch.setattr(Classifier, "training_step", look_at_step)
        monkeypatch.setattr(Classifier, "forward", look_at_logits)


def _is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_memory_format_is_that_of_the_conf_and_changes_no_result(tmp_path: Path, seen: Seen, network: str) -> None:
    for last in (True, False):
        seen.channels_last.clear()
        result = train(compose([f"model={network}", *DATA, f"trainer.channels_last={last}"]), tmp_path / str(last))
        assert result.status == "finished"
        assert seen.channels_last == {last}
    first, second = (float(seen.losses[step]) for step in (0, 3))  # later ones differ: kernels round in their own ways
    assert first == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_bfloat16_computes_in_it_and_keeps_weights_in_float32(tmp_path: Path, seen: Seen, network: str) -> None:
    result = train(compose([f"model={network}", *DATA, "trainer.precision=bf16-mixed"]), tmp_path)
    assert result.status == "finished"
    assert seen.logits == {torch.bfloat16}
    weights = load_weights(tmp_path, "raw").values()
    assert {tensor.dtype for tensor in weights if tensor.is_floating_point()} == {torch.float32}


# --- compilation: two runs, as each takes long ------------------------------------------------------------------------

COMPILED = [*ONE_UNIT, *DATA, "data.size=16", "recipe.ema.decay=0.5", "trainer.compile=true"]
COMPILER = next(filter(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++")), None)


def compiled(config: RunConfig, directory: Path) -> tuple[Result, int]:
    """Train, and count the graphs that were compiled meanwhile."""
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    result = train(config, directory)
    return result, counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def forget_compiled() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler, which torch.compile needs on a CPU")
def test_a_compiled_network_is_the_same_run_on_one_device_and_on_two(tmp_path: Path) -> None:
    """The average is evaluated, though the network was compiled with the raw weights; the files know of nothing."""
    config = compose(COMPILED)
    plain = train(compose([*COMPILED, "trainer.compile=false"]), tmp_path / "plain")
    alone, graphs = compiled(config, tmp_path / "alone")
    together = train_together(2, tmp_path, [Case("together", COMPILED, compiled)])
    assert graphs > 0
    assert together["together", 0][1] > 0
    expected = build(config.model, config.data.channels, config.data.classes).state_dict().keys()
    for directory, result in (
        (tmp_path / "alone", alone),
        (folder_of(tmp_path, 2, 0, "together"), together["together", 0][0]),
    ):
        assert load_weights(directory, "raw").keys() == load_weights(directory, "ema").keys() == expected
        assert abs(result.last["test_loss"] - result.last["test_raw_loss"]) > 1e-3
        assert_is_of_the_weights(config, directory, result.last, loss=1e-5)
    assert alone.last["train_loss"] == pytest.approx(plain.last["train_loss"], rel=1e-4)
