"""What a person sees: the table in a terminal, the estimate of the time left, the lines of progress."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
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
    estimate = Estimate(
        {path: (path.name[0], price) for path, price in zip(paths, (1.0, 3.0, 1.0, 3.0), strict=True)}, 2
    )
    assert estimate.remaining(paths, {}) is None, "nothing is known yet"
    estimate.add(paths[0], 10.0)
    assert estimate.of(paths[1]) == pytest.approx(30.0)
    estimate.add(paths[1], 20.0)
    assert estimate.of(paths[3]) == 20.0
    assert estimate.remaining([paths[3]], {paths[2]: 4.0}) == pytest.approx((20 + 6) / 2)


def test_lines_say_run_k_of_n_and_why_one_failed(tmp_path: Path) -> None:
    out = io.StringIO()
    task = Task(tmp_path / "run", "wide seed 0", devices=1, threads=1, accelerator="cpu")
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


def test_the_picture_shows_epoch_and_newest_metric(tmp_path: Path) -> None:
    task = Task(tmp_path, "wide seed 0", devices=1, threads=1, accelerator="cpu")
    folder.write_progress(tmp_path, folder.Progress(3, 15, {"train_loss": 0.5, "val_top1_error": 12.34}))
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with Display([task], Estimate({tmp_path: ("wide", 1.0)}, 1), console) as display:
        display.started(task)
        display.tick([task])
    assert "run 1 of 1" in out.getvalue()
    assert "epoch 3/15 loss 0.50, val 12.3 %" in out.getvalue()
