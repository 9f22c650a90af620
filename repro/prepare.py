"""What is done once before runs fan out: prices are counted, data are made or checked. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping

from repro.config import RunConfig, TrainerConfig
from repro.data import prepare as prepare_data
from repro.errors import InputError
from repro.results import Cost
from repro.study import count_prices


def prepare(configs: Mapping[str, RunConfig]) -> dict[str, Cost]:
    """Make every variant's data ready and return every variant's price. Raises InputError naming what is missing."""
    seen = set()
    for config in configs.values():
        if config.data not in seen:
            prepare_data(config.data)
            seen.add(config.data)
        check_device(config.trainer)
    return count_prices(configs)


def check_device(settings: TrainerConfig) -> None:
    """Raise InputError when this machine lacks the devices that a run asks for."""
    import torch

    if settings.accelerator == "cpu":
        return
    found = torch.cuda.device_count()
    if settings.devices > found:
        raise InputError(
            f"trainer.accelerator=gpu with trainer.devices={settings.devices}, but PyTorch finds {found} GPUs here; "
            "use trainer=cpu, or look at `repro doctor`"
        )
