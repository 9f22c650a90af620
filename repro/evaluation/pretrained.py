"""The weights that timm and torchvision publish: what they expect of an image, what is said of them, where they lie.

The libraries fetch and keep the files; nothing is stored here.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import InputError, unknown
from repro.evaluation.records import LibraryWeights
from repro.models.config import Family
from repro.models.library_config import EfficientnetConfig, LibraryConfig

if TYPE_CHECKING:
    from torch import nn

_REGNETS = ("002", "004", "006", "008", "016", "032", "040", "064", "080", "120", "160", "320")
_V1_RESNETS = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
)

PRESETS: dict[str, str] = {
    **{name: f"torchvision/{name}:IMAGENET1K_V1" for name in _V1_RESNETS},
    **{f"regnet{space}_{size}": f"timm/regnet{space}_{size}.pycls_in1k" for space in "xy" for size in _REGNETS},
    "resnet50b": "timm/resnet50.gluon_in1k",
    "resnet50c": "timm/resnet50c.gluon_in1k",
    "resnet50d": "timm/resnet50d.gluon_in1k",
    "resnext101_32x4d": "timm/resnext101_32x4d.gluon_in1k",
    "seresnet50": "timm/seresnet50.ra2_in1k",
    "seresnext50_32x4d": "timm/seresnext50_32x4d.gluon_in1k",
    "seresnext101_32x4d": "timm/seresnext101_32x4d.gluon_in1k",
    "preresnet18": "timm/resnetv2_18.ra4_e3600_r224_in1k",
    "preresnet34": "timm/resnetv2_34.ra4_e3600_r224_in1k",
    "preresnet50": "timm/resnetv2_50.a1h_in1k",
    "preresnet101": "timm/resnetv2_101.a1h_in1k",
    **{f"resnetrs{depth}": f"timm/resnetrs{depth}.tf_in1k" for depth in (50, 101, 152, 200, 270, 350, 420)},
    **{f"nfnet_f{number}": f"timm/dm_nfnet_f{number}.dm_in1k" for number in range(7)},
    **{f"efficientnet_b{number}": f"torchvision/efficientnet_b{number}:IMAGENET1K_V1" for number in range(8)},
}
"""Which published weights a preset of ours is evaluated with; a preset that is a library's network has that one's."""

_SHAPELESS = {
    "aux_logits",
    "dynamic_img_size",
}  # arguments of a preset that leave the weights of the network as they are


@dataclass(frozen=True)
class Card:
    """What a library says of its weights: the test image (pixels), and errors (%) on ImageNet-1k val."""

    weights: LibraryWeights
    crop: int
    crop_ratio: float
    interpolation: str
    top1_error: float | None = None
    top5_error: float | None = None
    notes: tuple[str, ...] = ()


def weights_of(config: Family) -> str:
    """Return the name of the weights that a preset is evaluated with. Raises InputError where nobody published any."""
    if config.name in PRESETS:
        return PRESETS[config.name]
    if isinstance(config, LibraryConfig) and not config.arguments.keys() - _SHAPELESS:
        return f"{config.source}/{config.architecture}"
    raise InputError(
        f"model {config.name}: no published weights are known to fit it; name a run's folder, or weights of a library, "
        "such as torchvision/resnet50:IMAGENET1K_V1 or timm/resnet50.a1_in1k"
    )


def card(name: str, *, own_network: bool = True) -> Card:
    """Read what a library records of `timm/NAME` or `torchvision/NAME[:WEIGHTS]`; loads no weights.

    Raises InputError for a name that it does not have, and for preprocessing that is not available here.
    """
    source, _, rest = name.partition("/")
    return _timm_card(rest, own_network) if source == "timm" else _torchvision_card(rest, own_network)


def network(weights: LibraryWeights, config: Family | None = None) -> nn.Module:
    """Build the network with its published weights: the library's own, or `config` with the weights mapped onto it.

    Raises InputError where the weights are neither on this machine nor can be fetched.
    """
    path, remedy = _place(weights)
    if not path.exists():
        print(f"repro: {weights.name}: fetching the weights", file=sys.stderr)
    try:
        with _quiet():
            theirs = _library_network(weights)
    except Exception as error:  # each library, and what it fetches with, raises its own
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(
            f"{weights.name}: {weights.source} could not load the weights ({reason}). It keeps them at {path}; {remedy}"
        ) from None
    ours = theirs if weights.own_network or config is None else _mapped(theirs, weights, config)
    return _renormalised(ours, weights)


def _mapped(theirs: nn.Module, weights: LibraryWeights, config: Family) -> nn.Module:
    from repro.models import build
    from repro.models.weights import load_foreign

    ours = build(config, 3, weights.classes)
    load_foreign(ours, theirs.state_dict(), weights.source, weights.architecture.partition(".")[0])
    return ours


def _renormalised(net: nn.Module, weights: LibraryWeights) -> nn.Module:
    """Let a network that was trained with other statistics than ImageNet's take images that were normalised by them."""
    from torch import tensor

    from repro.data.statistics import IMAGENET_MEAN, IMAGENET_STD

    given, own = (IMAGENET_MEAN, IMAGENET_STD), (weights.mean, weights.std)
    if own == given:
        return net
    mean, std, own_mean, own_std = (tensor(values).view(3, 1, 1) for values in (*given, *own))
    scale, shift = std / own_std, (mean - own_mean) / own_std

    def renormalise(_: nn.Module, inputs: Any) -> Any:
        images = inputs[0]
        return images * scale.to(images.device) + shift.to(images.device)

    net.register_forward_pre_hook(renormalise)
    return net


def maps_onto(config: Family) -> bool:
    """Whether weights are mapped onto a network of ours; else the library's own network is evaluated."""
    return not isinstance(config, LibraryConfig | EfficientnetConfig)


def _library_network(weights: LibraryWeights) -> nn.Module:
    found: nn.Module
    if weights.source == "timm":
        import timm

        found = timm.create_model(weights.architecture, pretrained=True)
    else:
        from torchvision import models

        found = models.get_model(weights.architecture, weights=weights.tag, progress=False)
    return found


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep what the libraries print while they fetch off the screen."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        hub.setLevel(level)


def _place(weights: LibraryWeights) -> tuple[Path, str]:
    """Return where the library looks for the weights, and how to put them there by hand."""
    import torch

    url = _timm_settings(weights.architecture).url if weights.source == "timm" else _enumerated(weights).url
    hub = _timm_settings(weights.architecture).hf_hub_id if weights.source == "timm" else None
    if hub is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / str(url).rpartition("/")[2]
        return path, f"put {url} there by hand (the variable TORCH_HOME moves the folder)"
    from huggingface_hub import constants

    path = Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}"
    return path, f"run `hf download {hub}` where there is a network and copy that folder (HF_HOME moves it)"


def _timm_settings(name: str) -> Any:
    import timm

    return timm.get_pretrained_cfg(name)


def _enumerated(weights: LibraryWeights) -> Any:
    from torchvision import models

    return models.get_model_weights(weights.architecture)[str(weights.tag)]


def _timm_card(name: str, own_network: bool) -> Card:
    from timm.data import config as timm_data

    from repro.models.library import input_size

    input_size("timm", name)  # refuses a name that timm does not have
    settings = _timm_settings(name)
    if settings is None or not settings.has_weights:
        raise InputError(f"timm/{name}: timm has no weights of this network; see timm.list_pretrained()")
    resolve: Any = timm_data.resolve_data_config
    found = resolve(pretrained_cfg=settings.to_dict(), use_test_size=True)
    weights = LibraryWeights(
        source="timm",
        architecture=f"{settings.architecture}.{settings.tag}" if settings.tag else name,
        classes=settings.num_classes,
        mean=found["mean"],
        std=found["std"],
        own_network=own_network,
    )
    squashed = found["crop_mode"] != "center" and found["crop_pct"] < 1
    notes = (f"timm cuts these images in the mode {found['crop_mode']!r}; here the centre is cut.",) if squashed else ()
    crop_ratio, interpolation = float(found["crop_pct"]), _interpolation(weights, found["interpolation"])
    return Card(weights, found["input_size"][-1], crop_ratio, interpolation, notes=notes)


def _torchvision_card(rest: str, own_network: bool) -> Card:
    from torchvision import models

    from repro.models.library import input_size

    architecture, _, tag = rest.partition(":")
    input_size("torchvision", architecture)  # refuses a name that torchvision does not have
    listed = models.get_model_weights(architecture)
    if tag and tag not in listed.__members__:
        raise unknown(f"weights of torchvision/{architecture}", tag, listed.__members__)
    if not len(listed):
        raise InputError(f"torchvision/{architecture}: torchvision has no weights of this network")
    chosen = listed[tag or "DEFAULT"]
    cut = chosen.transforms()
    weights = LibraryWeights(
        source="torchvision",
        architecture=architecture,
        tag=chosen.name,
        classes=len(chosen.meta["categories"]),
        mean=tuple(cut.mean),
        std=tuple(cut.std),
        own_network=own_network,
    )
    said = chosen.meta["_metrics"].get("ImageNet-1K", {})
    top1, top5 = (None if said.get(key) is None else round(100 - said[key], 3) for key in ("acc@1", "acc@5"))
    ratio, interpolation = cut.crop_size[0] / cut.resize_size[0], _interpolation(weights, cut.interpolation.value)
    return Card(weights, cut.crop_size[0], ratio, interpolation, top1, top5)


def _interpolation(weights: LibraryWeights, name: str) -> str:
    if name not in ("bilinear", "bicubic"):
        raise InputError(f"{weights.name}: its images are resized by {name}; here there is bilinear and bicubic")
    return name
