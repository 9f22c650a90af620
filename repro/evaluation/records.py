"""What is evaluated and what came out of it, typed and ready for JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from repro.config import RunConfig
from repro.data.config import EvaluationConfig
from repro.errors import InputError
from repro.typed import Typed

Split = Literal["val", "test"]
MetricName = Literal["top1_error", "top5_error", "top1_accuracy"]


@dataclass(frozen=True)
class Measures:
    """Top-1 and top-5 error (%), negative log-likelihood (nats), expected calibration error (%), over `images`.

    Calibration: 15 equally wide bins of confidence (Guo et al., ICML 2017, arXiv:1706.04599, eq. 3).
    """

    top1_error: float
    top5_error: float
    nll: float
    calibration_error: float
    images: int

    def value(self, metric: MetricName) -> float:
        """Return what an ablation's metric of that name measures, in %."""
        if metric == "top1_accuracy":
            return 100 - self.top1_error
        return self.top1_error if metric == "top1_error" else self.top5_error


class RunWeights(Typed):
    """Weights that a run left in its folder, and the images that its network was built for."""

    kind: Literal["run"] = "run"
    directory: str
    which: Literal["raw", "ema"]
    channels: int
    classes: int

    @property
    def label(self) -> str:
        """How a table names them."""
        return self.which


class LibraryWeights(Typed):
    """Weights that timm or torchvision publishes; `tag` is torchvision's name of them, timm's is in `architecture`.

    `mean` and `std` (per channel, scale 0 to 1): how their network wants its images normalised. `own_network`: whether
    the library's network is evaluated, or ours with the weights mapped onto it.
    """

    kind: Literal["library"] = "library"
    source: Literal["timm", "torchvision"]
    architecture: str
    tag: str | None = None
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    own_network: bool = True

    @property
    def name(self) -> str:
        """The name by which the command line knows them."""
        return f"{self.source}/{self.architecture}" + (f":{self.tag}" if self.tag else "")

    @property
    def label(self) -> str:
        """How a table names them."""
        return self.tag or self.architecture.partition(".")[2] or "pretrained"


class PublishedValue(Typed):
    """A published value (%) and how it was measured; `comparable`: whether by data and protocol as here."""

    metric: MetricName
    value: float
    protocol: str
    source: str
    verified: bool = True
    comparable: bool


class Target(Typed):
    """One network with its weights, its data, and the cuts of the images that its probabilities are averaged over.

    `row`: the row of an ablation that it is a seed of. `config.recipe.batch_size` counts images over all devices.
    """

    name: str
    row: str | None = None
    config: RunConfig
    weights: Annotated[RunWeights | LibraryWeights, Field(discriminator="kind")]
    cuts: tuple[EvaluationConfig, ...]
    published: tuple[PublishedValue, ...] = ()
    notes: tuple[str, ...] = ()


class Job(Typed):
    """Everything that the processes of an evaluation need to know."""

    targets: tuple[Target, ...]
    split: Split
    ensemble: bool


class Comparison(Typed):
    """A published value and the measured minus the published one; None where they are not comparable."""

    published: PublishedValue
    difference: float | None


class Images(Typed):
    """Which images were read, and how each cut of them was made, in words."""

    data: str
    split: Split
    fingerprint: str
    transforms: tuple[str, ...]


class Outcome(Typed):
    """What was measured on one target, or on the ensemble of all."""

    name: str
    row: str | None = None
    seed: int | None = None
    weights: str
    measures: Measures
    images: Images
    published: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()


class Evaluation(Typed):
    """The outcomes of all targets and, where it was asked for, of their ensemble."""

    outcomes: tuple[Outcome, ...]
    ensemble: Outcome | None = None


def compare(measures: Measures, published: tuple[PublishedValue, ...], split: Split = "test") -> tuple[Comparison, ...]:
    """Set published values beside the measured ones; none is of the images that are held out of train."""
    known = (each if split == "test" else each.model_copy(update={"comparable": False}) for each in published)
    return tuple(
        Comparison(published=each, difference=measures.value(each.metric) - each.value if each.comparable else None)
        for each in known
    )


def outcome(target: Target, measures: Measures, images: Images) -> Outcome:
    """Put together what a target is, what was read and what was measured."""
    return Outcome(
        name=target.name,
        row=target.row,
        seed=target.config.seed if target.weights.kind == "run" else None,
        weights=target.weights.label,
        measures=measures,
        images=images,
        published=compare(measures, target.published, images.split),
        notes=target.notes,
    )


def check_same_images(outcomes: Sequence[Outcome]) -> None:
    """Raise InputError when the last of an ensemble's members did not read the images that the first one read."""
    first, last = outcomes[0], outcomes[-1]
    if (first.images.fingerprint, first.measures.images) != (last.images.fingerprint, last.measures.images):
        raise InputError(
            f"--ensemble averages over the same images only; {first.name} read {first.images.data} "
            f"{first.images.fingerprint}, {last.name} {last.images.data} {last.images.fingerprint}"
        )


def ensemble_outcome(members: Sequence[Outcome], measures: Measures) -> Outcome:
    """Put together the outcome of an ensemble from those of its members and what was measured on it."""
    transforms = tuple(dict.fromkeys(text for member in members for text in member.images.transforms))
    weights = "/".join(dict.fromkeys(member.weights for member in members))
    images = members[0].images.model_copy(update={"transforms": transforms})
    return Outcome(name=f"ensemble of {len(members)}", weights=weights, measures=measures, images=images)
