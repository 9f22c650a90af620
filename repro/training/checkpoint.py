"""What a run leaves on disk of its network: its last weights, and while it is not finished all that it goes on from.

`final.ckpt`: the network's own weights and, where the recipe averages them, the average's. `resume.ckpt`: the state of
an unfinished run (see `resume.py`) behind a checksum, so that a file that was cut off or has decayed is noticed; the
one before it stays as `resume.ckpt.old` and is read in its place. Every file is complete or not there.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from repro import folder
from repro.errors import InputError
from repro.results import write_atomic
from repro.training.log import say

Which = Literal["raw", "ema"]
State = dict[str, Tensor]

OLD = f"{folder.RESUME}.old"
HEADER = b"repro resume 1\n"
BODY = len(HEADER) + hashlib.sha256().digest_size
"""Where the state itself begins in the file: behind the header and the checksum."""
UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError)


def save_weights(directory: Path, raw: State, ema: State | None) -> None:
    """Write a run's last weights into its folder, atomically and on the CPU."""
    buffer = io.BytesIO()
    torch.save({"raw": _on_cpu(raw), "ema": None if ema is None else _on_cpu(ema)}, buffer)
    write_atomic(directory / folder.WEIGHTS, buffer.getvalue())


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
    except UNREADABLE as error:
        raise InputError(f"{path}: not the weights of a run ({_reason(error)}); train it again") from None
    chosen = {"raw": raw, "ema": ema, None: raw if ema is None else ema}[which]
    if chosen is None:
        raise InputError(f"{path}: the run kept no average of its weights (recipe.ema.decay is null); use raw")
    return chosen


def save_state(directory: Path, state: dict[str, Any]) -> None:
    """Write what an unfinished run goes on from, and keep the state before it.

    Raises OSError; then the one before is what is read.
    """
    new, newest = directory / f"{folder.RESUME}.new", directory / folder.RESUME
    write_atomic(new, _sealed(state))
    try:
        if newest.exists():
            newest.replace(directory / OLD)
        new.replace(newest)
    except OSError:
        _discard(new)
        raise


def load_state(directory: Path, run: str) -> dict[str, Any] | None:
    """Read the newest state of this run that can be read; null: there is none, and it begins anew.

    `run`: its id; the state of another run is never used. What is passed over is said in the log.
    """
    for name in (folder.RESUME, OLD):
        path = directory / name
        try:
            state = _opened(path.read_bytes())
        except FileNotFoundError:
            continue
        except UNREADABLE as error:
            say(f"{name}: cannot be used ({_reason(error)}); looking for the one before it")
            continue
        if state["id"] == run:
            return state
        say(f"{name}: of another run ({state['id']}, this one is {run}); not used")
    return None


def remove_state(directory: Path) -> None:
    """Take the states away: the run has an outcome."""
    for name in (folder.RESUME, OLD):
        _discard(directory / name)


def sweep(directory: Path) -> None:
    """Take away what a process that was killed had begun to write; only for who holds the run's lock."""
    half = [directory / f"{folder.RESUME}.new"]
    for name in (folder.RESUME, folder.WEIGHTS, folder.CURVE, folder.PROGRESS):
        half += directory.glob(f".{name}*")
    for path in half:
        _discard(path)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        say(f"{path.name}: cannot be removed ({error.strerror})")


def _sealed(state: dict[str, Any]) -> bytes:
    """Serialise behind a checksum; in memory, as torch hides why a write to disk failed."""
    buffer = io.BytesIO(HEADER)
    buffer.seek(BODY)
    torch.save(state, buffer)
    with buffer.getbuffer() as content:
        content[len(HEADER) : BODY] = hashlib.sha256(content[BODY:]).digest()
    return buffer.getvalue()


def _opened(content: bytes) -> dict[str, Any]:
    if not content.startswith(HEADER):
        raise ValueError("it does not begin as one")
    if hashlib.sha256(memoryview(content)[BODY:]).digest() != content[len(HEADER) : BODY]:
        raise ValueError("it is cut off or damaged")
    buffer = io.BytesIO(content)
    buffer.seek(BODY)
    state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    return state


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _on_cpu(state: State) -> State:
    return {name: value.detach().cpu() for name, value in state.items()}
