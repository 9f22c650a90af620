"""Sweeps of the number of groups at equal cost: the rows, their names and widths, what is refused, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro import ablation
from repro.cost.budget import own_width
from repro.errors import InputError
from repro.models.residual_config import ResidualConfig
from repro.request import parse_groups, parse_request
from repro.study import Study, check_equal_cost, count_prices, plan
from repro.verbs.report import make_page, read_results
from tests.conftest import Outcome

Command = Callable[..., Outcome]
TABLE = "resnext_groups"


def study(*words: str, name: str = TABLE) -> Study:
    return parse_request(["seeds=2", *words]).study(ablation.load(name))


def widths(found: Study) -> dict[str, tuple[int, int]]:
    """Groups and width per group of each row, in the study's order."""
    models = {name: config.model for name, config in found.configs.items()}
    return {name: own_width(model) for name, model in models.items() if isinstance(model, ResidualConfig)}


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        pytest.param(
            ["groups=[1,2,4,8,16,32]"],
            {"1x64d": (1, 32), "2x40d": (2, 20), "4x24d": (4, 12), "8x14d": (8, 7), "16x7d": (16, 4), "32x4d": (32, 2)},
            id="at half the widths a new row has its name from the network of full size",
        ),
        pytest.param(
            ["groups=[1,2,4,8,16,32]", "scale=imagenet"],
            {
                "1x64d": (1, 64), "2x40d": (2, 40), "4x24d": (4, 24), "8x14d": (8, 14), "16x7d": (16, 7),
                "32x4d": (32, 4),
            },
            id="the published row stands, also where the solver would say 8x13d",
        ),
        pytest.param(["groups=[64,2]"], {"1x64d": (1, 32), "64x2d": (64, 1), "2x40d": (2, 20)}, id="reference first"),
        pytest.param(["groups=[2,1]"], {"2x40d": (2, 20), "1x64d": (1, 32)}, id="in the order that was asked for"),
        pytest.param(["groups=[2,16]", "variants=[16x7d]"], {"1x64d": (1, 32), "16x7d": (16, 4)}, id="some of them"),
        pytest.param(
            ["groups=[16]", "model.depths=[1,1]", "data.size=16"], {"1x64d": (1, 32), "16x7d": (16, 4)},
            id="solved for the network that is trained",
        ),
    ],
)  # fmt: skip
def test_rows(words: list[str], rows: dict[str, tuple[int, int]]) -> None:
    found = widths(study(*words))
    assert found == rows
    assert list(found) == list(rows)


@pytest.mark.parametrize("scale", ["smoke", "laptop", "imagenet"])
def test_published_rows_keep_their_runs(scale: str) -> None:
    published = study(f"scale={scale}")
    swept = study(f"scale={scale}", "groups=[1,2,4,8,16,32]", "equal_cost=0.2")
    for name in ("1x64d", "2x40d", "4x24d", "8x14d", "32x4d"):
        assert swept.run(name, 0).directory == published.run(name, 0).directory
        assert swept.ablation.variants[name] == published.ablation.variants[name]
    assert len({run.id for run in swept.runs}) == 12


def test_a_new_row_is_of_the_reference_and_has_no_published_value() -> None:
    found = study("groups=[1,16]", "equal_cost=0.1")
    row = found.ablation.variants["16x7d"]
    assert (row.published.value, row.reference, row.extends) == (None, "1x64d", "1x64d")
    own, reference = (found.configs[name].model_dump(mode="json") for name in ("16x7d", "1x64d"))
    for tree in (own, reference):
        del tree["model"]["groups"], tree["model"]["width_per_group"], tree["labels"]["variant"]
    assert own == reference


MINE = """\
title: Groups
paper: {key: me2026, title: Groups, authors: Me, venue: Nowhere, arxiv: "0000.00000", table: Table 1}
claim: More groups are better.
metric: {name: top1_error, unit: "%", better: lower, protocol: digits, decimals: 1}
base: [model=resnet50, model.stem=cifar, model.stem_width=8, "model.widths=[16,32]", "model.depths=[1,1]"]
reference: whole
variants:
  whole: {set: [model.groups=1], published: 9.0}
  two wide: {set: [model.groups=2, model.width_per_group=30], published: 7.0}
  two: {set: [model.groups=2, model.width_per_group=10], published: 8.0}
  2x10d pre: {set: [model.groups=2, model.width_per_group=10, model.order=pre], published: 8.0}
  4x6d: {set: [model.order=pre], published: 8.5}
scales:
  smoke: {set: [recipe.duration=1ep], note: digits}
"""


@pytest.fixture
def groups_file(tmp_path: Path) -> Path:
    path = tmp_path / "groups.yaml"
    path.write_text(MINE, encoding="utf-8")
    return path


def test_a_file_of_the_users_own(groups_file: Path) -> None:
    """The row nearest in cost is the published one of its count; a name that is taken is not taken again."""
    found = study("scale=smoke", "groups=[2,4]", name=str(groups_file))
    assert widths(found) == {"whole": (1, 16), "two": (2, 10), "4x6d-solved": (4, 6)}
    assert found.ablation.equal_cost is not None
    assert (found.ablation.equal_cost.macs, found.ablation.equal_cost.params) == (0.05, None)
    check_equal_cost(found, count_prices(found.configs))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=st.lists(st.integers(1, 24), min_size=1, max_size=5, unique=True))
def test_every_list_gives_a_row_for_each_count(groups: list[int], groups_file: Path) -> None:
    found = study("scale=smoke", f"groups={groups}", name=str(groups_file))
    counts = [count for count, _ in widths(found).values()]
    assert counts == (groups if 1 in groups else [1, *groups])
    assert parse_request(found.rerun.replace("'", "").split()[3:]).groups == tuple(groups)
    assert set(found.sweep.solved) == {name for name, (count, _) in widths(found).items() if count not in (1, 2)}


def test_rows_that_miss_the_cost_are_refused_with_what_would_work() -> None:
    found = study("groups=[1,16,48]")
    with pytest.raises(InputError) as error:
        check_equal_cost(found, count_prices(found.configs))
    text = str(error.value)
    assert "16x7d has 9,300,480 macs, +6.4% of 1x64d's 8,743,424 (allowed ±5.0%)" in text
    assert text.endswith(
        "; instead of 16 groups: 15 or 20, instead of 48 groups: 33 or 61; or allow it with equal_cost=0.21"
    )
    for words in (["groups=[1,15,20,33,61]"], ["groups=[1,16,48]", "equal_cost=0.21"]):
        allowed = study(*words)
        check_equal_cost(allowed, count_prices(allowed.configs))


def test_a_solved_row_is_held_to_its_macs_alone() -> None:
    found = study("groups=[1,16]", "scale=imagenet")
    costs = count_prices(found.configs)
    assert costs["16x7d"].params / costs["1x64d"].params - 1 < -0.08
    check_equal_cost(found, costs)


def test_equal_cost_changes_the_rule_that_the_table_has() -> None:
    rule = study("equal_cost=0.1").ablation.equal_cost
    assert rule is not None
    assert (rule.macs, rule.params) == (0.1, 0.1)
    tight = study("equal_cost=0.01")
    with pytest.raises(InputError, match=r"32x4d has 8,858,112 macs, \+1\.3% .*allowed ±1\.0%"):
        check_equal_cost(tight, count_prices(tight.configs))


def test_the_page_tells_of_solved_rows_and_of_the_rule(repro: Command) -> None:
    status, page, _ = repro("report", TABLE, "groups=[1,16]", "equal_cost=0.1", "seeds=2")
    assert status == 0
    assert "| 16x7d ¹ |" in page
    assert (
        "¹ Solved, not published: 16 groups of 4 channels at this scale, the width whose MACs are nearest to 1x64d's "
        "(+6.4 %; parameters +3.0 %). Rows may differ from it by 10 % in MACs, published ones also by 10 % in "
        "parameters." in page
    )
    assert "- Rows may differ from their reference by 10 % in MACs and parameters: equal_cost=0.1.\n" in page
    assert "repro run resnext_groups scale=laptop seeds=2 'groups=[1,16]' equal_cost=0.1\n" in page
    assert "Not run at this scale: 2x40d, 4x24d, 8x14d, 32x4d, 101-1x64d" in page
    tree = json.loads(repro("report", TABLE, "groups=[1,16]", "equal_cost=0.1", "--format", "json")[1])
    assert [(row["variant"], row["published"]) for row in tree["rows"]] == [("1x64d", 23.9), ("16x7d", None)]
    assert tree["rows"][1]["note"].startswith("Solved, not published")


def test_a_page_as_published_says_nothing_of_it() -> None:
    found = study()
    page = make_page(found, read_results(found))
    assert page.rerun == "repro run resnext_groups scale=laptop seeds=2"
    assert all(row.note is None for row in page.rows)


WRONG = {
    "zero": (["groups=[0]"], "groups='[0]': expected a list of numbers of groups from 1 on, for example groups=[1,2"),
    "a word": (["groups=x"], "groups='x': expected a list of numbers"),
    "a number": (["groups=16"], "groups='16': expected a list of numbers"),
    "empty": (["groups=[]"], "groups='[]': expected a list of numbers"),
    "negative": (["groups=[-2]"], "groups='[-2]': expected a list of numbers"),
    "twice in the list": (["groups=[2,1,2]"], "groups='[2,1,2]' names 2 twice"),
    "given twice": (["groups=[1]", "groups=[2]"], "groups is given twice: '[1]' and '[2]'"),
    "no width fits": (["groups=[2,100000]"], "groups=[2,100000]: resnext_groups, reference 1x64d: groups has 100000; "
                      "even 100000x1d, the narrowest, has blocks of"),
    "another row": (["groups=[1,2]", "variants=[4x24d]"], "resnext_groups at scale laptop with 'groups=[1,2]': unknown "
                    "variant '4x24d'; did you mean '2x40d'?"),
    "no bottlenecks": (["groups=[2]", "plain_vs_residual"], "groups=[2]: plain_vs_residual, reference plain-20: "),
    "no part": (["groups=[2]", "equal_cost=10%"], "equal_cost='10%': expected a part of the reference's cost between"),
    "more than all": (["equal_cost=2"], "equal_cost='2': expected a part of the reference's cost"),
    "no rule": (["equal_cost=0.1", "plain_vs_residual"], "equal_cost=0.1: the rows of plain_vs_residual need not cost"),
    "what rows differ in": (["groups=[2]", "model.groups=4"], "model.groups is what the rows of resnext_groups differ"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("verb", ["plan", "status"])
def test_wrong_words_are_one_line_and_exit_status_2(words: list[str], message: str, verb: str, repro: Command) -> None:
    name = next((word for word in words if "=" not in word), TABLE)
    status, output, error = repro(verb, name, *(word for word in words if "=" in word))
    assert (status, output, error.count("\n")) == (2, "", 1)
    assert message in error


def test_spaces_in_a_list() -> None:
    assert parse_groups(" [1, 2,16 ] ") == (1, 2, 16)


def test_reading_a_sweep_again_imports_no_torch(repro: Command) -> None:
    """The first look solves and prices, in a process of its own; later ones read the cache."""
    words = [TABLE, "groups=[1,16]", "equal_cost=0.1", "seeds=1"]
    assert repro("plan", *words)[0] == 0
    code = "import sys; from repro.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for verb in ("status", "report", "plan"):
        done = subprocess.run([sys.executable, "-c", code, verb, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "16x7d" in done.stdout


def test_solving_for_the_first_time_imports_no_torch_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`repro run` solves before it has looked at a device: torch belongs to the fork server, not to its own process."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "empty"))
    code = (
        "import sys; from repro import ablation; from repro.request import parse_request\n"
        "study = parse_request(['groups=[2,16]']).study(ablation.load('resnext_groups'))\n"
        "print(list(study.configs), 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "['1x64d', '2x40d', '16x7d'] False\n", done.stderr


def test_a_reference_that_the_scale_leaves_out_is_named(groups_file: Path) -> None:
    text = MINE.replace("reference: whole\n", "reference: whole\n", 1).replace(
        "{set: [recipe.duration=1ep], note: digits}", "{variants: [other], note: digits}"
    ).replace("scales:", "  other: {set: [model.groups=1], published: 1.0, reference: other}\nscales:")  # fmt: skip
    groups_file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="does not run its reference whole at scale smoke"):
        study("scale=smoke", "groups=[2]", name=str(groups_file))


def test_plan_of_a_table_is_not_changed_by_a_sweep() -> None:
    loaded = ablation.load(TABLE)
    before = loaded.model_dump()
    parse_request(["groups=[1,16]"]).study(loaded)
    assert loaded.model_dump() == before
    assert plan(loaded, "laptop", [0]).sweep.words == ()
