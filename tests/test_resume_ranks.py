"""A run on several processes that is ended and goes on: all agree on the step, and each goes on from what it had.

Ranks are processes of the warmed fork server.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import attempts, folder
from repro.compose import compose
from repro.config import RunConfig
from repro.train import train
from repro.training.agreement import MOST, Agreement
from repro.training.interrupt import Interrupted
from tests.test_resume import DIGITS, WITHOUT_NORM, asked, assert_same

pytestmark = pytest.mark.training

NOISY = [*DIGITS, "model.dropout=0.3", "recipe.augment.mix.mixup=0.2", "recipe.ema.decay=0.9"]


def plain(config: RunConfig, directory: Path, rank: int) -> object:
    train(config, directory)
    return None


def ended(config: RunConfig, directory: Path, rank: int) -> object:
    """Train a run that one rank is asked to end after the first step, then the other after the third; and go on."""
    reasons = []
    for step, chosen in ((1, 1), (3, 0)):
        with asked(
            "on_train_batch_end",
            lambda trainer, step=step, chosen=chosen: rank == chosen and trainer.global_step == step,
        ):
            try:
                train(config, directory)
            except Interrupted as saved:
                reasons.append(saved.reason)
    train(config, directory)
    return reasons


def until_step_2(config: RunConfig, directory: Path, rank: int) -> object:
    with asked("on_train_batch_end", lambda trainer: trainer.global_step == 2), pytest.raises(Interrupted):
        train(config, directory)
    return None


Way = Callable[[RunConfig, Path, int], object]


def _serve(rank: int, meeting: str, cases: Sequence[tuple[Path, list[str], Way]], answers: Any) -> None:
    """One of two ranks that have met before, as under torchrun: train one case after the other."""
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=timedelta(seconds=60))
        found = [
            way(compose([*words, "trainer.strategy=ddp", "trainer.devices=2"]), directory, rank)
            for directory, words, way in cases
        ]
        answers.put((rank, found))
    except BaseException:
        answers.put((rank, traceback.format_exc()))
    finally:
        answers.close()
        answers.join_thread()
        os._exit(0)


def on_two_ranks(meeting: Path, cases: Sequence[tuple[Path, list[str], Way]]) -> list[list[Any]]:
    """Train cases on two processes; return by rank what they tell of each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["repro.launch.preload"])
    answers = context.Queue()
    ranks = [context.Process(target=_serve, args=(rank, f"file://{meeting}", cases, answers)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        found = dict(answers.get(timeout=120) for _ in ranks)
    finally:
        for process in ranks:
            process.kill()
            process.join()
    assert not any(isinstance(told, str) for told in found.values()), "\n".join(map(str, found.values()))
    return [found[rank] for rank in range(2)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def reasons(home: Path) -> list[Any]:
    """A run undisturbed, one disturbed, and one that stops there, on two ranks; why the second one ended, by rank."""
    norm_free = [*DIGITS, *WITHOUT_NORM]
    cases = [(home / "whole", NOISY, plain), (home / "parts", NOISY, ended), (home / "open", norm_free, until_step_2)]
    return [told[1] for told in on_two_ranks(home / "meeting", cases)]


@pytest.mark.usefixtures("reasons")
def test_a_run_on_two_ranks_goes_on_bit_for_bit(home: Path) -> None:
    assert_same(home / "whole", home / "parts")


def test_both_end_at_the_same_step(reasons: list[Any], home: Path) -> None:
    another = "another process of the run"
    assert reasons == [[another, "a test"], ["a test", another]]
    first, second, third = attempts.read(home / "parts")
    assert [attempt.end for attempt in (first, second, third)] == ["interrupted", "interrupted", "finished"]
    assert (second.end_step, third.step) == (3, 3)
    assert first.end_step in (1, 2)


@pytest.mark.usefixtures("reasons")
def test_a_run_goes_on_with_another_number_of_processes(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not bit for bit, but the same run to float32 rounding where nothing is drawn by rank."""
    config = compose([*DIGITS, *WITHOUT_NORM])
    train(config, home / "open")
    assert "it was saved by 2 processes and goes on with 1: not bit for bit" in capsys.readouterr().out
    train(config, tmp_path)
    one, other = (folder.outcome(directory) for directory in (tmp_path, home / "open"))
    assert one is not None
    assert other is not None
    assert attempts.read(home / "open")[-1].step in (2, 3)  # the ranks ask each other at one of them
    for name in ("train_loss", "val_loss", "test_loss"):
        assert other.last[name] == pytest.approx(one.last[name], rel=1e-4)


@settings(max_examples=50)
@given(speed=st.floats(1e-6, 1e3), step=st.integers(1, 10**6))
def test_they_ask_each_other_about_once_a_second(speed: float, step: int) -> None:
    """Rank 0 says when: from the seconds that a step takes."""
    own = Agreement(0, 1, 10)
    own._asked = (0, time.monotonic() - speed * step)
    interval = own._interval(step)
    assert 1 <= interval <= MOST
    if 0.01 < speed < 0.5 and speed * step > 1:
        assert interval == pytest.approx(1 / speed, rel=0.1, abs=1)


def test_a_process_alone_asks_nobody() -> None:
    own = Agreement(0, 1, 10)
    assert own.at_step(5, True, False) == (True, False)
    assert own.gathered("mine") == ["mine"]
