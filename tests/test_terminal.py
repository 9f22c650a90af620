"""What a person sees: the table in a terminal, the estimate of the time left, the lines of progress."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from repro import folder
from repro.launch import Task
from repro.progress import Display, Estimate, clock
from repro.report.terminal import to_terminal
from tests.report_study import FULL, ONE_REFERENCE, page_of, read


def test_the_table_fits_a_terminal_and_marks_what_is_unverified(tmp_path: Path) -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(to_terminal(page_of(read(tmp_path, ONE_REFERENCE), FULL)))
    text = out.getvalue()
    assert all(len(line) <= 100 for line in text.splitlines())
    assert "(unverified)" in text
    assert "bn|after" in text
    assert "Verdict: effect reproduced in 2 of 3 contrasts" in text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (65, "1:05"), (7265, "2:01:05")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_estimate_learns_from_the_same_row_first_and_from_prices_else() -> None:
    paths = [Path(name) for name in ("a0", "b0", "a1", "b1")]
    prices = {path: (path.name[0], price) for path, price in zip(paths, (1.0, 3.0, 1.0, 3.0), strict=True)}
    estimate = Estimate(prices, 2)
    assert estimate.remaining({}) is None, "nothing is known yet"
    for path in paths[:3]:
        estimate.begin(path)
        estimate.begin(path)  # begun again: it waits no less than before
    estimate.add(paths[0], 10.0)
    assert estimate.of(paths[1]) == pytest.approx(30.0)
    assert estimate.remaining({paths[1]: 5.0, paths[2]: 4.0}) == pytest.approx((25 + 6 + 30) / 2)
    estimate.add(paths[1], 20.0)
    assert estimate.of(paths[3]) == 20.0
    assert estimate.remaining({paths[2]: 4.0}) == pytest.approx((20 + 6) / 2)
    estimate.begin(paths[3])
    assert estimate.remaining({paths[2]: 14.0}) == 0.0, "a run that takes longer than expected"


RUN = st.tuples(st.sampled_from("abc"), st.floats(0.1, 1000))


@given(st.lists(RUN, min_size=1, max_size=12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_the_estimate_is_the_sum_of_what_each_run_is_expected_to_take(
    took: list[tuple[str, float]], width: int, chance: random.Random
) -> None:
    """Its running sums are those of a count from scratch, whatever the order in which runs begin and end."""
    prices = {Path(str(index)): (row, float(ord(row))) for index, (row, _) in enumerate(took)}
    estimate, waiting, running = Estimate(prices, width), list(prices), dict[Path, float]()
    while waiting or running:
        if waiting and (not running or chance.random() < 0.5):
            path = waiting.pop(chance.randrange(len(waiting)))
            estimate.begin(path)
            running[path] = 0.0
        else:
            path = chance.choice(list(running))
            del running[path]
            estimate.add(path, took[int(path.name)][1])
        expected = [estimate.of(path) for path in (*waiting, *running)]
        if expected and expected[0] is not None:
            sides = min(width, len(expected))
            assert estimate.remaining(running) == pytest.approx(sum(filter(None, expected)) / sides, abs=1e-6)


def task_in(directory: Path) -> Task:
    return Task(directory, "wide seed 0", row="wide", nodes=1, devices=1, threads=1, workers=0, accelerator="cpu")


def test_lines_say_run_k_of_n_and_why_one_failed(tmp_path: Path) -> None:
    out = io.StringIO()
    task = task_in(tmp_path / "run")
    display = Display([task], Estimate({task.directory: ("wide", 1.0)}, 1), Console(file=out, width=100))
    with display:
        display.started(task)
        display.tick([task])
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "result.json").write_text("{")
        display.ended(task)
    assert out.getvalue().startswith("[1/1] wide seed 0: ")
    assert "not a result file" in out.getvalue()
    assert out.getvalue().count("\n") == 1


def test_a_run_that_another_process_trained_teaches_nothing_and_is_named(tmp_path: Path) -> None:
    out = io.StringIO()
    display = Display([task_in(tmp_path)], Estimate({tmp_path: ("wide", 1.0)}, 1), Console(file=out, width=100))
    with display:
        display.ended(task_in(tmp_path))
    assert out.getvalue() == "[1/1] wide seed 0: planned · trained by another process\n"
    assert display.estimate.of(tmp_path) is None


def test_the_picture_of_many_runs_fits_the_terminal(tmp_path: Path) -> None:
    tasks = [task_in(tmp_path / str(index)) for index in range(200)]
    out = io.StringIO()
    console = Console(file=out, width=80, height=10, force_terminal=True)
    with Display(tasks, Estimate({task.directory: ("wide", 1.0) for task in tasks}, 1), console) as display:
        display.tick(tasks)
    assert "and 194 more" in out.getvalue()


def test_the_picture_shows_epoch_and_newest_metric(tmp_path: Path) -> None:
    task = task_in(tmp_path)
    folder.write_progress(tmp_path, folder.Progress(3, 15, {"train_loss": 0.5, "val_top1_error": 12.34}))
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with Display([task], Estimate({tmp_path: ("wide", 1.0)}, 1), console) as display:
        display.started(task)
        display.tick([task])
    assert "run 1 of 1" in out.getvalue()
    assert "epoch 3/15 loss 0.50, val 12.3 %" in out.getvalue()
