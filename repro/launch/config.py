"""How runs are launched, as it is chosen by `launcher=NAME launcher.KEY=VALUE`. Changes no run's identity."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints

from repro.typed import Positive, Typed

Duration = Annotated[str, StringConstraints(pattern=r"^(\d+-)?\d{1,3}(:\d{2}){1,2}$|^\d+$")]
"""SLURM's own: minutes, `minutes:seconds`, `hours:minutes:seconds` or `days-hours:minutes`."""


class LocalConfig(Typed):
    """Runs as processes of this machine, side by side as they fit."""

    name: Literal["local"] = "local"
    parallel: PositiveInt | None = None
    """Most runs at once; null: as many as there are cores for their threads, or slots on the GPUs."""
    gpus: tuple[int, ...] | None = None
    """GPUs that may be used, as `CUDA_VISIBLE_DEVICES` counts them; null: all that are visible."""
    gpus_per_run: Positive | None = None
    """1: a GPU each; 0.25: four runs share one; 2: two each. Null: what the run's own `trainer.devices` says."""
    pack: bool = False
    """Put as many runs on a GPU as its memory holds, by what the first run of each row was measured to need."""
    timeout: Positive | None = None
    """Minutes after which a run is ended and counts as failed; null: none."""
    retries: NonNegativeInt = 2
    """How often one command begins a run again that failed. A run that was interrupted and saved does not count."""


class SlurmConfig(Typed):
    """Runs as one array job of a SLURM cluster; a study of rows of different size is one array for each size."""

    name: Literal["slurm"] = "slurm"
    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    time: Duration = "24:00:00"
    array_parallelism: PositiveInt = 256
    """Most elements of the array that run at once."""
    memory: str | None = None
    """Of a node, such as 32G; null: the cluster's default."""
    cpus_per_task: PositiveInt | None = None
    """Null: the run's threads and its loader's workers."""
    setup: tuple[str, ...] = ()
    """Lines of shell before Python starts, such as `module load cuda`."""
    sbatch: dict[str, Any] = Field(default_factory=dict)
    """Further options of sbatch, such as `{reservation: spring, comment: mine}`."""
    signal_delay: PositiveInt = 120
    """Seconds before the time limit at which a run saves itself and is queued again."""
    detach: bool = False
    """Return when the job is submitted; `repro status` follows it from anywhere that sees the folder of runs."""
    poll: Positive = 5.0
    """Seconds between two looks at the queue."""
    retries: NonNegativeInt = 2


class RayConfig(Typed):
    """Runs as tasks of a Ray cluster (`pip install 'repro[ray]'`)."""

    name: Literal["ray"] = "ray"
    address: str | None = None
    """Of the cluster, or `auto`; null: Ray on this machine alone."""
    parallel: PositiveInt | None = None
    gpus_per_run: Positive | None = None
    retries: NonNegativeInt = 2


LauncherConfig = Annotated[LocalConfig | SlurmConfig | RayConfig, Field(discriminator="name")]
