"""A run that was ended at any point and started again is the run that was never disturbed, bit for bit on the CPU."""

from __future__ import annotations

import csv
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from repro import attempts, folder
from repro.classifier import Classifier
from repro.codes import code_of
from repro.compose import compose
from repro.config import RunConfig
from repro.train import train
from repro.training import interrupt
from repro.training.checkpoint import load_weights
from repro.training.interrupt import Interrupted
from repro.training.resume import share
from repro.training.saving import Saver
from tests.writers import write_cifar, write_tree

pytestmark = pytest.mark.training

SMALL = ["model=resnet20", "model.depths=[1,1,1]", "model.stem_width=4", "model.widths=[4,4,4]"]
DIGITS = [*SMALL, "scale=laptop", "data.test=100", "data.val=1577", "recipe.batch_size=40", "recipe.duration=2ep"]
STEPS = 3  # of an epoch: 120 training images
WITHOUT_NORM = [
    "model.order=pre", "model.norm=none", "model.alpha=0.2", "model.beta=true", "model.weight_standardization=true",
    "model.gamma=true",
]  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that choose a small tree of image files, read by two workers."""
    root = write_tree(tmp_path_factory.mktemp("images"), classes=4, train=8, val=2)
    return ["data=imagenet", f"data.root={root}", "data.size=16", "data.classes=4", "data.val=8", "data.workers=2"]


@contextmanager
def asked(name: str, when: Callable[[Any], bool]) -> Iterator[None]:
    """Ask the run to end when a hook of the classifier or of the saver is called and `when` says so, once."""
    owner: Any = Saver if name == "on_train_batch_end" else Classifier
    original = getattr(owner, name)

    def hook(self: Any, *arguments: Any, **named: Any) -> Any:
        trainer = arguments[0] if owner is Saver else self.trainer
        if when(trainer):
            interrupt.request("a test")
        return original(self, *arguments, **named)

    setattr(owner, name, hook)
    try:
        yield
    finally:
        setattr(owner, name, original)


def at_step(step: int) -> Any:
    """Ask right after an optimiser step."""
    return asked("on_train_batch_end", lambda trainer: trainer.global_step == step)


def in_evaluation(name: str, step: int) -> Any:
    """Ask within the evaluation after a step."""
    return asked(name, lambda trainer: trainer.global_step == step)


def disturbed(config: RunConfig, directory: Path, points: list[Any]) -> None:
    """Train a run that is ended at each point in turn and started again."""
    for point in points:
        with point, pytest.raises(Interrupted):
            train(config, directory)
    train(config, directory)


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / folder.CURVE).open(newline="") as file:
        return list(csv.DictReader(file))


def curve(directory: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(directory)]


def assert_same(first: Path, second: Path) -> None:
    """Compare all that two runs leave: results, curves, weights."""
    one, other = (folder.outcome(directory) for directory in (first, second))
    assert one is not None
    assert other is not None
    changing = {"timing", "environment", "started", "finished"}
    assert one.model_dump(exclude=changing) == other.model_dump(exclude=changing)
    assert one.timing is not None
    assert other.timing is not None
    assert one.timing.steps == other.timing.steps
    assert curve(first) == curve(second)
    for which in ("raw", None):
        weights, others = (load_weights(directory, which) for directory in (first, second))
        assert weights.keys() == others.keys()
        assert [name for name in weights if not torch.equal(weights[name], others[name])] == []


PIECES = {
    "Nesterov": [],
    "AdamW, no decay of norms": [
        "recipe.optimizer={name: adamw, nesterov: false}", "recipe.lr=1e-2", "recipe.no_decay=[norm,bias]",
    ],
    "LAMB": ["recipe.optimizer={name: lamb, nesterov: false}", "recipe.lr=1e-2"],
    "RMSprop, exponential": [
        "recipe.optimizer={name: rmsprop_tf, eps: 1e-3, nesterov: false}", "recipe.lr=1e-2",
        "recipe.schedule={name: exponential, gamma: 0.9, every: 1st}",
    ],
    "average with warm-up": ["recipe.ema={decay: 0.9, warmup: true}"],
    "average of every second step": ["recipe.ema={decay: 0.9, every: 2}"],
    "AGC": [*WITHOUT_NORM, "recipe.clip.agc=0.01"],
    "clipped norm, smoothing": ["recipe.clip.norm=0.5", "recipe.label_smoothing=0.1"],
    "accumulation": ["trainer.micro_batch=10"],
    "mixup and CutMix": ["recipe.augment.mix={mixup: 0.3, cutmix: 1.0}"],
    "BCE, halves": [
        "recipe.loss=bce", "recipe.bce_threshold=0.2", "recipe.augment.mix={mixup: 0.2, cutmix: 1.0, mode: half}",
    ],
    "RandAugment, crop, erasing, jitter": [
        "recipe.augment.policy={name: rand_augment, magnitude: 9, std: 0.5, increasing: true}",
        "recipe.augment.erase=0.5", "recipe.augment.color_jitter=[0.4,0.4,0,0]", "recipe.augment.repeats=2",
    ],
    "dropout, stochastic depth": ["model.dropout=0.3", "model.stochastic_depth=0.5"],
    "recalibration, momentum": ["recipe.batch_norm={momentum: 0.3, recalibrate: 2}"],
    "recalibration of an average": ["recipe.batch_norm.recalibrate=2", "recipe.ema.decay=0.8"],
    "bfloat16": ["trainer.precision=bf16-mixed"],
    "everything": [
        "recipe.ema={decay: 0.9, every: 2, warmup: true}", "recipe.clip.norm=1.0", "trainer.micro_batch=20",
        "recipe.augment.mix.mixup=0.2", "model.stochastic_depth=0.5", "recipe.batch_norm.recalibrate=1",
        "recipe.augment.policy={name: trivial_augment}", "recipe.duration=5st",
    ],
}  # fmt: skip


@pytest.mark.parametrize("overrides", PIECES.values(), ids=PIECES.keys())
def test_each_piece_of_a_recipe_goes_on(tmp_path: Path, overrides: list[str]) -> None:
    """Ended in the middle of the first epoch, at its end, and in the middle of the second."""
    config = compose([*DIGITS, *overrides])
    train(config, tmp_path / "whole")
    disturbed(config, tmp_path / "parts", [at_step(1), at_step(3), at_step(5)])
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_run_without_validation_goes_on(tmp_path: Path) -> None:
    write_cifar(tmp_path, train_rows=120, test_rows=10)
    words = ["data=cifar10", f"data.root={tmp_path}", "data.val=0", "recipe.batch_size=40", "recipe.duration=2ep"]
    config = compose([*SMALL, *words])
    train(config, tmp_path / "whole")
    disturbed(config, tmp_path / "parts", [at_step(2), at_step(3), at_step(6), in_evaluation("test_step", 6)])
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_images_in_files_go_on(tmp_path: Path, tree: list[str]) -> None:
    words = ["recipe.augment={crop: random_resized, repeats: 2}", "recipe.batch_size=6", "recipe.duration=2ep"]
    config = compose([*SMALL, *tree, *words, "recipe.augment.mix.cutmix=1.0"])
    train(config, tmp_path / "whole")
    disturbed(config, tmp_path / "parts", [at_step(2), at_step(7)])
    assert_same(tmp_path / "whole", tmp_path / "parts")


POINTS: dict[str, list[Callable[[], Any]]] = {
    **{f"step {step}": [lambda step=step: at_step(step)] for step in range(1, 2 * STEPS + 1)},
    "every step": [lambda step=step: at_step(step) for step in range(1, 2 * STEPS + 1)],
    "first validation": [lambda: in_evaluation("validation_step", STEPS)],
    "last validation": [lambda: in_evaluation("validation_step", 2 * STEPS)],
    "end of an epoch": [lambda: in_evaluation("on_validation_end", STEPS)],
    "end of the training": [lambda: in_evaluation("on_validation_end", 2 * STEPS)],
    "start of the test": [lambda: in_evaluation("on_fit_end", 2 * STEPS)],
    "test": [lambda: in_evaluation("test_step", 2 * STEPS)],
    "the same validation twice": [lambda: in_evaluation("validation_step", STEPS)] * 2,
    "everywhere": [
        lambda: at_step(2), lambda: at_step(3), lambda: in_evaluation("validation_step", STEPS),
        lambda: in_evaluation("on_validation_end", STEPS), lambda: at_step(6),
        lambda: in_evaluation("validation_step", 6), lambda: in_evaluation("test_step", 6),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[RunConfig], Path]:
    """A run that was not disturbed, trained once."""
    home = tmp_path_factory.mktemp("whole")

    def make(config: RunConfig) -> Path:
        if not (home / config.id).exists():
            train(config, home / config.id)
        return home / config.id

    return make


@pytest.mark.parametrize("average", [[], ["recipe.ema.decay=0.9", "recipe.batch_norm.recalibrate=1"]], ids=["", "EMA"])
@pytest.mark.parametrize("points", POINTS.values(), ids=POINTS.keys())
def test_a_run_goes_on_from_any_point(
    tmp_path: Path, whole: Callable[[RunConfig], Path], points: list[Callable[[], Any]], average: list[str]
) -> None:
    config = compose([*DIGITS, *average])
    disturbed(config, tmp_path, [make() for make in points])
    assert_same(whole(config), tmp_path)
    tried = attempts.read(tmp_path)
    assert [attempt.end for attempt in tried] == ["interrupted"] * len(points) + ["finished"]
    assert [attempt.step for attempt in tried[1:]] == [attempt.end_step for attempt in tried[:-1]]
    assert not (tmp_path / folder.RESUME).exists()
    assert not (tmp_path / folder.PROGRESS).exists()


@pytest.mark.parametrize("step", [4, 5], ids=["cut short", "last step"])
def test_an_epoch_that_the_number_of_steps_cuts_short(
    tmp_path: Path, whole: Callable[[RunConfig], Path], step: int
) -> None:
    config = compose([*DIGITS, "recipe.duration=5st"])
    disturbed(config, tmp_path, [at_step(step), in_evaluation("validation_step", 5), in_evaluation("test_step", 5)])
    assert_same(whole(config), tmp_path)


# --- how a run ends before its time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", interrupt.SIGNALS, ids=lambda number: number.name)
def test_a_signal_saves_and_ends(tmp_path: Path, whole: Callable[[RunConfig], Path], number: signal.Signals) -> None:
    config, before = compose(DIGITS), signal.getsignal(number)

    def send(trainer: Any) -> bool:
        if trainer.global_step == 2:
            os.kill(os.getpid(), number)
        return False

    with asked("on_train_batch_end", send), pytest.raises(Interrupted, match=f"{number.name} at step 2; saved"):
        train(config, tmp_path)
    assert signal.getsignal(number) == before
    assert interrupt.requested() is None
    assert folder.state(tmp_path) == "planned"
    train(config, tmp_path)
    assert_same(whole(config), tmp_path)


def test_a_request_of_another_thread_is_heeded(tmp_path: Path) -> None:
    def request(trainer: Any) -> bool:
        if trainer.global_step == 2:
            thread = threading.Thread(target=interrupt.request, args=("the death of its launcher",))
            thread.start()
            thread.join()
        return False

    with asked("on_train_batch_end", request), pytest.raises(Interrupted, match="the death of its launcher at step 2"):
        train(compose(DIGITS), tmp_path)


def test_a_request_before_the_training_is_heeded_and_leaves_nothing_to_go_on_from(tmp_path: Path) -> None:
    interrupt.request("a test")
    with pytest.raises(Interrupted, match="at step 0"):
        train(compose(DIGITS), tmp_path)
    assert not (tmp_path / folder.RESUME).exists()
    assert attempts.failures(attempts.read(tmp_path)) == 1


def test_time_adds_up_over_the_attempts(tmp_path: Path) -> None:
    config = compose(DIGITS)
    disturbed(config, tmp_path, [at_step(step) for step in (2, 4)])
    result = folder.outcome(tmp_path)
    assert result is not None
    assert result.timing is not None
    timing = result.timing
    assert timing.train + timing.evaluate + timing.setup <= timing.total
    assert timing.images_per_second == pytest.approx(6 * 40 / timing.train)
    assert timing.peak_memory is not None
    assert timing.peak_memory > 2**20
    seconds = [float(row["seconds"]) for row in rows(tmp_path)]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= timing.total


def _train_and_die(directory: str, overrides: list[str], number: int) -> None:
    """Train in a process of its own, which kills itself before the file system is asked to rename for that time."""
    torch.set_num_threads(1)
    original, asked = os.replace, itertools.count(1)

    def replace(source: Any, target: Any) -> None:
        if Path(target).name.startswith(folder.RESUME) and next(asked) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        original(source, target)

    os.replace = replace
    train(compose(overrides), Path(directory))


SAVED = [0, 0, 1, 1, 1, 2, 2, 2, 3]
"""The step that is on disk before each rename: two for the first checkpoint, three for each one after it."""


@pytest.mark.parametrize("number", range(1, len(SAVED) + 1))
def test_a_kill_at_any_moment_of_saving_loses_no_checkpoint(
    tmp_path: Path, whole: Callable[[RunConfig], Path], number: int
) -> None:
    words = [*DIGITS, "checkpoint.every=1e-9"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.launch.preload"])
    process = context.Process(target=_train_and_die, args=(str(tmp_path), words, number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert folder.state(tmp_path) == "failed"
    train(compose(DIGITS), tmp_path)
    assert_same(whole(compose(DIGITS)), tmp_path)
    assert [attempt.step for attempt in attempts.read(tmp_path)] == [0, SAVED[number - 1]]
    assert [path.name for path in tmp_path.iterdir() if "resume" in path.name] == []


def test_what_other_ranks_had_seen_is_shared_out() -> None:
    ranks = [{"losses": torch.arange(3.0) + 10 * k, "hits": torch.arange(3) + k, "seen": 30} for k in range(2)]
    assert share(ranks, 0, 1)["losses"].tolist() == [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]
    parts = [share(ranks, rank, 3) for rank in range(3)]
    assert [part["losses"].tolist() for part in parts] == [[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]]
    assert sum(int(part["hits"].sum()) for part in parts) == 9
    assert [part["seen"] for part in parts] == [20, 20, 20]
    assert share([{"losses": None, "hits": None, "seen": 0}] * 2, 1, 4) == {"losses": None, "hits": None, "seen": 0}


def test_a_run_that_goes_on_under_other_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose(DIGITS)
    with monkeypatch.context() as patch:
        patch.setattr("repro.environment.code", lambda: "0123456789ab")
        with at_step(2), pytest.raises(Interrupted):
            train(config, tmp_path)
    result = train(config, tmp_path)
    assert "goes on from step 2, epoch 1; other code has trained it so far" in capsys.readouterr().out
    assert result.environment is not None
    assert result.environment.earlier_code == ("0123456789ab",)
    assert code_of(result.environment).source == f"0123456789ab, then {result.environment.code}"
