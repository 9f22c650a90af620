"""The learning rate is a closed form of the step."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from repro.compose import compose
from repro.config import RecipeConfig
from repro.duration import Duration
from repro.errors import InputError
from repro.optim.config import OptimizerConfig, ScheduleConfig
from repro.optim.schedules import build_schedule, total_steps


def recipe(duration: str = "10ep", **schedule: object) -> RecipeConfig:
    return RecipeConfig(
        name="test", duration=duration, batch_size=100, lr=0.1, optimizer=OptimizerConfig(), weight_decay=0.0,
        schedule=ScheduleConfig(**{"name": "cosine", **schedule}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "steps"),
    [("3ep", 30), ("3 epochs", 30), ("400st", 400), ("1.5ep", 15), ("1000ex", 10), ("1050ex", 11), ("50%", 100)],
)
def test_durations_become_steps(text: str, steps: int) -> None:
    assert Duration.parse(text).steps(steps_per_epoch=10, batch_size=100, total=200) == steps


@pytest.mark.parametrize("text", ["15", "ep", "-3ep", "3 parsecs", "1e3st", "", "ep15"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a duration"):
        Duration.parse(text)


def test_the_length_of_a_run_is_no_percentage() -> None:
    with pytest.raises(InputError, match="percentage of itself"):
        total_steps(recipe("50%"), 10)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.01), (399, 0.01), (400, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 1e-3), (63_999, 1e-3)],
)
def test_he2015_cifar_with_the_110_layer_warm_up(step: int, lr: float) -> None:
    """Section 4.2: lr 0.1, a tenth at 32k and 48k of 64k; 110 layers begin with 0.01 for 400 iterations."""
    config = compose(["recipe=he2015_cifar", "recipe.schedule.warmup=400st", "scale=cifar"]).recipe
    schedule = build_schedule(config, steps_per_epoch=352)
    assert schedule.total == 64_000
    assert schedule(step) == pytest.approx(lr)


@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.1), (29, 0.1), (30, 0.01), (60, 0.001), (99, 0.0001)])
def test_xie2017_divides_by_ten_three_times(epoch: int, lr: float) -> None:
    config = compose(["scale=imagenet", "recipe=xie2017_imagenet"]).recipe
    assert build_schedule(config, steps_per_epoch=5004)(epoch * 5004) == pytest.approx(lr)


def test_cosine_warms_up_in_a_line_and_ends_at_its_final_factor() -> None:
    schedule = build_schedule(recipe(warmup="20%", warmup_factor=0.1, final_factor=0.01), steps_per_epoch=10)
    assert [schedule(step) for step in (0, 10, 20)] == pytest.approx([0.01, 0.055, 0.1])
    assert schedule(60) == pytest.approx(0.1 * (0.01 + 0.99 * 0.5))
    assert schedule(100) == pytest.approx(0.001)


NAMES = ("constant", "step", "cosine", "polynomial", "exponential")


@st.composite
def settings(draw: st.DrawFn, names: tuple[str, ...] = NAMES) -> dict[str, object]:
    """Any schedule whose durations are whole percents of the run."""
    percents = st.integers(0, 99)
    return {
        "name": draw(st.sampled_from(names)),
        "warmup": f"{draw(percents)}%",
        "warmup_factor": draw(st.floats(0, 1)),
        "milestones": tuple(f"{p}%" for p in sorted(draw(st.lists(percents, max_size=3)))),
        "gamma": draw(st.floats(0.01, 1)),
        "every": f"{draw(st.integers(1, 100))}%",
        "staircase": draw(st.booleans()),
        "power": draw(st.floats(0.25, 4)),
        "final_factor": draw(st.floats(0, 1)),
    }


@given(epochs=st.integers(1, 5), times=st.integers(2, 5), chosen=settings())
def test_a_schedule_keeps_its_shape_at_any_budget(epochs: int, times: int, chosen: dict[str, object]) -> None:
    """The same fraction of the run has the same rate, whatever its length: runs of 100 steps an epoch."""
    short = build_schedule(recipe(f"{epochs}ep", **chosen), 100)
    long = build_schedule(recipe(f"{times * epochs}ep", **chosen), 100)
    for step in range(0, short.total, 7):
        assert long(times * step) == pytest.approx(short(step), rel=1e-9, abs=1e-12)


@given(total=st.integers(1, 300), chosen=settings())
def test_a_rate_is_never_negative_nor_above_the_peak(total: int, chosen: dict[str, object]) -> None:
    try:
        schedule = build_schedule(recipe(f"{total}st", **chosen), 100)
    except InputError:
        return  # a warm-up of a few percent is all of a few steps
    assert all(0 <= schedule(step) <= 0.1 * (1 + 1e-12) for step in range(schedule.total))


@given(total=st.integers(2, 300), chosen=settings(("constant", "cosine", "polynomial")))
def test_a_linear_warm_up_never_falls_and_ends_on_the_peak(total: int, chosen: dict[str, object]) -> None:
    try:
        schedule = build_schedule(recipe(f"{total}st", **chosen), 100)
    except InputError:
        return
    rates = [schedule(step) for step in range(schedule.warmup + 1)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(0.1)
    largest = 0.1 / max(1, schedule.warmup) * (1 + 1e-9)
    assert all(late - early <= largest for early, late in pairwise(rates))


@given(total=st.integers(1, 300), chosen=settings(("constant", "step", "cosine", "polynomial", "exponential")))
def test_a_rate_never_rises_behind_the_warm_up(total: int, chosen: dict[str, object]) -> None:
    try:
        schedule = build_schedule(recipe(f"{total}st", **chosen), 100)
    except InputError:
        return
    rates = [schedule(step) for step in range(schedule.warmup, schedule.total)]
    assert all(late <= early * (1 + 1e-12) for early, late in pairwise(rates))


Torch = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]


@pytest.mark.parametrize(
    ("chosen", "theirs"),
    [
        ({"name": "cosine"}, lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, 40)),
        ({"name": "cosine", "final_factor": 0.05}, lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, 40, eta_min=0.005)),
        ({"name": "polynomial"}, lambda sgd: lr_scheduler.PolynomialLR(sgd, 40, power=1.0)),
        ({"name": "polynomial", "power": 2.0}, lambda sgd: lr_scheduler.PolynomialLR(sgd, 40, power=2.0)),
        ({"name": "step", "milestones": ("50%", "30st")}, lambda sgd: lr_scheduler.MultiStepLR(sgd, [20, 30])),
        ({"name": "exponential", "every": "7st", "gamma": 0.9}, lambda sgd: lr_scheduler.StepLR(sgd, 7, gamma=0.9)),
        (
            {"name": "exponential", "every": "1st", "gamma": 0.9, "staircase": False},
            lambda sgd: lr_scheduler.ExponentialLR(sgd, gamma=0.9),
        ),
        (
            {"name": "constant", "warmup": "10st", "warmup_factor": 0.01},
            lambda sgd: lr_scheduler.LinearLR(sgd, start_factor=0.01, total_iters=10),
        ),
        (
            {"name": "constant", "warmup": "10st", "warmup_factor": 0.01, "warmup_shape": "constant"},
            lambda sgd: lr_scheduler.ConstantLR(sgd, factor=0.01, total_iters=10),
        ),
    ],
    ids=[
        "cosine",
        "cosine to 5 %",
        "linear",
        "square",
        "step",
        "staircase",
        "exponential",
        "warm-up",
        "constant warm-up",
    ],
)
def test_it_is_the_schedule_that_torch_computes_step_by_step(chosen: dict[str, object], theirs: Torch) -> None:
    sgd = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = theirs(sgd)
    schedule = build_schedule(recipe("4ep", **chosen), steps_per_epoch=10)
    for step in range(40):
        assert schedule(step) == pytest.approx(sgd.param_groups[0]["lr"], abs=1e-12), step
        sgd.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [
        (0, 0.0),
        (2.5, 0.128),
        (5, 0.256 * 0.97**2),
        (7.1, 0.256 * 0.97**2),
        (7.2, 0.256 * 0.97**3),
        (349, 0.256 * 0.97**145),
    ],
)
def test_efficientnet_counts_its_decay_from_the_first_step(epoch: float, lr: float) -> None:
    """Tan & Le 2019 and its released code: 0.256, x 0.97 every 2.4 epochs, 5 epochs of warm-up towards 0.256."""
    chosen = {"name": "exponential", "warmup": "5ep", "gamma": 0.97, "every": "2.4ep"}
    config = recipe("350ep", **chosen).model_copy(update={"lr": 0.016, "lr_batch": 256, "batch_size": 4096})
    assert build_schedule(config, steps_per_epoch=1000)(round(epoch * 1000)) == pytest.approx(lr)


def test_periods_of_part_of_a_step_do_not_drift() -> None:
    """2.4 epochs of 1,251 steps are 3002.4 steps: the drops come at 3003, 6005, 9008, 12010 and 15012."""
    schedule = build_schedule(recipe("20ep", name="exponential", gamma=0.5, every="2.4ep"), 1251)
    drops = [step for step in range(1, 15_100) if schedule(step) < schedule(step - 1)]
    assert drops == [3003, 6005, 9008, 12010, 15012]


def test_a_period_that_ends_on_a_step_is_not_missed_by_rounding() -> None:
    """30 times 1.1 is 33; in binary 33 / 1.1 is less than 30."""
    assert build_schedule(recipe("40ep", name="exponential", gamma=0.5, every="1.1ep"), 1)(33) == 0.1 * 0.5**30


@pytest.mark.parametrize(("step", "lr"), [(0, 0.5), (150_000, 0.25), (299_999, 0.5 / 300_000)])
def test_shufflenet_goes_down_in_a_line(step: int, lr: float) -> None:
    """Zhang et al. 2018, section 4: from 0.5 to 0 in 3 x 10^5 iterations."""
    config = recipe("300000st", name="polynomial").model_copy(update={"lr": 0.5})
    assert build_schedule(config, steps_per_epoch=1252)(step) == pytest.approx(lr)


def test_a_decay_between_two_drops_is_the_root() -> None:
    smooth = build_schedule(recipe(name="exponential", gamma=0.25, every="2ep", staircase=False), 10)
    assert [smooth(step) for step in (0, 10, 20)] == pytest.approx([0.1, 0.05, 0.025])
    assert math.log(smooth(7) / smooth(3)) == pytest.approx(4 / 20 * math.log(0.25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup": "100%"}, r"recipe.schedule.warmup=100% is 100 steps; the run has only 100"),
        ({"name": "step", "milestones": ("80%", "20%")}, r"milestones=\['80%', '20%'\] do not increase: \(80, 20\)"),
        ({"name": "exponential", "every": "0ep"}, "recipe.schedule.every=0ep is no length; expected more than 0"),
    ],
    ids=["warm-up as long as the run", "milestones go back", "every nothing"],
)
def test_impossible_schedules_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_schedule(recipe(**changes), 10)


def test_only_an_exponential_decay_has_periods() -> None:
    assert build_schedule(recipe(every="0ep"), 10)(0) == 0.1


def test_a_schedule_needs_no_torch() -> None:
    code = "import sys, repro.optim.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
