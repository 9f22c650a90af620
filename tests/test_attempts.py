"""The book of a run's attempts: what counts as a failure, and lines that are broken."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro import attempts
from repro.attempts import Attempt, failures, read
from repro.launch.retry import Retries


def test_an_attempt_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    attempts.begin(tmp_path, 40)
    attempts.end(tmp_path, "failed", 60, "out_of_memory", "CUDA out of memory")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID")
    attempts.begin(tmp_path)
    first, second = read(tmp_path)
    assert (first.host, first.pid, first.job) == (socket.gethostname(), os.getpid(), "12_3")
    assert (first.step, first.end, first.end_step, first.kind) == (40, "failed", 60, "out_of_memory")
    assert (second.step, second.end, second.job) == (0, None, None)


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"end": "finished"}, False), ({"end": "diverged"}, False), ({"end": "failed"}, True), ({}, True),
        ({"step": 5, "end": "interrupted", "end_step": 9}, False),
        ({"step": 5, "end": "interrupted", "end_step": 5}, True),
        ({"end": "interrupted"}, True),
    ],
    ids=["finished", "diverged", "failed", "killed", "saved", "saved without a step", "ended before it could save"],
)  # fmt: skip
def test_what_counts_against_the_retries(fields: dict[str, Any], counts: bool) -> None:
    assert failures([Attempt("2026-01-01T00:00:00+00:00", "here", 1, **fields)]) == counts


LINES = st.lists(
    st.sampled_from(
        ['{"begun": "x", "host": "h", "pid": 1}', '{"end": "failed", "ended": "y"}', "", "\x00", "[1]", "3"]
    )
    | st.text(max_size=20),
    max_size=10,
)


@settings(max_examples=40)
@given(LINES, st.integers(0, 30))
def test_a_broken_book_is_read_as_far_as_it_goes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cut: int
) -> None:
    """A full disk or a power cut may leave anything; what is written afterwards is read all the same."""
    directory = tmp_path_factory.mktemp("run")
    text = "\n".join(lines)
    (directory / attempts.FILE).write_text(text[: max(0, len(text) - cut)], encoding="utf-8", errors="replace")
    before = read(directory)
    attempts.begin(directory)
    attempts.end(directory, "failed")
    assert read(directory)[:-1] == before
    assert read(directory)[-1].end == "failed"


def test_what_a_later_release_added_is_left_out(tmp_path: Path) -> None:
    (tmp_path / attempts.FILE).write_text(json.dumps({"begun": "x", "host": "h", "pid": 1, "mood": "good"}) + "\n")
    assert read(tmp_path) == (Attempt("x", "h", 1),)


def test_retries_are_counted_from_when_the_command_began(tmp_path: Path) -> None:
    """What failed before does not count; what another launcher saw fail since then does."""
    attempts.begin(tmp_path)
    attempts.end(tmp_path, "failed")
    retries = Retries([tmp_path], allowed=1)
    assert (retries.used(tmp_path), retries.left(tmp_path)) == (0, True)
    for used, left in ((1, True), (2, False)):
        attempts.begin(tmp_path)
        attempts.end(tmp_path, "failed")
        assert (retries.used(tmp_path), retries.left(tmp_path)) == (used, left)
    retries.excuse(tmp_path)
    assert retries.left(tmp_path)


def test_a_failure_that_could_not_be_written_counts_all_the_same(tmp_path: Path) -> None:
    retries = Retries([tmp_path], allowed=1)
    retries.note(tmp_path)
    assert retries.left(tmp_path)
    retries.note(tmp_path)
    assert not retries.left(tmp_path)
