"""A run on several devices is the run on one: its weights, its evaluation, what it leaves; and what cannot be the same.

Ranks are processes of the warmed fork server that train one case after the other; one device is this process. Every
rank but 0 is given a folder of its own, which must not come into being: only rank 0 writes.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from repro import folder
from repro.classifier import Batch, Classifier
from repro.compose import compose
from repro.config import RunConfig
from repro.data import load
from repro.errors import InputError
from repro.evaluate import evaluate
from repro.models import build
from repro.results import Result, read_result
from repro.train import train
from repro.training.checkpoint import State, load_weights
from repro.training.distributed import check_shares, copy_from_first_rank, seed_noise

pytestmark = pytest.mark.training

SHAPES = [
    "scale=laptop", "data=shapes", "data.train=640", "data.val=65", "data.test=129", "recipe.batch_size=64",
    "recipe.schedule.warmup_factor=0.5", "recipe.lr=0.05",
]  # fmt: skip
"""On two ranks 65 images are 33 and 32, in two batches and in one."""
RESNET = ["model=resnet20", "model.depths=[1,1,1]", "model.stem_width=4", "model.widths=[4,8,16]"]
WITHOUT_NORM = [
    *RESNET, "model.order=pre", "model.norm=none", "model.alpha=0.2", "model.beta=true",
    "model.weight_standardization=true", "model.gamma=true",
]  # fmt: skip
ADAPTIVE = ["recipe.optimizer.nesterov=false", "recipe.optimizer.eps=1e-3", "recipe.lr=0.002"]
SGD = "SGD with Nesterov momentum, crop, mirror image"


@dataclass(frozen=True)
class Piece:
    """A part of a recipe, and the largest difference after one step and after two epochs, relative to each tensor."""

    overrides: tuple[str, ...] = ()
    step: float = 1e-6
    epochs: float = 1e-5


PIECES = {
    SGD: Piece(),
    "AdamW": Piece(("recipe.optimizer.name=adamw", *ADAPTIVE), step=1e-5),
    "LAMB": Piece(("recipe.optimizer.name=lamb", *ADAPTIVE), step=1e-5),
    "RMSProp": Piece(("recipe.optimizer.name=rmsprop_tf", *ADAPTIVE)),
    "average, label smoothing": Piece(
        ("recipe.ema.decay=0.9", "recipe.ema.warmup=true", "recipe.label_smoothing=0.1")
    ),
    "clipped norm": Piece(("recipe.clip.norm=0.1",)),
    "AGC": Piece(("recipe.clip.agc=0.01",)),
    "accumulation": Piece(("trainer.micro_batch=8",)),
    "BCE, RandAugment, erasing": Piece(
        ("recipe.loss=bce", "recipe.augment.policy.name=rand_augment", "recipe.augment.erase=0.25"),
    ),
    "repeats": Piece(("recipe.augment.repeats=2",)),
}  # fmt: skip
"""A step of AdamW or LAMB divides by the gradient's own size: the rounding of a small gradient shows in it at once."""

STEP, EPOCHS = "1st", "2ep"
EQUAL = [
    *[(2, piece, EPOCHS) for piece in PIECES],
    *[(2, piece, STEP) for piece in (SGD, "AdamW", "LAMB", "AGC", "accumulation")],
    *[(4, piece, EPOCHS) for piece in (SGD, "LAMB", "accumulation")],
    (4, SGD, STEP),
]

BATCH_NORM = {
    "running statistics": (),
    "and an average": ("recipe.ema.decay=0.8",),
    "computed anew": ("recipe.batch_norm.recalibrate=3",),
    "computed anew, and an average": ("recipe.batch_norm.recalibrate=3", "recipe.ema.decay=0.8"),
}  # fmt: skip

Watched = Callable[[RunConfig, Path], object]


@dataclass(frozen=True)
class Case:
    """A run; `watched` trains it, and what it returns comes back from each rank."""

    name: str
    overrides: list[str]
    watched: Watched


def plainly(config: RunConfig, directory: Path) -> Result:
    return train(config, directory)


def refused(config: RunConfig, directory: Path) -> str:
    with pytest.raises(InputError) as caught:
        train(config, directory)
    return str(caught.value)


def noise(config: RunConfig, directory: Path) -> tuple[Tensor, Tensor]:
    """What is drawn at the first step on this rank, and the first weights before it."""
    found: list[tuple[Tensor, Tensor]] = []
    step = Classifier.training_step

    def recorded(self: Classifier, batch: Batch, batch_idx: int) -> Tensor:
        with torch.random.fork_rng():
            found.append((torch.rand(9), next(self.net.parameters()).detach().clone()))
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", recorded)
        train(config, directory)
    return found[0]


def of_piece(piece: str, length: str) -> list[str]:
    return [*WITHOUT_NORM, *SHAPES, *PIECES[piece].overrides, f"recipe.duration={length}"]


def of_batch_norm(how: str) -> list[str]:
    return [*RESNET, *SHAPES, *BATCH_NORM[how], "recipe.duration=2ep"]


def place(piece: str, length: str) -> str:
    return f"{list(PIECES).index(piece)}-{length}"


def cases(world: int) -> list[Case]:
    """Everything that so many ranks train, in this order."""
    equal = [Case(place(piece, length), of_piece(piece, length), plainly) for n, piece, length in EQUAL if n == world]
    if world == 4:
        few = [*RESNET, *SHAPES, "data.val=5", "data.test=6", "recipe.duration=3st"]
        return [*equal, Case("few", few, plainly)]
    noisy = [*RESNET, *SHAPES, "model.dropout=0.5", "recipe.duration=1st"]
    return [
        *equal,
        *[Case(f"norm-{index}", of_batch_norm(how), plainly) for index, how in enumerate(BATCH_NORM)],
        Case("noise", noisy, noise),
        Case("tensorboard", [*RESNET, *SHAPES, "logger=tensorboard", "recipe.duration=12st"], plainly),
        Case("none", [*RESNET, *SHAPES, "data.val=1", "recipe.duration=1st"], refused),
    ]


def folder_of(home: Path, world: int, rank: int, name: str) -> Path:
    return home / f"{world}-ranks" / f"rank{rank}" / name


def on(world: int) -> list[str]:
    return [
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.deterministic=true", f"trainer.devices={world}",
    ]  # fmt: skip


def _serve(rank: int, world: int, home: Path, runs: list[Case], cache: str, answers: Any) -> None:
    """One rank. The ranks have met when the first case begins, and stay together."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "OMP_NUM_THREADS": "1", "REPRO_CACHE": cache}
    torch.set_num_threads(1)
    said = None
    try:
        meeting = f"file://{home / f'meeting-{world}'}"
        dist.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=world, timeout=timedelta(seconds=60)
        )  # fmt: skip
        for case in runs:
            config = compose([*case.overrides, *on(world)])
            answers.put((rank, case.name, case.watched(config, folder_of(home, world, rank, case.name))))
    except BaseException:
        said = traceback.format_exc()
    answers.put((rank, None, said))
    answers.close()
    answers.join_thread()
    os._exit(0)


Answers = dict[tuple[str, int], Any]
"""What was watched, by the case's name and the rank."""


def train_together(world: int, home: Path, runs: list[Case]) -> Answers:
    """Train the cases on so many ranks, in folders below `home`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.launch.preload"])
    answers = context.Queue()
    cache = os.environ["REPRO_CACHE"]
    ranks = [context.Process(target=_serve, args=(rank, world, home, runs, cache, answers)) for rank in range(world)]
    found: Answers = {}
    going = set(range(world))
    for process in ranks:
        process.start()
    try:
        while going:
            rank, name, answer = answers.get(timeout=300)
            if name is not None:
                found[name, rank] = answer
                continue
            assert answer is None, f"rank {rank}: {answer}"
            going.remove(rank)
    finally:
        for process in ranks:
            if going:
                process.kill()
            process.join()
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def trained(home: Path, shared_cache: Path) -> Callable[[int], Answers]:
    """Train on so many ranks, once for all tests."""
    done: dict[int, Answers] = {}

    def on_ranks(world: int) -> Answers:
        if world not in done:
            done[world] = train_together(world, home, cases(world))
        return done[world]

    return on_ranks


Trained = Callable[[int], Answers]


def gap(found: State, expected: State) -> float:
    """Largest difference, relative to the largest value of each tensor."""
    assert found.keys() == expected.keys()
    gaps = [(found[name] - value).abs().max() / value.abs().max().clamp(min=1e-3) for name, value in expected.items()]
    return float(torch.stack(gaps).max())


@pytest.mark.parametrize(
    ("world", "piece", "length"), EQUAL, ids=[f"{world} ranks, {piece}, {length}" for world, piece, length in EQUAL]
)
def test_the_weights_are_those_of_one_device(trained: Trained, home: Path, world: int, piece: str, length: str) -> None:
    """Every part of a recipe that knows nothing of ranks; what differs is the order of float32 sums."""
    found = trained(world)[place(piece, length), 0]
    config, alone = compose(of_piece(piece, length)), folder_of(home, 1, 0, place(piece, length))
    expected = read_result(alone) or train(config, alone)
    bound = PIECES[piece].step if length == STEP else PIECES[piece].epochs
    assert found.id == expected.id
    assert found.timing.steps == expected.timing.steps == {STEP: 1, EPOCHS: 20}[length]  # type: ignore[union-attr]
    for which in ("raw", "ema") if config.recipe.ema.decay else ("raw",):
        pair = [load_weights(folder_of(home, n, 0, place(piece, length)), which) for n in (world, 1)]  # type: ignore[arg-type]
        assert gap(*pair) <= bound
    assert found.last["train_loss"] == pytest.approx(expected.last["train_loss"], rel=bound)
    assert found.last["test_loss"] == pytest.approx(expected.last["test_loss"], rel=bound)


@pytest.mark.parametrize("piece", [piece for piece in PIECES if piece not in (SGD, "accumulation")])
def test_each_piece_changes_the_weights(trained: Trained, home: Path, piece: str) -> None:
    """By far more than what ranks may change: nothing was equal for being switched off."""
    trained(2)
    pair = [load_weights(folder_of(home, 2, 0, place(name, EPOCHS)), "raw") for name in (piece, SGD)]
    assert gap(*pair) > 1000 * PIECES[piece].epochs


def measured(config: RunConfig, state: State, split: str) -> dict[str, float]:
    """Loss and errors of weights on a split, in one process."""
    splits = load(
        config.data, config.recipe.augment, config.recipe.evaluation, batch_size=config.recipe.batch_size,
        seed=config.seed, device=torch.device("cpu"), channels_last=True,
    )  # fmt: skip
    net = build(config.model, config.data.channels, config.data.classes).to(memory_format=torch.channels_last)
    net.load_state_dict(state)
    found = evaluate([net], [splits.val if split == "val" else splits.test])
    return {"loss": found.nll, "top1_error": found.top1_error, "top5_error": found.top5_error}


def assert_is_of_the_weights(config: RunConfig, directory: Path, last: dict[str, float], loss: float = 1e-6) -> None:
    """What the run says of held-out splits is what its saved weights give in one process: errors to the image.

    `loss`: relative bound of the losses, which a run sums in float32.
    """
    turns: dict[str, Any] = {"": "raw"} if config.recipe.ema.decay is None else {"": "ema", "_raw": "raw"}
    for turn, which in turns.items():
        for split in ("val", "test"):
            alone = measured(config, load_weights(directory, which), split)
            for name in ("top1_error", "top5_error"):
                assert last[f"{split}{turn}_{name}"] == pytest.approx(alone[name], abs=1e-4), (split, turn)
            assert last[f"{split}{turn}_loss"] == pytest.approx(alone["loss"], rel=loss), (split, turn)


@pytest.mark.parametrize("how", BATCH_NORM)
def test_batch_norm_is_evaluated_with_the_statistics_that_are_saved(trained: Trained, home: Path, how: str) -> None:
    """Without synchronisation each rank's running statistics are its own; every rank evaluates with rank 0's."""
    name = f"norm-{list(BATCH_NORM).index(how)}"
    results = [trained(2)[name, rank] for rank in range(2)]
    assert results[0].last == results[1].last
    assert_is_of_the_weights(compose(of_batch_norm(how)), folder_of(home, 2, 0, name), results[0].last)


def test_a_rank_with_fewer_batches_waits_for_none(trained: Trained, home: Path) -> None:
    """Of 5 and 6 images four ranks have 2, 1, 1, 1 and 2, 2, 1, 1, and each image counts once."""
    (case,) = (case for case in cases(4) if case.name == "few")
    last = trained(4)["few", 0].last
    assert_is_of_the_weights(compose(case.overrides), folder_of(home, 4, 0, "few"), last)


def test_a_rank_without_an_image_is_refused(trained: Trained) -> None:
    said = {trained(2)["none", rank] for rank in range(2)}
    assert len(said) == 1
    assert "the val split has 1 images for 2 devices" in said.pop()


@given(world=st.integers(1, 9), sizes=st.lists(st.integers(0, 12), min_size=3, max_size=3))
def test_ranks_without_images_are_found(world: int, sizes: list[int]) -> None:
    """A split that does not exist has no image on any rank."""
    named = dict(zip(("train", "val", "test"), sizes, strict=True))
    if any(0 < size < world for size in sizes):
        with pytest.raises(InputError, match="expected at least one for each"):
            check_shares(named, world)
    else:
        check_shares(named, world)


def test_ranks_draw_different_noise_for_the_same_weights(trained: Trained, home: Path) -> None:
    """Rank 0 draws what one device draws, so that a run on one device is what it was."""
    (case,) = (case for case in cases(2) if case.name == "noise")
    alone, first = noise(compose(case.overrides), home / "noise"), trained(2)["noise", 0]
    second = trained(2)["noise", 1]
    assert torch.equal(first[0], alone[0])
    assert not torch.equal(first[0], second[0])
    assert all(torch.equal(weights, alone[1]) for _, weights in (first, second))


def test_the_noise_of_a_rank_depends_on_the_seed_and_the_rank_alone() -> None:
    def drawn(seed: int, rank: int) -> float:
        torch.manual_seed(seed)
        seed_noise(rank)
        return float(torch.rand(()))

    found = {(seed, rank): drawn(seed, rank) for seed in range(3) for rank in range(3)}
    assert len(set(found.values())) == 9
    assert found[1, 2] == drawn(1, 2)
    torch.manual_seed(1)
    assert found[1, 0] == float(torch.rand(()))


def names(directory: Path) -> list[str]:
    """Files of a run, without what TensorBoard puts into a name: time, host and process."""
    found = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    return sorted(name.partition(".tfevents")[0] for name in found)


def test_the_folder_holds_what_a_run_on_one_device_leaves(trained: Trained, home: Path) -> None:
    (case,) = (case for case in cases(2) if case.name == "tensorboard")
    assert trained(2)["tensorboard", 0].status == "finished"
    alone = home / "tensorboard"
    train(compose(case.overrides), alone)
    together = folder_of(home, 2, 0, "tensorboard")
    assert names(together) == names(alone)
    assert any(name.startswith("tensorboard") for name in names(alone))
    curves = [(place / folder.CURVE).read_text().splitlines() for place in (together, alone)]
    assert len(curves[0]) == len(curves[1]) == 3


@pytest.mark.parametrize("world", [2, 4])
def test_only_rank_0_writes(trained: Trained, home: Path, world: int) -> None:
    """In none of all these runs did another rank make its folder."""
    trained(world)
    places = home / f"{world}-ranks"
    assert sorted(path.name for path in places.iterdir()) == ["rank0"]
    assert {path.name for path in (places / "rank0").iterdir()} == {case.name for case in cases(world)}


def test_one_process_has_nothing_to_copy() -> None:
    value = torch.ones(3)
    copy_from_first_rank([value])
    assert torch.equal(value, torch.ones(3))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch's synchronised batch norm needs two GPUs")
def test_synchronised_batch_norm_is_that_of_one_device(home: Path, repro: Callable[..., tuple[int, str, str]]) -> None:
    """Also its running statistics: they are of the global batch."""
    words = [*RESNET, *SHAPES, "recipe.batch_norm.sync=true", "recipe.duration=3st", "trainer.precision=32-true"]
    states = []
    for name, devices in (("alone", ["trainer=gpu"]), ("together", ["trainer=ddp", "trainer.devices=2"])):
        place = home / f"sync-{name}"
        status, _, errors = repro("train", *words, *devices, "trainer.precision=32-true", f"dir={place}")
        assert status == 0, errors
        states.append({k: v for k, v in load_weights(place, "raw").items() if v.is_floating_point()})
    assert gap(*states) <= 1e-3
