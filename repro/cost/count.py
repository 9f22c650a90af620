"""The price of one forward pass of one image, counted by fvcore on the traced network, and its cache.

MACs are those of convolutions and linear layers, the papers' "FLOPs" (He et al., arXiv:1512.03385, Table 1); batch
norm, activation functions, pooling and additions are free by that convention. Activations are the output elements of
the same layers (Radosavovic et al., arXiv:2003.13678, §3.1); pycls's figures hold a max-pool's output besides.
torch is imported only when something is really counted.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from repro.errors import InputError
from repro.models.config import ModelConfig
from repro.paths import cache_dir
from repro.results import Cost, write_atomic
from repro.typed import digest

if TYPE_CHECKING:
    from torch import nn

COUNTER_VERSION = 1
"""Raised whenever a count or a network changes, so that older cached prices are not read."""

FREE = (
    *("aten::batch_norm", "aten::add", "aten::add_"),
    *("aten::max_pool2d", "aten::avg_pool2d", "aten::adaptive_avg_pool2d", "aten::pad"),
)
"""Operators that cost nothing by the convention above, besides fvcore's own list of shape and copy operators."""


def price(config: ModelConfig, size: int, channels: int, classes: int) -> Cost:
    """Count parameters, MACs and activations of one image `(channels, size, size)`.

    Raises InputError for a network that cannot be built, or that runs an operator which the counter does not know.
    """
    from repro.cost.blank import blank_network

    network = blank_network(config, channels, classes)
    macs, activations = count(network, (channels, size, size))
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(input=(channels, size, size), params=params, macs=macs, activations=activations)


def count(network: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Return MACs and activations of one image of `shape` `(C, H, W)` through `network`, in evaluation mode.

    Raises InputError where the network runs an operator that is neither counted nor known to be free.
    """
    with warnings.catch_warnings():  # fvcore warns of torch.jit's deprecation, at import and at every trace
        warnings.simplefilter("ignore")
        analysis = _traced(network.eval(), shape)
    unknown = sorted(analysis.unsupported_ops())
    if unknown:
        raise InputError(f"cost: no counting rule for {', '.join(unknown)}; the MACs would be incomplete")
    totals = analysis.by_operator()
    return int(totals["macs"]), int(totals["activations"])


def _traced(network: nn.Module, shape: tuple[int, int, int]) -> Any:
    """Trace the network once with fvcore, under the rules of this module."""
    import torch
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(network, torch.zeros(1, *shape)).clear_op_handles()
    analysis.set_op_handle(**dict.fromkeys(FREE), **_handles())
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    with torch.inference_mode():
        analysis.total()
    return analysis


def known_price(config: ModelConfig, size: int, channels: int, classes: int) -> Cost | None:
    """Return the cached price, or None where this model was not priced before. Never imports torch."""
    try:
        return Cost.model_validate_json(_cache_file(config, size, channels, classes).read_bytes())
    except (OSError, ValidationError):
        return None


def cached_price(config: ModelConfig, size: int, channels: int, classes: int) -> Cost:
    """Return the price from the cache, else count it and try to keep it. Raises InputError as `price` does."""
    known = known_price(config, size, channels, classes)
    if known is not None:
        return known
    cost = price(config, size, channels, classes)
    with suppress(OSError):  # a cache that cannot be written costs time, not the result
        write_atomic(_cache_file(config, size, channels, classes), cost.model_dump_json() + "\n")
    return cost


def _cache_file(config: ModelConfig, size: int, channels: int, classes: int) -> Path:
    """Name the file by everything that changes the price; a preset's name, native input and published error do not."""
    axes = config.model_dump(mode="json", exclude={"name", "native", "published"})
    key = digest([COUNTER_VERSION, axes, size, channels, classes])
    return cache_dir() / "prices" / f"{key}.json"


def _handles() -> dict[str, Callable[[list[Any], list[Any]], Counter[str]]]:
    """Counting rules of the operators that have a cost; one trace yields MACs and activations."""
    from fvcore.nn.jit_handles import addmm_flop_jit, conv_flop_jit, linear_flop_jit

    rules = {"aten::_convolution": conv_flop_jit, "aten::linear": linear_flop_jit, "aten::addmm": addmm_flop_jit}
    return {operator: _priced(rule) for operator, rule in rules.items()}


def _priced(rule: Callable[[list[Any], list[Any]], Any]) -> Callable[[list[Any], list[Any]], Counter[str]]:
    """Wrap fvcore's rule for an operator's MACs so that it also counts the elements of the operator's output."""
    from fvcore.nn.jit_handles import generic_activation_jit

    elements = generic_activation_jit()

    def handle(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        macs = rule(inputs, outputs)
        total = sum(macs.values()) if isinstance(macs, Counter) else macs
        return Counter(macs=total, activations=elements(inputs, outputs))

    return handle
