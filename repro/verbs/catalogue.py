"""`repro list`, `repro show` and `repro cost`: what there is. `list` and `show` import neither torch nor Hydra."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from repro import ablation
from repro.ablation import Ablation
from repro.console import console
from repro.errors import InputError, unknown
from repro.models.presets import load_preset
from repro.paths import options
from repro.results import Cost

if TYPE_CHECKING:
    from repro.cost.layers import Layer

KINDS = ("ablations", "models", "data", "recipes", "scales")
_GROUPS = {"models": "model", "data": "data", "recipes": "recipe", "scales": "scale"}


def list_all(kind: str, as_json: bool) -> int:
    """Print the ablations, or the names of another kind."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS, where="repro list")
    if kind != "ablations":
        names = options(_GROUPS[kind])
        print(json.dumps(names, indent=2) if as_json else "\n".join(names))
        return 0
    tables = [ablation.load(name) for name in ablation.names()]
    if as_json:
        print(json.dumps([_summary(spec) for spec in tables], indent=2))
        return 0
    table = Table("ablation", "table", "rows", "scales", box=None, pad_edge=False)
    for spec in tables:
        paper = f"{spec.paper.authors}, {spec.paper.venue}, {spec.paper.table}"
        table.add_row(
            f"[bold]{spec.name}[/bold]", f"{spec.title} ({paper})", str(len(spec.variants)), " ".join(spec.scales)
        )
    console().print(table)
    print(
        "\nNext: repro show ABLATION, repro plan ABLATION, repro run ABLATION scale=laptop seeds=3; repro list models"
    )
    return 0


def _summary(spec: Ablation) -> dict[str, Any]:
    head = {"name": spec.name, "title": spec.title, "claim": spec.claim}
    return {**head, "rows": len(spec.variants), "scales": list(spec.scales)}


def show(name: str, as_json: bool) -> int:
    """Print an ablation's rows and published values, or a model preset's axes."""
    is_file = "/" in name or name.endswith((".yaml", ".yml"))
    if is_file or name in ablation.names():
        spec = ablation.load(name)
        if as_json:
            print(json.dumps(_ablation_tree(spec), indent=2))
        else:
            _print_ablation(spec)
        return 0
    if name not in options("model"):
        raise unknown("ablation or model", name, [*ablation.names(), *options("model")])
    axes = load_preset(name).model_dump(mode="json")
    if as_json:
        print(json.dumps(axes, indent=2))
        return 0
    for axis, value in axes.items():
        print(f"{axis:16} {value}")
    return 0


def _ablation_tree(spec: Ablation) -> dict[str, Any]:
    variants = [
        {
            "name": name,
            "published": {spec.metric.name: variant.published.value},
            "verified": variant.published.verified,
            "source": variant.published.source,
            "expected": variant.expected.direction if variant.expected else None,
            "reference": variant.reference,
            "overrides": list(variant.set),
        }
        for name, variant in spec.variants.items()
    ]
    tree = spec.model_dump(mode="json", exclude={"variants", "path"})
    return {**tree, "variants": variants}


def _print_ablation(spec: Ablation) -> None:
    out = console()
    paper = spec.paper
    out.print(f"[bold]{spec.title}[/bold] ({spec.name})")
    out.print(f"{paper.authors}, {paper.title}, {paper.venue}, arXiv:{paper.arxiv}, {paper.table}")
    out.print(f"Claim: {spec.claim}\nMetric: {spec.metric.name} ({spec.metric.unit}), {spec.metric.protocol}\n")
    table = Table("variant", box=None, pad_edge=False)
    table.add_column(f"published {spec.metric.unit}", justify="right")
    for heading in ("contrast", "reference", "overrides", "scales"):
        table.add_column(heading)
    for name, variant in spec.variants.items():
        reference = "—" if variant.reference == name else variant.reference
        scales = " ".join(scale for scale, entry in spec.scales.items() if name in entry.variants)
        table.add_row(name, _value(spec, name), _contrast(spec, name), reference, " ".join(variant.set), scales)
    out.print(table)
    for name, scale in spec.scales.items():
        out.print(f"\nscale {name}: {len(scale.variants)} rows. {scale.note}".rstrip())
    for note in spec.notes:
        out.print(f"\nNote: {note}")


def _value(spec: Ablation, name: str) -> str:
    published = spec.variants[name].published
    if published.value is None:
        return "figure only"
    return f"{published.value:.{spec.metric.decimals}f}" + ("" if published.verified else " (unverified)")


def _contrast(spec: Ablation, name: str) -> str:
    number = spec.published_contrast(name)
    if number is not None:
        return f"{number:+.{spec.metric.decimals}f}"
    expected = spec.variants[name].expected
    return f"{expected.direction} (direction only)" if expected else ""


def cost(name: str, words: list[str], size: int | None, as_json: bool) -> int:
    """Print a model's price: parameters, MACs and activations, as a whole and by layer."""
    axes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{word!r} is not of the form KEY=VALUE, for example groups=32")
        axes[key.removeprefix("model.")] = _plain(word, value)
    config = load_preset(name, **axes)
    size = size or config.native.size
    from repro.cost.count import cached_price
    from repro.cost.layers import layer_table

    price = cached_price(config, size, config.native.channels, config.native.classes)
    layers = layer_table(config, size, config.native.channels, config.native.classes)
    if as_json:
        totals = {"params": price.params, "macs": price.macs, "activations": price.activations}
        print(
            json.dumps({"model": name, "input": list(price.input), **totals, "layers": [asdict(row) for row in layers]})
        )
        return 0
    _print_cost(name, price, layers)
    return 0


def _plain(word: str, value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"{word!r}: {value!r} is not a value") from None


def _print_cost(name: str, price: Cost, layers: Sequence[Layer]) -> None:
    table = Table("layer", "kind", "input", "output", box=None, pad_edge=False)
    for heading in ("filters", "kernel", "stride", "pad", "groups", "memory KiB", "params k", "MACs M"):
        table.add_column(heading, justify="right")
    for row in layers:
        numbers = [row.filters, row.kernel, row.stride, row.padding, row.groups]
        table.add_row(
            row.name, row.kind, "×".join(map(str, row.input)), "×".join(map(str, row.output)),
            *("" if value is None else str(value) for value in numbers),
            f"{row.memory_kib:,.1f}", f"{row.params / 1e3:,.1f}", f"{row.macs / 1e6:,.2f}",
        )  # fmt: skip
    console().print(table)
    shape = " × ".join(map(str, price.input))
    print(
        f"\n{name} on {shape}: {price.params:,} parameters, {price.macs:,} MACs ({price.macs / 1e9:.3f} GMACs; FLOPs = "
        f"2 × MACs = {2 * price.macs / 1e9:.3f} GFLOPs), {price.activations:,} activations"
    )
