"""The record of a run: the schema of `result.json`, its atomic write, and how it is read back."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from repro.errors import InputError

SCHEMA_VERSION = 1
FILE = "result.json"

Status = Literal["finished", "diverged", "failed"]

FailureKind = Literal["crash", "killed", "out_of_memory", "nan", "timeout", "cancelled", "node_lost"]
"""`nan` is of a run that diverged; `killed` is by a signal that left no time to save."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Environment(_Record):
    """Where a run was trained. Never holds environment variables."""

    python: str
    packages: dict[str, str]
    platform: str
    cpu: str
    cores: int
    gpu: str | None
    commit: str | None
    dirty: bool | None
    code: str | None = None
    """Hash of the package's own source files: tells code apart where there is no commit, or one with changes."""
    earlier_code: tuple[str, ...] = ()
    """Hashes of the code that trained the run's beginning, where it went on under other code."""
    host: str | None = None


class Cost(_Record):
    """Price of one forward pass of one image `(C, H, W)` at the run's own input size.

    `macs`: multiply-accumulates of convolutions, linear layers and attention; `activations`: output elements of
    convolutions and linear layers; `pooling` and `elementwise`: their operations, which the papers leave out;
    `uncounted`: operators without a counting rule, with how often each runs.
    """

    input: tuple[int, int, int]
    params: int
    macs: int
    activations: int
    pooling: int = 0
    elementwise: int = 0
    uncounted: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """Floating-point operations where a multiply-accumulate is two."""
        return 2 * self.macs

    @property
    def training_macs(self) -> int:
        """MACs of a training step for one image: forward, and backward to the inputs and to the weights."""
        return 3 * self.macs


class Timing(_Record):
    """Wall-clock seconds. `train` is the training steps alone; `images_per_second` is over them."""

    setup: float
    train: float
    evaluate: float
    total: float
    images_per_second: float
    steps: int
    peak_memory: int | None = None
    """Most bytes that the run held at once: of the device on a GPU, of the process on a CPU."""
    shared: bool = False
    """True when other runs shared the device, so that the speed is not a measurement of the model alone."""


class Data(_Record):
    """What the run was trained and tested on."""

    name: str
    fingerprint: str
    train: int
    val: int
    test: int
    train_transform: str = ""
    test_transform: str = ""
    """What happened to the images of train and of the held-out splits, in words."""


class Failure(_Record):
    """Why a run failed or diverged."""

    kind: FailureKind
    message: str
    log: tuple[str, ...] = ()


class Result(_Record):
    """Everything that a report needs to know of a run.

    Metric names are `SPLIT_METRIC` with SPLIT in train, val, test, for example `test_top1_error` (%), `val_loss`
    (nats). `last` is after the last epoch and is the result; `best` is the epoch with the lowest `val_top1_error`.
    """

    schema_version: int = SCHEMA_VERSION
    status: Status
    id: str
    seed: int
    ablation: str | None
    scale: str
    variant: str | None
    config_hash: str
    started: str
    finished: str
    epochs: int
    last: dict[str, float] = {}
    best: dict[str, float] = {}
    curve: str = "metrics.csv"
    cost: Cost | None = None
    timing: Timing | None = None
    data: Data | None = None
    environment: Environment | None = None
    failure: Failure | None = None


def write_atomic(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write `content` so that a reader sees the old file or the new one, never a part.

    `durable`: also after a power cut, for which the disk is waited for; false for what can be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_result(directory: Path, result: Result) -> None:
    """Write `result.json` into a run's folder."""
    write_atomic(directory / FILE, result.model_dump_json(indent=2) + "\n")


def read_result(directory: Path) -> Result | None:
    """Read a run's result; None when there is none yet. Raises InputError for a file that cannot be read."""
    path = directory / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    try:
        version = json.loads(text).get("schema_version")
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path}: schema_version is {version!r}, expected {SCHEMA_VERSION}; it is of another release"
            )
        return Result.model_validate_json(text)
    except (ValidationError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a result file ({reason}); delete it and run again") from None
