"""What a network does to its signal at initialisation: a signal propagation plot's numbers (Brock, De & Smith, ICLR
2021, arXiv:2101.08692, §3), measured on Gaussian noise. Trains nothing, and leaves networks and torch's RNG as they
were. `signal_theory.py` says what to expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite, nan
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor, nn

from repro.errors import InputError
from repro.models import build
from repro.models.config import Family
from repro.models.layers import Scale
from repro.models.unit import ResidualUnit

SMALL = 64
"""Height and width of the noise, in pixels, for a network that can take it and was published with more."""


@dataclass(frozen=True)
class UnitSignal:
    """The output of one residual unit, or of one convolution where a network has no residual units.

    `mean_square` is the average over channels of the squared channel mean and `variance` that of the channel variance,
    both over batch and pixels; `branch_variance` is the latter at the end of the residual branch, before the sum;
    `spread` is the standard deviation of `variance` over the seeds. `stage` and `index` count from 1.
    """

    stage: int | None
    index: int
    name: str
    mean_square: float
    variance: float
    branch_variance: float | None
    spread: float | None = None


@dataclass(frozen=True)
class Signal:
    """The units in the order of the network, averaged over the seeds; images of `input` `(C, H, W)`."""

    input: tuple[int, int, int]
    batch: int
    seeds: tuple[int, ...]
    units: tuple[UnitSignal, ...]


def measure(config: Family, size: int | None = None, batch: int = 32, seeds: Sequence[int] = range(5)) -> Signal:
    """Initialise the network once for every seed and pass it one batch of N(0, 1) noise.

    Args:
        config: the network.
        size: height and width of the images; None: `SMALL`, or the native size where that is smaller or `SMALL` fails.
        batch: images in the batch.
        seeds: one initialisation and one batch each.

    Raises:
        InputError: a network that cannot be built, that has no convolution, or that cannot take such images.
    """
    native = config.native.size
    if size is None and native > SMALL:
        try:
            return measure(config, SMALL, batch, seeds)
        except InputError:
            size = native
    size = size or native
    passes = [_one_seed(config, size, batch, seed) for seed in seeds]
    units = tuple(_averaged(same) for same in zip(*passes, strict=True))
    return Signal((config.native.channels, size, size), batch, tuple(seeds), units)


def observe(network: nn.Module, images: Tensor) -> list[UnitSignal]:
    """Measure one pass of images `(N, C, H, W)` in the state of initialisation.

    Batch norms use the batch's statistics and keep their running ones, SkipInit gains count as 1 (at 0 every branch
    would be silent; the paper measures without them), dropout and stochastic depth are off. The network is left as it
    was.
    """
    rows: list[UnitSignal] = []
    watch = _watch_units if any(isinstance(module, ResidualUnit) for module in network.modules()) else _watch_convs
    handles = watch(network, rows)
    try:
        with _at_initialisation(network), torch.inference_mode():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def _one_seed(config: Family, size: int, batch: int, seed: int) -> list[UnitSignal]:
    shape = (batch, config.native.channels, size, size)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = build(config, config.native.channels, config.native.classes)
        images = torch.randn(shape)
    try:
        rows = observe(network, images)
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"model {config.name}: {batch} images of {' × '.join(map(str, shape[1:]))} do not pass ({reason}); its "
            f"native size is {config.native.size}"
        ) from None
    if not rows:
        raise InputError(f"model {config.name}: it has neither residual units nor convolutions to measure at")
    return rows


def _averaged(same: Sequence[UnitSignal]) -> UnitSignal:
    """Average one unit over the seeds."""
    branches = [row.branch_variance for row in same if row.branch_variance is not None]
    variances = [row.variance for row in same]
    return replace(
        same[0],
        mean_square=fmean(row.mean_square for row in same),
        variance=fmean(variances),
        branch_variance=fmean(branches) if branches else None,
        spread=_deviation(variances),
    )


def _deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None for one value, NaN where one overflowed."""
    if len(values) < 2:
        return None
    return stdev(values) if all(map(isfinite, values)) else nan


@contextmanager
def _at_initialisation(network: nn.Module) -> Iterator[None]:
    modules = list(network.modules())
    modes = [module.training for module in modules]
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    tracked = [norm.track_running_stats for norm in norms]
    gains = [module.gain for module in modules if isinstance(module, Scale) and module.gain is not None]
    values = [gain.detach().clone() for gain in gains]
    network.eval()
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    _fill(gains, [torch.ones_like(gain) for gain in gains])
    try:
        yield
    finally:
        _fill(gains, values)
        for norm, track in zip(norms, tracked, strict=True):
            norm.track_running_stats = track
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _fill(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def _watch_units(network: nn.Module, rows: list[UnitSignal]) -> list[Any]:
    """Record each unit's branch when it ends and its output after that; later layers may write over both."""
    handles: list[Any] = []
    branch: list[float] = []
    places: dict[int, int] = {}
    for name, unit in network.named_modules():
        if isinstance(unit, ResidualUnit):
            stage = int(name.split(".")[-2]) + 1
            places[stage] = places.get(stage, 0) + 1
            handles += [
                unit.branch.register_forward_hook(lambda _, __, out: branch.append(_moments(out)[1])),
                unit.register_forward_hook(_unit_recorder(stage, places[stage], name, branch, rows)),
            ]
    return handles


def _unit_recorder(
    stage: int, index: int, name: str, branch: list[float], rows: list[UnitSignal]
) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(_: nn.Module, __: Any, out: Tensor) -> None:
        rows.append(UnitSignal(stage, index, name, *_moments(out), branch.pop()))

    return record


def _watch_convs(network: nn.Module, rows: list[UnitSignal]) -> list[Any]:
    """Record each convolution whose output is an image; a gate's, of one pixel, is not on the signal's path."""
    convolutions = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return [module.register_forward_hook(_conv_recorder(name, rows)) for name, module in convolutions]


def _conv_recorder(name: str, rows: list[UnitSignal]) -> Callable[[nn.Module, Any, Tensor], None]:
    def record(_: nn.Module, __: Any, out: Tensor) -> None:
        if out.dim() == 4 and out.shape[2:].numel() > 1:
            rows.append(UnitSignal(None, len(rows) + 1, name, *_moments(out), None))

    return record


def _moments(out: Tensor) -> tuple[float, float]:
    """Return the squared mean and the variance of a channel of `(N, C, H, W)`, averaged over the channels."""
    variance, mean = torch.var_mean(out.double(), dim=(0, 2, 3), correction=0)
    return float(mean.square().mean()), float(variance.mean())
