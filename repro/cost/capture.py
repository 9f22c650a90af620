"""Every operator that one image runs in a network, with the module that runs it and the parameters that it uses.

The network lies on the meta device where that is possible: shapes without numbers, so that the largest one takes a
moment and no memory. Work that does not depend on the image, such as the standardisation of weights or a table of
positions, is left out: it is done once. torch's random generators stay as they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from repro.cost.blank import with_network
from repro.cost.operators import (
    FACTORIES,
    Call,
    Kind,
    Shape,
    elementwise_of,
    kind_of,
    macs_of,
    names,
    pooling_of,
)
from repro.models.auxiliary import drop_heads
from repro.models.config import ModelConfig


@dataclass(frozen=True)
class Operation:
    """One operator of the forward pass of one image.

    `path`: the innermost module that ran it, `leaf` if that has no parts; `entry`: shape of that module's input;
    `parameters`: names of those that it uses, also by way of other operators.
    """

    kind: Kind
    path: str
    leaf: bool
    entry: Shape | None
    call: Call
    parameters: tuple[str, ...]
    macs: int
    pooling: int
    elementwise: int


@dataclass(frozen=True)
class Capture:
    """The operators in order, and the network's parameters with their numbers of elements."""

    operations: tuple[Operation, ...]
    parameters: dict[str, int]

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and attention."""
        return sum(operation.macs for operation in self.operations)

    @cached_property
    def pooling(self) -> int:
        """Operations of poolings."""
        return sum(operation.pooling for operation in self.operations)

    @cached_property
    def elementwise(self) -> int:
        """Elementwise operations."""
        return sum(operation.elementwise for operation in self.operations)

    @cached_property
    def activations(self) -> int:
        """Output elements of convolutions and linear layers."""
        counted = (operation.call.output for operation in self.operations if operation.kind in ("conv", "linear"))
        return sum(torch.Size(output).numel() for output in counted)

    @cached_property
    def uncounted(self) -> tuple[str, ...]:
        """Operators without a counting rule, with how often each ran."""
        return names(Counter(operation.call.name for operation in self.operations if operation.kind == "unknown"))


def observe(config: ModelConfig, size: int, channels: int, classes: int) -> Capture:
    """Build the network of `config` and capture what one image `(channels, size, size)` runs in it.

    Auxiliary classifiers, which only training runs, are taken off.
    Raises InputError for a network that cannot be built, or that cannot take such an image.
    """
    return with_network(
        config, size, channels, classes, lambda network: capture(drop_heads(network), (channels, size, size))
    )


def capture(network: nn.Module, shape: tuple[int, int, int]) -> Capture:
    """Return the operators of one image of `shape` `(C, H, W)` through `network`, in evaluation mode, where it lies.

    Raises ValueError, or what the network raises, where the image is too small for it.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    with device:  # for tensors that the network itself makes on the way
        image = torch.zeros(1, *shape)
        recorder = _Recorder(network, image)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(plain_attention())
            stack.enter_context(recorder.following(network.eval()))
            stack.enter_context(recorder)
            network(image)
    return Capture(tuple(recorder.operations), {name: p.numel() for name, p in network.named_parameters()})


@contextmanager
def plain_attention() -> Iterator[None]:
    """Run attention as the products that it is made of, on every device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


_IMAGE = ""
"""Stands among the names of parameters for the image."""

_WHOLE = (nn.LocalResponseNorm,)
"""Modules that are one operator, though torch makes them of several."""


@dataclass(frozen=True)
class _Frame:
    path: str
    leaf: bool
    whole: bool
    entry: Shape | None


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operators; knows of every tensor, by its storage, what it was made of."""

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._paths: dict[nn.Module, str] = {}
        self._stack: list[_Frame] = []
        self._origin = {_key(parameter): frozenset({name}) for name, parameter in network.named_parameters()}
        self._origin[_key(image)] = frozenset({_IMAGE})

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = _name(func)
        result = _shortcut(name, args) or func(*args, **(kwargs or {}))
        arguments = _bound(func, args, kwargs or {})
        origin: frozenset[str] = frozenset().union(*map(self._of, _tensors(arguments)))
        dynamic = _IMAGE in origin
        made = frozenset() if name in FACTORIES else frozenset({_IMAGE}) if dynamic else origin
        outputs = list(_tensors(result))
        for tensor in outputs:
            self._origin[_key(tensor)] = made
        if dynamic and outputs and name not in FACTORIES:
            self._record(func, name, arguments, outputs[0], origin)
        return result

    def _of(self, tensor: Tensor) -> frozenset[str]:
        return self._origin.get(_key(tensor), frozenset())

    def _record(self, func: Any, name: str, arguments: dict[str, Any], output: Tensor, origin: frozenset[str]) -> None:
        if any(frame.whole for frame in self._stack):
            return
        single = {key: value for key, value in arguments.items() if isinstance(value, Tensor)}
        call = Call(
            name=name,
            arguments={key: value.shape if key in single else value for key, value in arguments.items()},
            output=tuple(output.shape),
            pointwise=torch.Tag.pointwise in func.tags,
            dynamic={key: _IMAGE in self._of(value) for key, value in single.items()},
        )
        self._add(kind_of(call, _is_view(func)), call, tuple(sorted(origin - {_IMAGE})))

    def _add(self, kind: Kind, call: Call, parameters: tuple[str, ...]) -> None:
        if kind != "free" and 0 in call.output:
            raise ValueError(f"{call.name} leaves {' × '.join(map(str, call.output))} of it")
        frame = self._stack[-1] if self._stack else _Frame("", False, False, None)
        counts = {"macs": macs_of, "pooling": pooling_of, "elementwise": elementwise_of}
        counted = {what: rule(kind, call) for what, rule in counts.items()}
        self.operations.append(Operation(kind, frame.path, frame.leaf, frame.entry, call, parameters, **counted))

    @contextmanager
    def following(self, network: nn.Module) -> Iterator[None]:
        """Know, while the network runs, which of its modules is running."""
        self._paths = {module: path for path, module in network.named_modules()}
        handles = [register_module_forward_pre_hook(self._entering), register_module_forward_hook(self._leaving)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if module in self._paths:
            entry = tuple(inputs[0].shape) if inputs and isinstance(inputs[0], Tensor) else None
            leaf = next(module.children(), None) is None
            self._stack.append(_Frame(self._paths[module], leaf, isinstance(module, _WHOLE), entry))

    def _leaving(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module not in self._paths:
            return
        if isinstance(module, _WHOLE):
            self._stack[-1] = replace(self._stack[-1], whole=False)
            shape = inputs[0].shape
            self._add("norm", Call("local_response_norm", {"input": shape}, tuple(output.shape), True, {}), ())
        self._stack.pop()


def _shortcut(name: str, args: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Say what batch norm returns on the meta device without asking torch, which takes half of the time to answer."""
    if name != "native_batch_norm" or args[0].device.type != "meta":
        return None
    statistics = args[0].new_empty(args[0].shape[1] if args[5] else 0)
    return torch.empty_like(args[0]), statistics, torch.empty_like(statistics)


def _key(tensor: Tensor) -> int:
    """Identify a tensor's storage: views share it, and torch keeps its Python object as long as itself."""
    return id(tensor.untyped_storage())


def _name(func: Any) -> str:
    """Return an operator's name without overload and in-place mark; `library::name` outside torch's own."""
    library, _, name = func._schema.name.partition("::")
    return name.rstrip("_") if library == "aten" else f"{library}::{name}"


def _is_view(func: Any) -> bool:
    """Whether the operator returns its input's own storage and writes nothing."""
    aliases = [value.alias_info for value in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Name the arguments as the operator's schema does, in its order and with its defaults."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False))
    given.update(kwargs)
    return {a.name: given.get(a.name, a.default_value) for a in func._schema.arguments}


def _tensors(value: Any) -> Iterator[Tensor]:
    """Find the tensors in an argument or a result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
