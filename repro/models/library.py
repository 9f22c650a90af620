"""Every network that timm or torchvision has, by its name there. Loads no weights and downloads nothing.

Both are imported when a network is built, not before: timm's registry alone takes seconds.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from repro.errors import InputError, nearest, unknown
from repro.models.auxiliary import Outputs, mark_heads
from repro.models.library_config import LibraryConfig

Builder = Callable[..., Any]

_NOT_ARGUMENTS = {
    "channels and classes are those of the data": ("in_chans", "num_classes"),
    "a network is built without weights": (
        *("weights", "progress", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"),
        *("checkpoint_path", "cache_dir"),
    ),
    "a network must return logits": ("features_only", "out_indices"),
}
"""Arguments of the libraries that are not the user's to set, by the reason."""

_RANDOM = {name: {"init_weights": True} for name in ("googlenet", "inception_v3")}
"""torchvision's two that warn unless they are told to initialise themselves."""

_SMALLEST = {"googlenet": (15, 15), "inception_v3": (75, 299)}
"""Least input (pixels) without and with auxiliary classifiers: Inception-v3's has a 5x5 convolution on a map that is
pooled from 17x17, which takes 299 pixels (Szegedy et al., arXiv:1512.00567, Table 1)."""


def build_library(config: LibraryConfig, channels: int, classes: int) -> nn.Module:
    """Build `config.architecture` of `config.source`, mapping `(N, channels, H, W)` to logits `(N, classes)`.

    The modules keep the library's names, so that its weights fit. Auxiliary classifiers make the network return
    `Outputs` in training mode.
    Raises InputError for an architecture that the library does not have, an argument that its constructor does not
    take, or a value that it refuses; and, when the network runs, for an input that is known to be too small.
    """
    for reason, names in _NOT_ARGUMENTS.items():
        for name in config.arguments:
            if name in names:
                raise InputError(f"model {config.name}: arguments.{name} cannot be set: {reason}")
    network = (
        _from_timm(config, channels, classes)
        if config.source == "timm"
        else _from_torchvision(config, channels, classes)
    )
    _refuse_small_input(network, config.architecture)
    return _with_outputs(network)


def input_size(source: str, architecture: str) -> int | None:
    """Return the height and width (pixels) that an architecture was published with, by the library's own records.

    None where the library says nothing. Raises InputError for an architecture that it does not have.
    """
    return _timm_size(architecture) if source == "timm" else _torchvision_size(architecture)


def adapt_input(network: nn.Module, channels: int) -> None:
    """Give the first convolution of a network for 3 channels as many inputs as `channels`, in place.

    Its weights are drawn anew, so that an output has the spread at initialisation that it had with 3 channels.
    """
    name, old = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    if old.in_channels == channels:
        return
    shape: dict[str, Any] = {key: getattr(old, key) for key in ("stride", "padding", "dilation", "padding_mode")}
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, bias=old.bias is not None, **shape)  # type: ignore[arg-type]
    with torch.no_grad():
        new.weight.normal_().mul_(old.weight.std() * (old.in_channels / channels) ** 0.5)
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    network.set_submodule(name, new)


def _from_timm(config: LibraryConfig, channels: int, classes: int) -> nn.Module:
    import timm

    _known_to_timm(config.architecture)
    entry = timm.model_entrypoint(config.architecture)
    create = partial(timm.create_model, config.architecture, pretrained=False, in_chans=channels, num_classes=classes)
    return _constructed(config, create, entry)


def _from_torchvision(config: LibraryConfig, channels: int, classes: int) -> nn.Module:
    from torchvision import models

    name = config.architecture
    _known_to_torchvision(name)
    if channels != 3 and config.arguments.get("transform_input"):
        raise InputError(f"model {config.name}: arguments.transform_input needs 3 channels, the data have {channels}")
    create = partial(models.get_model, name, weights=None, num_classes=classes, **_RANDOM.get(name, {}))
    network = _constructed(config, create, models.get_model_builder(name))
    adapt_input(network, channels)
    return network


def _known_to_timm(name: str) -> None:
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown("architecture of timm", name, timm.list_models())
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise unknown("architecture of timm", name, [*tagged, architecture])


def _known_to_torchvision(name: str) -> None:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise unknown("architecture of torchvision", name, names)


def _timm_size(name: str) -> int | None:
    import timm

    _known_to_timm(name)
    settings = timm.get_pretrained_cfg(name)
    return None if settings is None else int(settings.input_size[-1])


def _torchvision_size(name: str) -> int | None:
    """Take the smallest crop of an architecture's weights: some were fine-tuned above the size it was built for."""
    from torchvision import models

    _known_to_torchvision(name)
    return min((weights.transforms.keywords["crop_size"] for weights in models.get_model_weights(name)), default=None)


def _constructed(config: LibraryConfig, create: Builder, entry: Builder) -> nn.Module:
    """Call a library's constructor; what it refuses, in whatever way, is the user's to mend."""
    try:
        network: nn.Module = create(**config.arguments)
    except Exception as error:
        raise InputError(f"model {config.name}: {_refusal(config, error, entry)}") from error
    return network


def _refusal(config: LibraryConfig, error: Exception, entry: Builder) -> str:
    whose = f"{config.source}'s {config.architecture}"
    found = re.search(r"(?:(\w+)\.__init__\(\) )?got an unexpected keyword argument '(\w+)'", str(error))
    if found is None:
        given = ", ".join(f"{key}={value}" for key, value in config.arguments.items()) or "these channels and classes"
        return f"{whose} cannot be built with {given}: {(str(error).splitlines() or [type(error).__name__])[0]}"
    guess = nearest(found[2], _parameters(entry, found[1]))
    return f"{whose} takes no argument {found[2]!r}" + (f"; did you mean {guess!r}?" if guess else "")


def _parameters(entry: Builder, class_name: str | None) -> Collection[str]:
    """Names of what the class, found beside the function that builds it, can be given."""
    kind = getattr(sys.modules[entry.__module__], class_name or "", None)
    return inspect.signature(kind).parameters if callable(kind) else ()


def _with_outputs(network: nn.Module) -> nn.Module:
    """Let a network that has auxiliary classifiers return `Outputs` while it trains."""
    if getattr(network, "aux_logits", False):
        mark_heads(network, tuple(name for name, _ in network.named_children() if name.lower().startswith("aux")))
        network.register_forward_hook(_as_outputs)
    return network


def _as_outputs(network: nn.Module, inputs: Any, out: Tensor | tuple[Tensor | None, ...]) -> Tensor | Outputs:
    """Sort what the libraries return: in training a tuple that the logits lead; timm's holds None in evaluation."""
    if isinstance(out, Tensor):
        return out
    logits, *others = (tensor for tensor in out if tensor is not None)
    return Outputs(logits, tuple(others)) if network.training else logits


def _refuse_small_input(network: nn.Module, architecture: str) -> None:
    """Have too small an input refused, also in evaluation: pricing runs the network before anything is trained."""
    bare, headed = _SMALLEST.get(architecture.partition(".")[0], (0, 0))
    least = headed if getattr(network, "aux_logits", False) else bare
    advice = f", or {bare} with arguments.aux_logits=false" if least > bare else ""
    if least:
        network.register_forward_pre_hook(partial(_check_size, f"{architecture} needs {least} pixels{advice}", least))


def _check_size(need: str, least: int, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    height, width = inputs[0].shape[-2:]
    if min(height, width) < least:
        raise InputError(f"{need}; the input has {height} x {width}")
