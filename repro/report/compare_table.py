"""Models side by side: family, price and published error, as a table and as records. Pure.

Knows what a model says of itself and what it costs, not how that was counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repro.models.config import Family
from repro.models.library_config import LibraryConfig
from repro.models.preset_config import Published
from repro.models.residual_config import ResidualConfig
from repro.report.format import DASH, sentence, three_digits
from repro.report.sheet import Sheet
from repro.report.table import Footnotes
from repro.results import Cost

UNVERIFIED = "(unverified)"

_WORDS = {
    "alexnet": "AlexNet",
    "convnext": "ConvNeXt",
    "densenet": "DenseNet",
    "efficientnet": "EfficientNet",
    "googlenet": "GoogLeNet",
    "inception": "Inception",
    "inceptionresnet": "Inception-ResNet",
    "lenet": "LeNet",
    "mnasnet": "MnasNet",
    "mobilenetv1": "MobileNet v1",
    "mobilenetv2": "MobileNet v2",
    "mobilenetv3": "MobileNet v3",
    "nasnet": "NASNet",
    "regnetx": "RegNetX",
    "regnety": "RegNetY",
    "resnet": "ResNet",
    "resnetrs": "ResNet-RS",
    "resnext": "ResNeXt",
    "senet": "SENet",
    "seresnet": "SE-ResNet",
    "seresnext": "SE-ResNeXt",
    "shufflenetv1": "ShuffleNet v1",
    "shufflenetv2": "ShuffleNet v2",
    "squeezenet": "SqueezeNet",
    "vgg": "VGG",
    "vit": "ViT",
    "wideresnet": "WRN",
    "wrn": "WRN",
    "xception": "Xception",
    "zfnet": "ZFNet",
}
"""How a family is written, by what its members' names begin with; the longest that fits counts."""


@dataclass(frozen=True)
class Model:
    """One model: its family, who builds it, its price, and its published error; `reason` says why it has no price."""

    name: str
    family: str
    builder: str
    cost: Cost | None
    published: Published | None
    reason: str = ""


def describe(config: Family, cost: Cost | None, reason: str = "") -> Model:
    """Describe a preset with its price, or with the reason why it has none."""
    return Model(config.name, family_word(config), builder_of(config), cost, config.published, reason)


def builder_of(config: Family) -> str:
    """Say who builds a network: `ours`, `timm` or `torchvision`."""
    return config.source if isinstance(config, LibraryConfig) else "ours"


def family_word(config: Family) -> str:
    """Name the family as its papers do: a residual network's follows from its axes, any other's from its name."""
    if isinstance(config, ResidualConfig):
        return _residual_word(config)
    name = config.name.rpartition("/")[2]
    folded = re.sub(r"[-_]", "", name.lower().removeprefix("tf_"))
    starts = [start for start in _WORDS if folded.startswith(start)]
    if starts:
        return _WORDS[max(starts, key=len)]
    return re.split(r"[\d_.]", name)[0] or name


def _residual_word(config: ResidualConfig) -> str:
    squeezed = config.se.reduction is not None
    if config.regnet is not None:
        return "RegNetY" if squeezed else "RegNetX"
    if config.norm == "none":
        return "NFNet" if config.stem == "quad" else "NF-ResNet"
    if config.stem == "deep_strided":
        return "ResNet-RS"
    if config.shortcut == "none":
        return "plain"
    if config.name.startswith(("wrn", "wide")):  # no axis tells WRN-40-1 from a narrow pre-activation ResNet
        return "WRN"
    word = "ResNeXt" if config.groups > 1 else "ResNet-D" if config.shortcut == "D" else "ResNet"
    before = "pre-activation " if config.order == "pre" else ""
    return f"{before}SE-{word}" if squeezed else before + word


def usual_data(models: Sequence[Model]) -> str | None:
    """Return the data and protocol by which most of the published errors were measured; None where there are none."""
    counted = Counter(model.published.data for model in models if model.published)
    return counted.most_common(1)[0][0] if counted else None


def data_set(published: Published) -> str:
    """Name the data set alone: `ImageNet-1k` of `ImageNet-1k val, 224 centre crop`."""
    return re.split(r"[ ,]", published.data)[0]


def compare_sheet(models: Sequence[Model]) -> Sheet:
    """Lay models out side by side; errors measured in another way than most are marked."""
    notes = Footnotes()
    usual = usual_data(models)
    rows = tuple(
        (model.name, model.family, *quantities(model.cost), error_cell(model, notes, usual)) for model in models
    )
    header = ("model", "family", "params (M)", "GMACs", "activations (M)", "published top-1 error %")
    return Sheet(header, rows, left=2, notes=tuple(notes.lines()))


def quantities(cost: Cost | None) -> tuple[str, str, str]:
    """Write parameters (M), GMACs and activations (M)."""
    if cost is None:
        return DASH, DASH, DASH
    return three_digits(cost.params / 1e6), three_digits(cost.macs / 1e9), three_digits(cost.activations / 1e6)


def error_cell(model: Model, notes: Footnotes, usual: str | None = None) -> str:
    """Write a published error with the footnote of its source; `usual`: the protocol that needs no second mark."""
    published = model.published
    if published is None:
        return DASH
    cell = error_text(published) + source_mark(published, notes)
    if usual is not None and published.data != usual:
        cell += notes.mark(f"Not comparable with most rows, which were measured on {usual}.")
    return cell


def error_text(published: Published) -> str:
    """Write an error (%) with the decimals that it was published with, at most two."""
    return str(round(published.top1_error, 2))


def source_mark(published: Published, notes: Footnotes) -> str:
    """Mark a published error with the footnote of its data and source, and say so where nobody verified it."""
    mark = notes.mark(f"{published.data}: {sentence(published.source)}")
    return ("" if published.verified else f" {UNVERIFIED}") + mark


def records(models: Sequence[Model]) -> list[dict[str, Any]]:
    """Return the same as data: counts in full, errors in %, null for what is not known."""
    usual = usual_data(models)
    return [{**_identity(model), **_cost_fields(model), **_published_fields(model, usual)} for model in models]


def _identity(model: Model) -> dict[str, Any]:
    return {"name": model.name, "family": model.family, "builder": model.builder}


def _cost_fields(model: Model) -> dict[str, Any]:
    cost = model.cost
    counts = {what: getattr(cost, what) if cost else None for what in ("params", "macs", "activations")}
    return {"input": list(cost.input) if cost else None, **counts, "reason": model.reason or None}


def _published_fields(model: Model, usual: str | None) -> dict[str, Any]:
    published = model.published
    if published is None:
        return {"top1_error": None, "data": None, "source": None, "verified": None, "usual_data": None}
    fields = published.model_dump(include={"top1_error", "data", "source", "verified"})
    return {**fields, "usual_data": published.data == usual}
