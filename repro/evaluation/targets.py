"""What `repro evaluate` is asked for, turned into targets: runs, rows of an ablation, published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from repro import ablation, folder
from repro.ablation import Ablation
from repro.compose import compose, key_of, to_config
from repro.config import Labels, RunConfig
from repro.data.config import EvaluationConfig, ImagenetConfig
from repro.errors import InputError, nearest
from repro.evaluation import pretrained
from repro.evaluation.cuts import Choices, cuts
from repro.evaluation.records import MetricName, PublishedValue, RunWeights, Target
from repro.models.preset_config import Published
from repro.models.presets import LIBRARIES, load_preset
from repro.paths import options, runs_dir
from repro.study import Study, plan

_LARGEST_BATCH = 256  # images on a device at once, where nothing is said
_KINDS = "a run's folder, ABLATION/SCALE[/VARIANT], a preset, timm/NAME or torchvision/NAME[:WEIGHTS]"


def find_targets(names: Sequence[str], overrides: Sequence[str], choices: Choices) -> tuple[Target, ...]:
    """Find what is named: a row of an ablation gives a target for each finished seed.

    `overrides` change data, trainer and `recipe.evaluation`; an evaluation uses one CPU or GPU unless they say more.
    Raises InputError for a name that is none, a run that is not finished, and choices that do not fit.
    """
    found = [target for name in names for target in _named(name, overrides, choices)]
    return tuple({(target.name, target.weights): target for target in found}.values())


def _named(name: str, overrides: Sequence[str], choices: Choices) -> list[Target]:
    first, _, rest = name.partition("/")
    if first in LIBRARIES and rest:
        return [_published_target(name, overrides, choices)]
    if (Path(name) / folder.CONFIG).exists():
        return [_run_target(Path(name), _short(Path(name)), overrides, choices)]
    if Path(name).is_dir():
        raise InputError(f"{name}: no run's folder; it has no {folder.CONFIG}")
    if name in options("model"):
        return [_published_target(name, overrides, choices)]
    file, row = _split_row(name)
    if file.endswith((".yaml", ".yml")) or (row and nearest(file, ablation.names())) or file in ablation.names():
        return _row_targets(ablation.load(file), row, name, overrides, choices)
    guess = nearest(name, [*options("model"), *ablation.names()])
    hint = f"did you mean {guess!r}? " if guess else ""
    raise InputError(f"unknown target {name!r}; {hint}Expected {_KINDS}")


def _short(directory: Path) -> str:
    """Name a run's folder from the folder of runs on, where it is below it."""
    path, runs = directory.resolve(), runs_dir().resolve()
    return str(path.relative_to(runs)) if path.is_relative_to(runs) else str(directory)


def _split_row(name: str) -> tuple[str, str]:
    """Part `mine.yaml/smoke/wide` or `preactivation/smoke/wide` into the ablation and the rest."""
    for ending in (".yaml", ".yml"):
        file, found, row = name.partition(f"{ending}/")
        if found:
            return file + ending, row
    file, _, row = name.partition("/")
    return (name, "") if name.endswith((".yaml", ".yml")) else (file, row)


def _row_targets(spec: Ablation, row: str, name: str, overrides: Sequence[str], choices: Choices) -> list[Target]:
    scale, _, variant = row.partition("/")
    if not scale:
        raise InputError(
            f"{name}: say at which scale: {name.rstrip('/')}/SCALE, one of {', '.join(sorted(spec.scales))}"
        )
    study = plan(spec, scale, [0], (), [variant] if variant else [])
    found = [
        _run_target(path, f"{spec.name}/{scale}/{each}/seed{config.seed}", overrides, choices, spec)
        for each in ([variant] if variant else study.configs)
        for path, config in _finished(study, each)
    ]
    if not found:
        raise InputError(
            f"{name}: no finished run in {study.directory}; train them: {study.with_seeds([0, 1, 2]).rerun}"
        )
    return found


def _finished(study: Study, variant: str) -> list[tuple[Path, RunConfig]]:
    """Folders and configs of a row's finished runs by seed: those of its own config, else those of the only other one.

    A study with overrides stands in the same folder; its runs are another experiment and are not mixed in.
    """
    planned = study.run(variant, 0)
    paths = [path for path in planned.directory.parent.glob("seed*-*") if folder.state(path) == "finished"]
    read = [(path, folder.read_config(path / folder.CONFIG)) for path in paths]
    by_config: dict[str, list[tuple[Path, RunConfig]]] = {}
    for path, config in read:
        by_config.setdefault(config.model_copy(update={"seed": 0}).id, []).append((path, config))
    if planned.id not in by_config and len(by_config) > 1:
        raise InputError(
            f"{planned.directory.parent} holds runs of {len(by_config)} different configs; name a run's folder"
        )
    chosen = by_config.get(planned.id) or next(iter(by_config.values()), [])
    return sorted(chosen, key=lambda pair: pair[1].seed)


def _run_target(
    directory: Path, name: str, overrides: Sequence[str], choices: Choices, spec: Ablation | None = None
) -> Target:
    """Make the target of one finished run; `spec`: the ablation that it was asked for as a row of."""
    state = folder.state(directory)
    if state != "finished":
        raise InputError(f"{directory}: the run is not finished ({state}); only a finished run has weights")
    trained = folder.read_config(directory / folder.CONFIG)
    config = _overridden(trained, overrides, choices.batch)
    own: Literal["raw", "ema"] = "raw" if trained.recipe.ema.decay is None else "ema"
    weights = RunWeights(
        directory=str(directory),
        which=choices.which or own,
        channels=trained.data.channels,
        classes=trained.data.classes,
    )
    labels = trained.labels
    table = ablation.load(labels.ablation) if spec is None and labels.ablation in ablation.names() else spec
    chosen = cuts(config, choices, name)
    return Target(
        name=name,
        row=f"{spec.name}/{labels.scale}/{labels.variant}" if spec else None,
        config=config,
        weights=weights,
        cuts=chosen,
        published=_of_row(table, labels, as_trained=chosen == (trained.recipe.evaluation,)) if table else (),
    )


def _of_row(spec: Ablation, labels: Labels, *, as_trained: bool) -> tuple[PublishedValue, ...]:
    """The published value of a row; comparable where the scale repeats the paper's experiment, and the test as well."""
    published = spec.variants[labels.variant].published if labels.variant in spec.variants else None
    if published is None or published.value is None:
        return ()
    faithful = labels.scale in spec.scales and spec.scales[labels.scale].faithful
    return (
        PublishedValue(
            metric=spec.metric.name,
            value=published.value,
            protocol=spec.metric.protocol,
            source=published.source,
            verified=published.verified,
            comparable=faithful and as_trained,
        ),
    )


def _published_target(name: str, overrides: Sequence[str], choices: Choices) -> Target:
    if choices.which is not None:
        raise InputError(f"{name}: published weights are as they are; --weights raw|ema is for runs")
    preset = load_preset(name.partition(":")[0])
    listed = name if "/" in name else pretrained.weights_of(preset)
    card = pretrained.card(listed, own_network="/" in name or not pretrained.maps_onto(preset))
    base = compose([f"model={preset.name}", "data=imagenet"])
    cut = EvaluationConfig.model_validate(
        {
            "scale": card.crop / base.data.size,
            "crop_ratio": card.crop_ratio,
            "interpolation": card.interpolation,
        }
    )
    base = base.model_copy(update={"recipe": base.recipe.model_copy(update={"evaluation": cut})})
    config = _overridden(base, overrides, choices.batch)
    if not isinstance(config.data, ImagenetConfig):
        raise InputError(f"{name}: published weights are for photographs in folders; say data=imagenet data.root=/path")
    if card.weights.classes != config.data.classes:
        raise InputError(
            f"{name}: the weights are for {card.weights.classes} classes, data={config.data.name} has "
            f"data.classes={config.data.classes}"
        )
    chosen = cuts(config, choices, name)
    return Target(
        name=name,
        config=config,
        weights=card.weights,
        cuts=chosen,
        published=(*_of_preset(preset.published, chosen, config), *_of_card(card, chosen, cut, config)),
        notes=card.notes,
    )


def _of_preset(
    published: Published | None, chosen: Sequence[EvaluationConfig], config: RunConfig
) -> tuple[PublishedValue, ...]:
    if published is None:
        return ()
    return (
        PublishedValue(
            metric="top1_error",
            value=published.top1_error,
            protocol=published.data,
            source=published.source,
            verified=published.verified,
            comparable=_is_protocol(published.data, chosen, config),
        ),
    )


def _is_protocol(text: str, chosen: Sequence[EvaluationConfig], config: RunConfig) -> bool:
    """Say if a protocol like `ImageNet-1k val, 224 centre crop` or `ImageNet-1k val, 10-crop 224` is used here."""
    views = "ten_crop" if "10-crop" in text else "centre"
    size = str(chosen[0].crop(config.data.size))
    alike = len(chosen) == 1 and chosen[0].views == views and size in text.replace(",", " ").split()
    return alike and config.data.name == "imagenet" and text.startswith("ImageNet-1k val")


def _of_card(
    card: pretrained.Card, chosen: Sequence[EvaluationConfig], own: EvaluationConfig, config: RunConfig
) -> tuple[PublishedValue, ...]:
    """What the library's metadata say; comparable with the images cut as its own."""
    values: tuple[tuple[MetricName, float | None], ...] = (
        ("top1_error", card.top1_error),
        ("top5_error", card.top5_error),
    )
    return tuple(
        PublishedValue(
            metric=metric,
            value=value,
            protocol=f"ImageNet-1k val, centre crop {card.crop} of {own.resize(config.data.size)}",
            source=f"{card.weights.source}, metadata of {card.weights.name} (100 - accuracy)",
            comparable=tuple(chosen) == (own,) and config.data.name == "imagenet",
        )
        for metric, value in values
        if value is not None
    )


def _overridden(config: RunConfig, overrides: Sequence[str], batch: int | None) -> RunConfig:
    """Apply overrides of data, trainer and recipe.evaluation to a config; on one device unless they say otherwise."""
    tree: dict[str, Any] = config.model_dump(mode="json")
    tree["trainer"] |= {"devices": 1, "nodes": 1, "strategy": "auto", "micro_batch": None}
    for text in overrides:
        key, value = key_of(text), _value(text)
        if key in ("data", "trainer"):
            tree[key] = getattr(compose([text]), key).model_dump(mode="json")
        elif key.startswith(("data.", "trainer.", "recipe.evaluation.")):
            _set(tree, key, value)
        else:
            raise InputError(f"{text!r}: an evaluation changes only data, trainer and recipe.evaluation")
    world = _world(tree["trainer"])
    share = batch or max(1, min(config.recipe.batch_size, _LARGEST_BATCH) // world)
    tree["recipe"]["batch_size"] = share * world
    return to_config(tree)


def _world(trainer: dict[str, Any]) -> int:
    counts = [trainer["devices"], trainer["nodes"]]
    return counts[0] * counts[1] if all(isinstance(count, int) and count > 0 for count in counts) else 1


def _value(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise InputError(f"override {text!r} is not of the form key=value ({str(error).splitlines()[0]})") from None
    if override.is_sweep_override() or override.is_delete():
        raise InputError(f"override {text!r} gives no single value")
    return override.value()


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    node: Any = tree
    for part in parts:
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise InputError(f"{key}={value}: {'.'.join(parts)} has no such key")
    node[last] = value
