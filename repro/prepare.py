"""What is done once before runs fan out: prices are counted, data are made or checked. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping

from repro.config import RunConfig
from repro.data import prepare as prepare_data
from repro.results import Cost
from repro.study import count_prices


def prepare(configs: Mapping[str, RunConfig]) -> dict[str, Cost]:
    """Make every variant's data ready and return every variant's price. Raises InputError naming what is missing."""
    seen = set()
    for config in configs.values():
        if config.data not in seen:
            prepare_data(config.data)
            seen.add(config.data)
    return count_prices(configs)
