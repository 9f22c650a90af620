"""Composing: the quick way gives what Hydra gives, for every row of every table, and blames what Hydra would blame."""

from __future__ import annotations

import pytest

from repro import ablation, compose
from repro.compose import scale_overrides
from repro.errors import InputError


@pytest.mark.parametrize("name", ablation.names())
def test_the_quick_way_equals_hydras(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ablation.load(name)
    cases = [
        [*spec.base, *scale_overrides(scale), *entry.set, *spec.variants[row].set, *more, "seed=3"]
        for scale, entry in spec.scales.items()
        for row, more in list(entry.variants.items())[::3]
    ]
    quick = [compose.compose(case) for case in cases]
    monkeypatch.setattr(compose, "_quick_tree", lambda _: None)
    assert quick == [compose.compose(case) for case in cases]


def test_composing_once_leaves_nothing_behind() -> None:
    base = ["scale=laptop", "model=resnet20"]
    first = compose.compose(base)
    assert compose.compose([*base, "recipe.lr=0.5", "model.depths=[1,1,1]"]) != first
    assert compose.compose(base) == first


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.gruops=2", "model has no 'gruops'; did you mean 'groups'?"),
        ("model.depths.x=2", "model.depths is a value and has no key 'x'"),
        ("+model.extra=2", "unknown key 'model.extra'"),
        ("+data.sizee=2", "unknown key 'data.sizee'; did you mean 'size'?"),
        ("+data.train=2", "unknown key 'data.train'; valid: channels, classes, mirror, name, size, test, val"),
        ("data.size=4", "data.size is 4: input should be greater than or equal to 8"),
        ("~recipe.lr", "recipe.lr is missing"),
        ("recipe.lr=${nothing}", "'nothing' not found"),
        ("recipe.schedule.name=cosin", "did you mean 'cosine'?"),
    ],
)
def test_mistakes_are_blamed_alike(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        compose.compose(["scale=laptop", override])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        *[
            (
                [f"recipe.evaluation.views={views}"],
                f"recipe.evaluation.views={views} averages over mirror images, and a mirrored image of data=digits",
            )
            for views in ("flip", "ten_crop", "full")
        ],
        (["recipe.bce_threshold=0.2"], "recipe.bce_threshold=0.2 is of recipe.loss=bce; found cross_entropy"),
        *[
            (
                ["trainer.fused=true", f"recipe.optimizer={{name: {name}, nesterov: false}}"],
                f"trainer.fused=true: {name} has no fused update; expected recipe.optimizer.name sgd or adamw",
            )
            for name in ("rmsprop_tf", "lamb")
        ],
        (
            ["trainer=gpu", "trainer.fused=true", "trainer.precision=16-mixed", "recipe.clip.agc=0.01"],
            "trainer.fused=true with trainer.precision=16-mixed unscales the gradients within the step",
        ),
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed needs trainer.accelerator=gpu"),
        (
            ["trainer=ddp", "trainer.accelerator=cpu", "recipe.batch_norm.sync=true"],
            "recipe.batch_norm.sync=true on several devices needs trainer.accelerator=gpu",
        ),
        (["recipe.clip={norm: 1.0, agc: 0.01}"], "norm=1.0 and agc=0.01: set one of them, the other null"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused_before_anything_is_trained(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        compose.compose(["scale=laptop", *overrides])
    assert message in str(caught.value)
