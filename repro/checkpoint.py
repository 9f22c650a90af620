"""The weights that a run leaves behind: the network's own and, where the recipe averages them, the average's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from repro import folder
from repro.errors import InputError

Which = Literal["raw", "ema"]
State = dict[str, Tensor]


def save_weights(directory: Path, raw: State, ema: State | None) -> None:
    """Write a run's last weights into its folder, atomically and on the CPU."""
    temporary = directory / f".{folder.WEIGHTS}"
    torch.save({"raw": _on_cpu(raw), "ema": None if ema is None else _on_cpu(ema)}, temporary)
    temporary.replace(directory / folder.WEIGHTS)


def load_weights(directory: Path, which: Which | None = None) -> State:
    """Read a finished run's weights; `which` null: those of its result, the average where it has one.

    Raises:
        InputError: no such file, one that cannot be read, or no average in it.
    """
    path = directory / folder.WEIGHTS
    try:
        saved: dict[str, State | None] = torch.load(path, map_location="cpu", weights_only=True)
        raw, ema = saved["raw"], saved["ema"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a run leaves its weights there when it has finished") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not the weights of a run ({reason}); train it again") from None
    chosen = {"raw": raw, "ema": ema, None: raw if ema is None else ema}[which]
    if chosen is None:
        raise InputError(f"{path}: the run kept no average of its weights (recipe.ema.decay is null); use raw")
    return chosen


def _on_cpu(state: State) -> State:
    return {name: value.detach().cpu() for name, value in state.items()}
