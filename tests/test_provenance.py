"""Which code trained what: the hash of the package, one code or several on a page, runs of other code in a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from repro import ablation, environment, folder
from repro.codes import Code, OtherCode, named, other_code
from repro.record import failed, identity
from repro.report import to_json, to_markdown
from repro.results import Environment, Failure, Result, write_result
from repro.study import Study, plan
from tests.report_study import ENVIRONMENT, ONE_REFERENCE, cell, page_of, read, result

A, B = "a" * 40, "b" * 40
FIRST, SECOND = "111111111111", "222222222222"


def place(code: str | None = None, commit: str | None = A, dirty: bool | None = False) -> Environment:
    return ENVIRONMENT.model_copy(update={"code": code, "commit": commit, "dirty": dirty})


def test_the_hash_is_of_names_and_contents_wherever_they_stand(tmp_path: Path) -> None:
    def package(name: str, **files: str) -> str:
        for file, text in files.items():
            path = tmp_path / name / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".py").write_text(text)
        (tmp_path / name / "notes.md").write_text(name)
        return environment.source_hash(tmp_path / name)

    first = package("here", a="x = 1", sub__b="y = 2")
    assert package("there", sub__b="y = 2", a="x = 1") == first
    others = {
        package("changed", a="x = 2", sub__b="y = 2"), package("renamed", a="x = 1", sub__c="y = 2"),
        package("moved", a="x = 1", b="y = 2"), package("more", a="x = 1", sub__b="y = 2", c=""),
        package("cut elsewhere", a="x = 1y = 2", sub__b=""),
    }  # fmt: skip
    assert len({first, *others}) == 6


def test_a_result_tells_its_code_and_no_host() -> None:
    found = environment.describe()
    assert found.code == environment.code() == environment.source_hash(Path(environment.__file__).parent)
    assert found.host is None


@pytest.mark.parametrize(
    ("codes", "names"),
    [
        pytest.param([Code(None, A, False)], ["commit aaaaaaaaaaaa"], id="of an older release"),
        pytest.param([Code(None, A, True)], ["commit aaaaaaaaaaaa (dirty)"], id="with changes"),
        pytest.param([Code(None, None, None)], ["unknown (not a git checkout)"], id="unknown"),
        pytest.param([Code(FIRST, None, None)], [FIRST], id="installed from a wheel"),
        pytest.param([Code(FIRST, A, True)], [f"{FIRST}, commit aaaaaaaaaaaa (dirty)"], id="both"),
        pytest.param(
            [Code(FIRST, A, False), Code(FIRST, B, False)], [f"{FIRST}, the same at commits {A[:12]} and {B[:12]}"] * 2,
            id="two commits, one code",
        ),
        pytest.param(
            [Code(FIRST, A, True), Code(SECOND, A, True)],
            [f"{FIRST}, commit aaaaaaaaaaaa (dirty)", f"{SECOND}, commit aaaaaaaaaaaa (dirty)"],
            id="one commit, two changes of it",
        ),
        pytest.param(
            [Code(None, A, False), Code(FIRST, A, False)], [f"{FIRST}, commit aaaaaaaaaaaa"] * 2,
            id="a clean commit is its code, also where an older release did not hash it",
        ),
        pytest.param(
            [Code(None, A, True), Code(FIRST, A, False)], [f"commit {A[:12]} (dirty)", f"{FIRST}, commit {A[:12]}"],
            id="a changed one is not",
        ),
    ],
)  # fmt: skip
def test_names(codes: list[Code], names: list[str]) -> None:
    assert list(named(codes).values()) == names


def page(tmp_path: Path, **environments: list[Environment]) -> tuple[str, dict[str, Any]]:
    results = {
        name: {seed: result(name, seed, 5.0 + seed, environment=found) for seed, found in enumerate(places)}
        for name, places in environments.items()
    }
    built = page_of(read(tmp_path, ONE_REFERENCE), results, "cifar")
    return to_markdown(built), to_json(built)


def test_one_code_is_one_line_without_marks(tmp_path: Path) -> None:
    text, tree = page(tmp_path, post110=[place(FIRST)] * 2, pre110=[place(FIRST, B)] * 2)
    assert f"- Code: {FIRST}, the same at commits {A[:12]} and {B[:12]}\n" in text
    assert "do not share one" not in text
    assert "other code" not in text
    assert list(tree["provenance"]["codes"].values()) == [["post110", "pre110"]]


def test_rows_of_other_code_are_named_and_marked(tmp_path: Path) -> None:
    text, tree = page(tmp_path, post110=[place(FIRST)] * 3, pre110=[place(FIRST), place(SECOND, B, True), place(FIRST)])
    other = f"{SECOND}, commit {B[:12]} (dirty)"
    assert f"- Code: {FIRST}, commit {A[:12]}: post110, pre110; {other}: pre110\n" in text
    assert "The runs do not share one code: a difference may not be the variant's alone" in text
    assert cell(text, "post110", "reproduced") == "6.00 ± 1.00"
    assert cell(text, "pre110", "reproduced") == "6.00 ± 1.00 ²"
    assert f"² Trained by other code than most runs of this page: {other}, seed 1.\n" in text
    assert tree["rows"][1]["codes"] == {"0": f"{FIRST}, commit {A[:12]}", "1": other, "2": f"{FIRST}, commit {A[:12]}"}


def test_a_whole_row_of_other_code_names_no_seeds(tmp_path: Path) -> None:
    text, _ = page(tmp_path, post110=[place()] * 2, pre110=[place(commit=B)])
    assert f"Trained by other code than most runs of this page: commit {B[:12]}.\n" in text


@pytest.fixture
def study(mine: Path) -> Study:
    return plan(ablation.load(str(mine)), "smoke", [0, 1])


def write(study: Study, places: list[Environment | None], status: str = "finished") -> None:
    """Results of the study's runs in order; None leaves a run untrained."""
    for run, found in zip(study.runs, places, strict=True):
        if found is not None:
            fields = {**identity(run.config, "s"), "status": status, "epochs": 1, "environment": found}
            write_result(run.directory, Result(**fields))


def own(**changes: Any) -> Environment:
    return environment.describe().model_copy(update=changes)


def test_runs_of_this_code_are_not_told_of(study: Study) -> None:
    write(study, [own(), own(commit=B, dirty=False), None, own()])
    assert other_code(study) is None


def test_runs_of_other_code_are_counted_with_their_commit(study: Study) -> None:
    write(study, [own(), own(code=SECOND, commit=B, dirty=False), own(code=None, commit=A, dirty=False), None])
    found = other_code(study)
    assert found is not None
    assert (found.runs, found.done) == (2, 3)
    assert str(found).startswith(
        f"2 of 3 finished runs were trained by other code: {SECOND}, commit {B[:12]}; commit {A[:12]}. This is "
    )
    assert str(found).endswith("they are not trained again")


def test_a_run_that_failed_or_does_not_say_is_not_counted(study: Study) -> None:
    write(study, [own(code=None, commit=None, dirty=None), None, None, None])
    run = study.runs[1]
    gone = failed(run.config, "s", Failure(kind="crash", message="x"))
    write_result(run.directory, gone.model_copy(update={"environment": own(code=SECOND)}))
    assert folder.state(run.directory) == "failed"
    assert other_code(study) is None


def test_one_run_is_one_run() -> None:
    assert str(OtherCode(1, 4, ("commit x",), "y")) == (
        "1 of 4 finished runs was trained by other code: commit x. This is y; they are not trained again"
    )


def test_the_hash_of_this_package_is_strict_json(tmp_path: Path) -> None:
    _, tree = page(tmp_path, post110=[environment.describe()])
    assert environment.code() in json.dumps(tree, allow_nan=False)
