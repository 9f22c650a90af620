"""The spec of an ablation: one published table as a file. Load it, validate it, say exactly what is wrong and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from repro.errors import InputError, unknown
from repro.mistakes import first_mistake
from repro.paths import ablations_dir, options
from repro.yaml_lines import LinedYaml


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(_Spec):
    """Where the table was published."""

    key: str
    title: str
    authors: str
    venue: str
    arxiv: str
    table: str


class Metric(_Spec):
    """What the table's numbers are: an error, or an accuracy (100 - error). `better`: direction of an improvement."""

    name: Literal["top1_error", "top5_error", "top1_accuracy"]
    unit: str
    better: Literal["lower", "higher"]
    protocol: str
    decimals: int = Field(ge=0, le=4)

    @model_validator(mode="after")
    def _direction(self) -> Metric:
        better = "higher" if self.name.endswith("accuracy") else "lower"
        if self.better != better:
            raise ValueError(f"better is {self.better!r}, expected {better!r} for {self.name}")
        return self


class Published(_Spec):
    """A published value. One that is not `verified`, or has no number, never decides a verdict by its number."""

    value: float | None
    source: str
    verified: bool = True
    sd: float | None = None


class Expected(_Spec):
    """The published direction of a contrast that has no published number, for example from a figure."""

    direction: Literal["lower", "higher"]
    source: str


class Variant(_Spec):
    """One row: what it changes, what was published for it, and which row it is compared with.

    `extends`: a row whose overrides come before this one's own; it is then also the reference, unless one is named.
    """

    extends: str | None = None
    set: tuple[str, ...]
    published: Published
    expected: Expected | None = None
    reference: str
    note: str | None = None


class Scale(_Spec):
    """What the ablation changes at one budget. `variants` names the rows that are run there, with extra overrides."""

    set: tuple[str, ...] = ()
    variants: dict[str, tuple[str, ...]]
    faithful: bool = False
    note: str


class EqualCost(_Spec):
    """Largest relative difference from the reference that still counts as equal cost."""

    macs: float | None = Field(default=None, gt=0)
    params: float | None = Field(default=None, gt=0)


class Ablation(_Spec):
    """One published table. `path` is the file that it was read from."""

    name: str
    path: Path
    title: str
    paper: Paper
    claim: str
    metric: Metric
    base: tuple[str, ...] = ()
    reference: str
    equal_cost: EqualCost | None = None
    variants: dict[str, Variant] = Field(min_length=1)
    scales: dict[str, Scale] = Field(min_length=1)
    notes: tuple[str, ...] = ()

    def at(self, scale: str) -> Scale:
        """Return a scale of this ablation. Raises InputError with the nearest name when it has none of that name."""
        if scale not in self.scales:
            raise unknown("scale", scale, self.scales, where=str(self.path))
        return self.scales[scale]

    def chain(self, name: str) -> tuple[str, ...]:
        """Return the rows that a row is built on by `extends`, the first one first, and the row itself at the end."""
        rows = [name]
        while (above := self.variants[rows[0]].extends) is not None:
            rows.insert(0, above)
        return tuple(rows)

    def own_overrides(self, name: str, scale: str | None = None) -> tuple[str, ...]:
        """Return what a row adds to the row that it extends: its own overrides, then what `scale` adds to it."""
        extra = () if scale is None else self.at(scale).variants.get(name, ())
        return (*self.variants[name].set, *extra)

    def overrides(self, name: str, scale: str | None = None) -> tuple[str, ...]:
        """Return all overrides of a row, those of the rows that it extends first; a later one wins over an earlier."""
        return tuple(text for row in self.chain(name) for text in self.own_overrides(row, scale))

    def published_contrast(self, name: str) -> float | None:
        """Variant minus reference, where both have a verified published number."""
        variant = self.variants[name]
        own, other = variant.published, self.variants[variant.reference].published
        if variant.reference == name or own.value is None or other.value is None:
            return None
        return own.value - other.value if own.verified and other.verified else None

    @property
    def shipped(self) -> bool:
        """Whether this table comes with the package, so that its name is enough to load it."""
        return self.path.parent == ablations_dir()

    def where(self, text: str | None, variant: str | None = None) -> str:
        """Return `file:line` where `text` stands, at or after the variant's own line when one is named."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        start = 0
        if variant is not None:
            start = next((i for i, line in enumerate(lines) if line.strip().startswith(f"{variant}:")), 0)
        order = [*range(start, len(lines)), *range(start)]
        found = next((i for i in order if text and text in lines[i]), start)
        return f"{self.path}:{found + 1}"


def names() -> list[str]:
    """Names of the ablations that come with the package, sorted."""
    return sorted(path.stem for path in ablations_dir().glob("*.yaml"))


def load(name_or_path: str) -> Ablation:
    """Load an ablation by name, or a file of the user's own by path.

    Raises:
        InputError: no such ablation or file, or a mistake in it, named with file, line and the nearest valid name.
    """
    if name_or_path.endswith((".yaml", ".yml")) or "/" in name_or_path:
        return _read(Path(name_or_path))
    if name_or_path not in names():
        raise unknown("ablation", name_or_path, names())
    return _read(ablations_dir() / f"{name_or_path}.yaml")


def _read(path: Path) -> Ablation:
    document = LinedYaml(path)
    if not isinstance(document.data, dict):
        raise InputError(
            f"{path}:1: an ablation is a mapping of title, paper, claim, metric, reference, variants, scales"
        )
    try:
        spec = Ablation.model_validate({**_spelled_out(document), "name": path.stem, "path": path})
    except ValidationError as error:
        location, sentence = first_mistake(error, Ablation)
        raise InputError(f"{document.where(location)}: {sentence}") from None
    _check_names(document, spec)
    return spec


def _spelled_out(document: LinedYaml) -> dict[str, Any]:
    """Expand the short forms: `published: 23.9`, a scale that is a list, rows and references that follow a default."""
    raw = dict(document.data)
    paper = raw.get("paper")
    source = str(paper.get("table", "")) if isinstance(paper, dict) else ""
    variants = raw.get("variants")
    if isinstance(variants, dict):
        raw["variants"] = {
            name: _variant(variant, raw.get("reference"), source) if isinstance(variant, dict) else variant
            for name, variant in variants.items()
        }
    if isinstance(raw.get("scales"), dict):
        rows = list(variants) if isinstance(variants, dict) else []
        raw["scales"] = {name: _scale(scale, rows) for name, scale in raw["scales"].items()}
    return raw


def _variant(variant: dict[str, Any], reference: Any, source: str) -> dict[str, Any]:
    published = variant.get("published")
    if not isinstance(published, dict):
        published = {"value": published}
    reference = variant.get("extends") or reference
    return {"set": [], "reference": reference, **variant, "published": {"value": None, "source": source, **published}}


def _scale(scale: Any, rows: list[str]) -> Any:
    if scale is None or isinstance(scale, list):
        scale = {"set": scale or []}
    if not isinstance(scale, dict):
        return scale
    chosen = scale.get("variants") or rows
    if isinstance(chosen, list) and all(isinstance(name, str) for name in chosen):
        chosen = {name: [] for name in chosen}
    if isinstance(chosen, dict):
        chosen = {name: overrides or [] for name, overrides in chosen.items()}
    return {"note": "", **scale, "variants": chosen}


def _check_names(document: LinedYaml, spec: Ablation) -> None:
    """Check that every name that one part of the file uses is defined in another."""

    def check(what: str, name: str, valid: Any, *location: str) -> None:
        if name not in valid:
            raise unknown(what, name, valid, where=document.where(location))

    check("variant in reference", spec.reference, spec.variants, "reference")
    for name, variant in spec.variants.items():
        if variant.extends is not None:
            check("variant in extends", variant.extends, spec.variants, "variants", name, "extends")
        check("variant in reference", variant.reference, spec.variants, "variants", name, "reference")
    _refuse_circles(document, spec)
    for name, scale in spec.scales.items():
        check("scale", name, options("scale"), "scales", name)
        for row in scale.variants:
            check("variant", row, spec.variants, "scales", name, "variants", row)

            target = spec.variants[row].reference
            if target not in scale.variants:
                place = document.where(("scales", name, "variants"))
                raise InputError(f"{place}: {row!r} is run at scale {name!r}, but its reference {target!r} is not")


def _refuse_circles(document: LinedYaml, spec: Ablation) -> None:
    """Refuse rows that extend each other, or themselves."""
    for name in spec.variants:
        seen, above = [name], spec.variants[name].extends
        while above is not None and above not in seen:
            seen.append(above)
            above = spec.variants[above].extends
        if above is not None:
            circle = " → ".join([*seen[seen.index(above) :], above])
            place = document.where(("variants", above, "extends"))
            raise InputError(f"{place}: rows extend each other in a circle: {circle}; one of them must stand alone")
