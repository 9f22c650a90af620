"""The learning rate is a closed form of the step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.compose import compose
from repro.config import RecipeConfig, ScheduleConfig
from repro.duration import Duration
from repro.errors import InputError
from repro.optim.schedules import build_schedule, total_steps


def recipe(duration: str = "10ep", **schedule: object) -> RecipeConfig:
    return RecipeConfig(
        name="test", duration=duration, batch_size=100, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0,
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


@given(epochs=st.integers(1, 50), steps_per_epoch=st.integers(1, 50), warmup=st.integers(0, 60))
def test_a_schedule_keeps_its_shape_at_any_budget(epochs: int, steps_per_epoch: int, warmup: int) -> None:
    """The same fraction of the run has the same rate, whatever its length."""
    text = f"{warmup}%"
    try:
        short = build_schedule(recipe(f"{epochs}ep", warmup=text), steps_per_epoch)
    except InputError:
        return
    double = build_schedule(recipe(f"{2 * epochs}ep", warmup=text), steps_per_epoch)
    assert all(0 <= short(step) <= 0.1 + 1e-12 for step in range(short.total))
    late = short.total - 1
    assert double(2 * late) == pytest.approx(short(late), abs=0.1 * 4 / short.total)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"warmup": "100%"}, "the run has only"), ({"name": "step", "milestones": ("80%", "20%")}, "do not increase")],
    ids=["warm-up as long as the run", "milestones go back"],
)
def test_impossible_schedules_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_schedule(recipe(**changes), 10)
