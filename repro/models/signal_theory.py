"""What theory expects of the signal of a pre-activation network at initialisation: one recursion over its units.

In a wide network with independent weights, a layer's output on Gaussian noise is Gaussian, and two numbers describe
it: the squared mean of a channel and its variance, averaged over the channels. Every layer maps them by a closed form
(Cho & Saul, NeurIPS 2009, for ReLU; He et al., arXiv:1502.01852, §2.2, for a convolution; Brock et al.,
arXiv:2101.08692, §3 and §4, for residual sums and weight standardisation). Pure functions; needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import acos, pi, sqrt

from repro.models.residual_config import ResidualConfig

_NODES = 64  # of the quadrature for activations without a closed form
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Moments:
    """Squared mean and variance of a channel over batch and pixels, averaged over the channels.

    `common` is the part of the squared mean that comes from a mean which all channels share.
    """

    mean_square: float
    variance: float
    common: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Add independent signals, of which one has a mean of random sign in every channel."""
        return Moments(self.mean_square + other.mean_square, self.variance + other.variance, self.common + other.common)

    def scaled(self, factor: float) -> Moments:
        """Multiply the signal by a constant."""
        return Moments(*(factor**2 * moment for moment in (self.mean_square, self.variance, self.common)))


@dataclass(frozen=True)
class Expected:
    """Expected at one unit: squared mean and variance of its output, variance at the end of its branch."""

    mean_square: float
    variance: float
    branch_variance: float


def expected(config: ResidualConfig) -> tuple[Expected, ...] | None:
    """Return what to expect of each unit in order, SkipInit gains at 1; None where the recursion has no closed form.

    `missing_reason` says where that is. The expectation is exact in the limit of width for a network without
    `broken_assumptions`.
    """
    if missing_reason(config):
        return None
    signal, found = _after_stem(config), []
    for unit, assumed in zip(_units(config), input_variances(config), strict=True):
        signal, branch = _through(config, unit, signal, assumed)
        found.append(Expected(signal.mean_square, signal.variance, branch.variance))
    return tuple(found)


def missing_reason(config: ResidualConfig) -> str | None:
    """Return why there is no expectation, or None."""
    if config.order not in ("pre", "relu_only_pre"):
        return f"the recursion needs order=pre or order=relu_only_pre (found order={config.order})"
    se = config.se
    if se.reduction is not None and (se.position, se.squeeze, se.gate) != ("standard", "avg", "sigmoid"):
        return (
            "the recursion knows squeeze-and-excitation only with position=standard, squeeze=avg and gate=sigmoid "
            f"(found {se.position}, {se.squeeze}, {se.gate})"
        )
    return None


def broken_assumptions(config: ResidualConfig) -> tuple[str, ...]:
    """Return the axes for which the expectation is only an approximation, each with the reason."""
    breaks = {
        f"padding={config.padding} loses variance at the borders": config.padding != "circular",
        "shortcut=D averages white noise away": config.shortcut == "D",
        "shortcut=A gives some channels less variance": config.shortcut == "A" and config.norm == "none",
        f"stem={config.stem} is more than a convolution": config.stem not in ("cifar", "simple"),
        "stage 1 carries a rectified signal to its end": _stays_rectified(config),
        "squeeze-and-excitation is taken for its gate at zero": config.se.reduction is not None,
        "without norm and weight standardisation seeds come to differ by powers of ten": (
            config.norm == "none" and not config.weight_standardization
        ),
    }
    return tuple(reason for reason, broken in breaks.items() if broken)


def _stays_rectified(config: ResidualConfig) -> bool:
    """In batch-normalised networks the first shortcut is behind a ReLU; a branch of two convolutions evens that out."""
    rectified = config.order == "pre" and config.norm == "batch" and config.stem == "cifar"
    return rectified and config.shortcut != "none" and (config.zero_init or config.block == "single")


def input_variances(config: ResidualConfig) -> tuple[float, ...]:
    """Return the variance of each unit's input that beta assumes: 1 + n alpha^2 before unit n of a stage, n from 0.

    A projection shortcut, which starts behind beta, resets it to 1: 1 + alpha^2 after the first unit of a stage
    (arXiv:2101.08692, §3 and §4.1).
    """
    variance, found = 1.0, []
    for unit in _units(config):
        found.append(variance)
        variance = (1.0 if _projects(config, unit) else variance) + config.alpha**2
    return tuple(found)


def activated(moments: Moments, kind: str) -> Moments:
    """Pass Gaussian signals through an activation: relu, or silu or gelu by quadrature.

    The mean of a channel is N(0, mean_square) over the channels, so two pixels that share nothing but the channel have
    the correlation mean_square / second moment.
    """
    return _rectified(moments) if kind == "relu" else _by_quadrature(moments, kind)


def _rectified(moments: Moments) -> Moments:
    """Cho & Saul's kernel of degree 1 at that correlation."""
    second = moments.mean_square + moments.variance
    correlation = min(1.0, moments.mean_square / second) if second else 0.0
    kernel = sqrt(1 - correlation**2) + correlation * (pi - acos(correlation))
    mean_square = second * kernel / (2 * pi)
    return Moments(mean_square, second / 2 - mean_square, second / (2 * pi))


def _by_quadrature(moments: Moments, kind: str) -> Moments:
    """Gauss-Hermite quadrature over a channel's values and over the channels' means."""
    import numpy as np
    from scipy.special import expit, ndtr

    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    weights = weights / weights.sum()
    means, deviation = sqrt(moments.mean_square) * nodes, sqrt(moments.variance)
    values = means[:, None] + deviation * nodes[None, :]
    values = values * (expit if kind == "silu" else ndtr)(values)
    channel_means, second = values @ weights, float(weights @ values**2 @ weights)
    mean_square = float(weights @ channel_means**2)
    return Moments(mean_square, second - mean_square, float(weights @ channel_means) ** 2)


@dataclass(frozen=True)
class _Unit:
    stage: int
    first: bool
    stride: int
    inputs: int
    outputs: int


def _units(config: ResidualConfig) -> Iterator[_Unit]:
    inputs = config.stem_width
    for stage, depth in enumerate(config.depths):
        outputs = config.out_width(stage)
        for index in range(depth):
            stride = 1 if index else (2 if stage else config.first_stride)
            yield _Unit(stage, stage == index == 0, stride, inputs, outputs)
            inputs = outputs


def _same(unit: _Unit) -> bool:
    return unit.stride == 1 and unit.inputs == unit.outputs


def _projects(config: ResidualConfig, unit: _Unit) -> bool:
    return config.shortcut == "C" or (config.shortcut in ("B", "D") and not _same(unit))


def _after_stem(config: ResidualConfig) -> Moments:
    """The stem's last convolution sees noise, or the activations of its others; max-pooling is left out."""
    signal, inputs = Moments(0.0, 1.0), config.native.channels
    if config.stem not in ("cifar", "imagenet", "simple"):
        signal, inputs = _active(config, signal), config.stem_width
    signal = _convolved(config, signal, inputs, config.stem_width)
    return _normalised(config, signal) if config.order == "relu_only_pre" else signal


def _through(config: ResidualConfig, unit: _Unit, entry: Moments, assumed: float) -> tuple[Moments, Moments]:
    """Return the signal at the unit's output and at the end of its branch."""
    before = _normalised(config, entry) if config.order == "pre" else entry
    active = _active(config, before).scaled(1 / sqrt(assumed) if config.beta else 1.0)
    projects = _projects(config, unit)
    shared = projects or (unit.first and config.stem == "cifar" and config.norm == "batch")
    branch = _branch(config, unit, active)
    return _shortcut(config, unit, active if shared else entry, projects) + branch, branch


def _branch(config: ResidualConfig, unit: _Unit, signal: Moments) -> Moments:
    """Convolutions with what stands between them; only the last one's shape matters where batch norms follow others."""
    widths = {"single": unit.inputs, "basic": config.widths[unit.stage], "bottleneck": config.inner_width(unit.stage)}
    convolutions = {"single": 1, "basic": 2, "bottleneck": 2 + config.middle}[config.block]
    for later in range(convolutions):
        if later:
            signal = _active(config, _normalised(config, signal))
        signal = _convolved(config, signal, widths[config.block], unit.outputs)
    if config.order == "relu_only_pre":
        signal = _normalised(config, signal)
    se = config.se
    squeezed = se.reduction is not None and (se.stages is None or unit.stage + 1 in se.stages)
    gate = se.gain / 2 if squeezed else 1.0
    return signal.scaled(0.0 if config.zero_init else config.alpha * gate)


def _shortcut(config: ResidualConfig, unit: _Unit, signal: Moments, projects: bool) -> Moments:
    if config.shortcut == "none":
        return Moments(0.0, 0.0)
    if projects:
        signal = _convolved(config, signal, unit.inputs, unit.outputs)
        return signal if config.order == "pre" else _normalised(config, signal)
    return signal.scaled(sqrt(unit.inputs / unit.outputs))  # of option A, whose other channels are zero


def _active(config: ResidualConfig, signal: Moments) -> Moments:
    return activated(signal, config.activation).scaled(_gain_of_activation(config))


def _gain_of_activation(config: ResidualConfig) -> float:
    """Gamma: the factor that gives the activation of N(0, 1) unit variance."""
    return activated(Moments(0.0, 1.0), config.activation).variance ** -0.5 if config.gamma else 1.0


def _normalised(config: ResidualConfig, signal: Moments) -> Moments:
    return Moments(0.0, 1.0) if config.norm == "batch" else signal


def _convolved(config: ResidualConfig, signal: Moments, inputs: int, outputs: int) -> Moments:
    """Standardised filters have unit norm and ignore the common mean; He's have the second moment 2 / fan.

    The fan is that of the output in a network with batch norm, else of the input.
    """
    if config.weight_standardization:
        rest = signal.mean_square - signal.common
        return Moments(rest if rest > _ROUNDING * signal.variance else 0.0, signal.variance)
    factor = 2 * (inputs / outputs if config.norm == "batch" else 1.0)
    return Moments(factor * signal.mean_square, factor * signal.variance)
