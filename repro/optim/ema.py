"""An exponential moving average of a network's weights and buffers. Knows no trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from repro.errors import InputError
from repro.optim.config import EmaConfig

State = dict[str, Tensor]


class Ema:
    """Averages the parameters and floating buffers of a network; integer buffers are copied.

    It begins as a copy of `net`, which must be on its device and have all its layers by then. One update is
    θ' += (1 - d) (θ - θ') with d = `config.decay` or, with `config.warmup`, at most (1 + t) / (10 + t) after t updates
    (TensorFlow's ExponentialMovingAverage; the released code of NFNets). `updates` counts them.
    Raises InputError where the recipe has no decay.
    """

    def __init__(self, net: nn.Module, config: EmaConfig) -> None:
        if config.decay is None:
            raise InputError("recipe.ema.decay=null averages nothing; expected a number below 1, such as 0.9999")
        self.updates = 0
        self._decay, self._every, self._warmup = config.decay, config.every, config.warmup
        self._net = net
        self._raw = _Tensors(net)
        self._shadow = {name: tensor.detach().clone() for name, tensor in self._raw.named.items()}

    @property
    def decay(self) -> float:
        """Decay of the next update."""
        return min(self._decay, (1 + self.updates) / (10 + self.updates)) if self._warmup else self._decay

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step number `step` (from 1); only after every `config.every` steps.

        Does not synchronise with the host.
        """
        if step % self._every:
            return
        raw = self._tensors(net)
        torch._foreach_lerp_(_pick(self._shadow, raw.floating), _pick(raw.named, raw.floating), 1 - self.decay)
        if raw.others:
            torch._foreach_copy_(_pick(self._shadow, raw.others), _pick(raw.named, raw.others))
        self.updates += 1

    @contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """Put the average into the tensors of `net` and, on leaving in whatever way, back what was there before.

        The tensors stay the same objects, so that a compiled or wrapped network sees the average too.
        """
        raw = _Tensors(net).named  # looked up anew: a network that moved between devices has other buffers
        kept = {name: tensor.detach().clone() for name, tensor in raw.items()}
        try:
            _copy(self._shadow, raw)
            yield
        finally:
            _copy(kept, raw)

    def weights(self) -> State:
        """Return the average, named as in `net.state_dict()`; the next update changes these tensors."""
        return {name: self._shadow[first] for name, first in self._raw.names.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to go on: the average and the number of updates."""
        return {"shadow": dict(self._shadow), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`. Raises InputError when it is of another network."""
        shadow: State = state["shadow"]
        wrong = shadow.keys() ^ self._shadow.keys() or {
            n for n, t in shadow.items() if t.shape != self._shadow[n].shape
        }
        if wrong:
            raise InputError(
                f"the average in the checkpoint is of another network: {min(wrong)} differs; train it again"
            )
        _copy(shadow, self._shadow)
        self.updates = state["updates"]

    def _tensors(self, net: nn.Module) -> _Tensors:
        """Look the network's tensors up once: to do so at every step takes longer than to average a small network."""
        if net is not self._net:
            self._net, self._raw = net, _Tensors(net)
        return self._raw


class _Tensors:
    """The parameters and persistent buffers of a network; one that has several names is there once."""

    def __init__(self, net: nn.Module) -> None:
        first: dict[Tensor, str] = {}
        state = {name: tensor for name, tensor in net.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
        self.names = {name: first.setdefault(tensor, name) for name, tensor in state.items()}
        self.named = {name: tensor for tensor, name in first.items()}
        self.floating = [name for name, tensor in self.named.items() if tensor.is_floating_point()]
        self.others = [name for name, tensor in self.named.items() if not tensor.is_floating_point()]


def _pick(state: State, names: list[str]) -> list[Tensor]:
    return [state[name] for name in names]


@torch.no_grad()
def _copy(source: State, target: State) -> None:
    """Copy tensors in place by their names."""
    torch._foreach_copy_(list(target.values()), _pick(source, list(target)))
