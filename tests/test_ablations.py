"""Three published tables as they are shipped: their numbers, their rows, what each row changes and what it builds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from repro import ablation
from repro.compose import compose
from repro.config import RunConfig
from repro.cost.count import cached_price
from repro.models import build
from repro.models.layers import Scale, ScaledStdConv2d, SqueezeExcitation
from repro.models.presets import load_preset
from repro.models.unit import ResidualUnit
from repro.study import plan

SE, RS, NF = "squeeze_excitation", "resnet_rs", "nfnet"

PUBLISHED = {
    SE: {
        # Hu et al., arXiv:1709.01507v4, Table 2
        "resnet-50": 24.80, "se-resnet-50": 23.29, "resnet-101": 23.17, "se-resnet-101": 22.38, "resnet-152": 22.42,
        "se-resnet-152": 21.57, "resnext-50": 22.11, "se-resnext-50": 21.10, "resnext-101": 21.18,
        "se-resnext-101": 20.70,
        # Table 3
        "mobilenet": 28.4, "se-mobilenet": 25.3, "shufflenet": 32.6, "se-shufflenet": 31.0,
        # Tables 10 to 16
        "50-none": 23.30, "50-r2": 22.29, "50-r4": 22.25, "50-r8": 22.26, "50-r16": 22.28, "50-r32": 22.72,
        "50-max": 22.57, "50-tanh": 23.00, "50-relu": 23.47, "50-stage-2": 23.03, "50-stage-3": 23.04,
        "50-stage-4": 22.68, "50-pre": 22.23, "50-post": 22.78, "50-identity": 22.20, "50-3x3": 22.48,
        "50-no-squeeze": 22.93,
        # Tables 4 and 5
        "cifar10-110": 6.37, "cifar10-se-110": 5.21, "cifar10-164": 5.46, "cifar10-se-164": 4.39,
        "cifar10-wrn-16-8": 4.27, "cifar10-se-wrn-16-8": 3.88, "cifar100-110": 26.88, "cifar100-se-110": 23.85,
        "cifar100-164": 24.33, "cifar100-se-164": 21.31, "cifar100-wrn-16-8": 20.43, "cifar100-se-wrn-16-8": 19.14,
    },
    RS: {  # Bello et al., arXiv:2103.07579, Table 1
        "baseline": 79.0, "cosine": 79.3, "longer": 78.8, "ema": 79.1, "label-smoothing": 80.4,
        "stochastic-depth": 80.6, "randaugment": 81.0, "dropout": 80.7, "less-decay": 82.2, "se": 82.9,
        "resnet-d": 83.4,
    },
    NF: {  # Brock et al., arXiv:2101.08692, Table 1, not verified against the paper
        "resnet-50": 76.8, "skipinit-50": 73.7, "nf-resnet-50": 75.8, "resnet-50-regularised": 76.4,
        "skipinit-50-regularised": 75.8, "nf-resnet-50-regularised": 76.8,
    },
}  # fmt: skip


@cache
def configs(name: str, scale: str) -> dict[str, RunConfig]:
    return dict(plan(ablation.load(name), scale, [0]).configs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name: str) -> None:
    spec = ablation.load(name)
    numbers = {row: variant.published.value for row, variant in spec.variants.items()}
    assert {row: value for row, value in numbers.items() if value is not None} == PUBLISHED[name]
    assert {variant.published.verified for row, variant in spec.variants.items() if numbers[row]} == {name != NF}
    rows = [row for row in spec.variants if numbers[row] is not None]
    assert rows == list(PUBLISHED[name]), "rows stand in the tables' order"


CONTRASTS = {
    SE: {
        "se-resnet-50": -1.51, "se-resnet-101": -0.79, "se-resnet-152": -0.85, "se-resnext-50": -1.01,
        "se-resnext-101": -0.48, "50-r16": -1.02, "50-stage-4": -0.62, "50-post": 0.50, "50-relu": 1.19,
        "cifar100-se-164": -3.02,
    },
    RS: dict(zip(list(PUBLISHED[RS])[1:], (0.3, -0.5, 0.3, 1.3, 0.2, 0.4, -0.3, 1.5, 0.7, 0.5), strict=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRASTS)
def test_published_contrasts(name: str) -> None:
    """As the papers print them; the ladder's are with the row above."""
    spec = ablation.load(name)
    for row, contrast in CONTRASTS[name].items():
        assert spec.published_contrast(row) == pytest.approx(contrast, abs=1e-9), row


def test_se_is_compared_within_one_table() -> None:
    """Without SE, ResNet-50 has 24.80 in Table 2 and 23.30 in Tables 10 to 16."""
    spec = ablation.load(SE)
    table = {row: row.split("-")[0] if row[0] in "c5" else row.removeprefix("se-") for row in spec.variants}
    assert all(table[row] == table[variant.reference] for row, variant in spec.variants.items())
    recipes = {row: config.recipe.name for row, config in configs(SE, "imagenet").items()}
    assert {recipe for row, recipe in recipes.items() if row.startswith("50-")} == {"hu2018_ablation"}
    mobile = {"mobilenet", "se-mobilenet", "shufflenet", "se-shufflenet"}
    assert {recipes[row] for row in mobile} == {"hu2018_mobile"}
    assert {recipe for row, recipe in recipes.items() if not row.startswith("50-") and row not in mobile} == {"hu2018"}


COSTS = {  # GMACs and millions of parameters as printed: Tables 2, 10, 13, 15 and 16
    "resnet-50": (3.86, None), "se-resnet-50": (3.87, None), "resnet-101": (7.58, None), "se-resnet-101": (7.60, None),
    "resnet-152": (11.30, None), "se-resnet-152": (11.32, None), "resnext-50": (4.24, None),
    "se-resnext-50": (4.25, None), "resnext-101": (7.99, None), "se-resnext-101": (8.00, None),
    "50-none": (3.86, 25.6), "50-r2": (None, 45.7), "50-r4": (None, 35.7), "50-r8": (None, 30.7),
    "50-r16": (3.87, 28.1), "50-r32": (None, 26.9), "50-stage-2": (3.86, 25.6), "50-stage-3": (3.86, 25.7),
    "50-stage-4": (3.86, 26.4), "50-3x3": (3.86, 25.8), "50-no-squeeze": (4.27, 28.1),
}  # fmt: skip


@pytest.mark.parametrize("row", COSTS)
def test_se_costs_what_the_paper_prints(row: str) -> None:
    cost = price(configs(SE, "imagenet")[row])
    gmacs, millions = COSTS[row]
    assert gmacs is None or cost.macs / 1e9 == pytest.approx(gmacs, rel=0.005), "the paper also counts what is no MAC"
    assert millions is None or cost.params / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize(("network", "printed"), [("mobilenet", (4.2, 4.7)), ("shufflenet", (1.8, 2.4))])
def test_se_adds_to_a_mobile_network_what_table_3_prints(network: str, printed: tuple[float, float]) -> None:
    """To the printed decimals; ShuffleNet itself counts 1.87 M, with or without SE 0.07 M more than is printed."""
    plain, squeezed = (price(configs(SE, "imagenet")[row]).params / 1e6 for row in (network, f"se-{network}"))
    assert squeezed - plain == pytest.approx(printed[1] - printed[0], abs=0.05)
    assert squeezed == pytest.approx(printed[1], abs=0.08)


def test_se_adds_two_and_a_half_million_weights_and_no_bias() -> None:
    """Hu et al., section 4: (2 / r) times the sum of N_s C_s^2."""
    network = built(configs(SE, "imagenet")["50-r16"])
    gates = [module for module in network.modules() if isinstance(module, SqueezeExcitation)]
    assert len(gates) == 16
    assert sum(p.numel() for gate in gates for p in gate.parameters()) == 2_514_944


def test_cifar_rows_differ_in_se_or_in_the_data() -> None:
    rows = configs(SE, "cifar")
    assert rows["cifar10-se-164"].model == rows["cifar100-se-164"].model
    assert (rows["cifar10-110"].data.name, rows["cifar100-se-110"].data.classes) == ("cifar10", 100)
    assert {row: config.recipe.name for row, config in rows.items() if "wrn" in row} == dict.fromkeys(
        ("cifar10-wrn-16-8", "cifar10-se-wrn-16-8", "cifar100-wrn-16-8", "cifar100-se-wrn-16-8"), "wrn_cifar"
    )
    assert rows["cifar10-110"].model.order == "pre", "6.37 is a pre-activation net's"  # type: ignore[union-attr]


TWEAKS = {
    "cosine": {"recipe.schedule.name"},
    "longer": {"recipe.duration"},
    "ema": {"recipe.ema.decay", "recipe.batch_norm.momentum"},
    "label-smoothing": {"recipe.label_smoothing"},
    "stochastic-depth": {"model.stochastic_depth"},
    "randaugment": {"recipe.augment.policy.name", "recipe.augment.policy.magnitude"},
    "dropout": {"model.dropout"},
    "less-decay": {"recipe.weight_decay"},
    "se": {"model.se.reduction"},
    "resnet-d": {"model.shortcut", "model.stem"},
}


@pytest.mark.parametrize("scale", ["imagenet", "laptop", "smoke"])
def test_each_rung_changes_what_it_says_and_nothing_else(scale: str) -> None:
    spec, rows = ablation.load(RS), configs(RS, scale)
    assert list(rows) == ["baseline", *TWEAKS]
    for row, keys in TWEAKS.items():
        above = spec.variants[row].extends
        assert above is not None
        assert spec.variants[row].reference == above
        small = set() if scale == "imagenet" else {"model.stem"}  # 8 and 16 pixels are too few for a strided stem
        assert differing(rows[above], rows[row]) == keys - small


def test_the_ladder_ends_at_resnet_rs() -> None:
    """Architecture: resnetrs200, 93.21 M parameters and 20.093 GMACs at 256. Training: recipe bello2021_rs."""
    last = configs(RS, "imagenet")["resnet-d"]
    preset = load_preset("resnetrs200", zero_init=True)
    about = {"name", "native", "published"}
    assert last.model.model_dump(exclude=about) == preset.model_dump(exclude=about)
    cost = price(last)
    assert (cost.params, round(cost.macs / 1e9, 3), cost.input) == (93_209_992, 20.093, (3, 256, 256))
    recipe = compose(["scale=imagenet", "data=imagenet", "trainer=ddp", "recipe=bello2021_rs", "seed=0"]).recipe
    assert last.recipe.model_dump(exclude={"name", "about"}) == recipe.model_dump(exclude={"name", "about"})


NORM_FREE = {  # row: (batch norms, standardised convolutions, branches scaled by 0.2, gamma in the activations)
    "bn-0.1": (True, False, False, False),
    "none-0.1": (False, False, False, False),
    "scaled-0.1": (False, False, True, False),
    "nf-0.1": (False, True, True, True),
    "nf-no-gamma-0.1": (False, True, True, False),
    "nf-no-beta-0.1": (False, True, True, True),
    "nf-agc-0.1": (False, True, True, True),
}


@pytest.mark.parametrize("row", NORM_FREE)
def test_norm_free_rows_build_what_they_say(row: str) -> None:
    config = configs(NF, "laptop")[row]
    network = built(config)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    norms, standardised, scaled, gamma = NORM_FREE[row]
    assert any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()) is norms
    assert {isinstance(module, ScaledStdConv2d) for module in convolutions} == {standardised}
    assert [module.bias is None for module in convolutions] == [norms] * len(convolutions)
    assert sum(isinstance(module, Scale) for module in network.modules()) == (9 if scaled else 0)
    factors = [module.factor for module in network.modules() if hasattr(module, "factor")]
    assert any(factor > 1.5 for factor in factors) is gamma
    assert all(unit.projects == (index in (3, 6)) for index, unit in enumerate(units(network)))


@pytest.mark.parametrize("lr", ["0.1", "0.4", "1.6"])
def test_the_grid_of_learning_rates_is_complete(lr: str) -> None:
    """Each row stands at each rate, compared at the same rate; clipping is on in one row only."""
    spec, rows = ablation.load(NF), configs(NF, "laptop")
    names = [row.removesuffix("0.1") for row in NORM_FREE]
    for name in names:
        config = rows[f"{name}{lr}"]
        assert config.recipe.lr == float(lr)
        assert differing(rows[f"{name}0.1"], config) == (set() if lr == "0.1" else {"recipe.lr"})
        assert spec.variants[f"{name}{lr}"].reference.endswith(lr)
        assert config.recipe.clip.agc == (0.02 if "agc" in name else None)
    assert len(rows) == 3 * len(names)


def test_directions_stand_only_where_a_paper_states_them() -> None:
    directions = {
        row: variant.expected.direction for row, variant in ablation.load(NF).variants.items() if variant.expected
    }
    assert directions == {
        "none-0.1": "lower", "none-0.4": "lower", "none-1.6": "lower",
        "nf-agc-1.6": "higher", "nf-resnet-50-batch-4096-agc": "higher",
    }  # fmt: skip


def test_clipping_at_batch_4096_is_at_a_learning_rate_of_1_6() -> None:
    rows = configs(NF, "imagenet")
    assert rows["nf-resnet-50-batch-4096"].recipe.peak_lr == pytest.approx(1.6)
    assert differing(rows["nf-resnet-50-batch-4096"], rows["nf-resnet-50-batch-4096-agc"]) == {"recipe.clip.agc"}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_small_rows_run_forward(name: str, scale: str) -> None:
    for row, config in configs(name, scale).items():
        data = config.data
        with torch.no_grad():
            logits = built(config).eval()(torch.zeros(1, data.channels, data.size, data.size))
        assert logits.shape == (1, data.classes), row


def price(config: RunConfig) -> Any:
    data = config.data
    return cached_price(config.model, data.size, data.channels, data.classes)


def built(config: RunConfig) -> nn.Module:
    return build(config.model, config.data.channels, config.data.classes)


def units(network: nn.Module) -> list[ResidualUnit]:
    return [module for module in network.modules() if isinstance(module, ResidualUnit)]


def differing(one: RunConfig, other: RunConfig) -> set[str]:
    """Dotted keys in which two runs differ, without their labels."""
    left, right = (dict(leaves(config.model_dump(mode="json", exclude={"labels"}))) for config in (one, other))
    return {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
