"""The learning rate as a closed form of the step: no state, so a resumed run cannot be off by one. Knows no torch."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from repro.config import RecipeConfig
from repro.duration import Duration
from repro.errors import InputError
from repro.optim.config import ScheduleConfig


@dataclass(frozen=True)
class Schedule:
    """A schedule with its durations turned into steps; calling it gives the learning rate of a step (0-based)."""

    config: ScheduleConfig
    lr: float
    total: int
    warmup: int
    milestones: tuple[int, ...]

    def __call__(self, step: int) -> float:
        """Return the learning rate of optimiser step `step` in [0, total)."""
        if step < self.warmup:
            return self.lr * self._warmup_factor(step)
        return self.lr * self._factor(step)

    def _warmup_factor(self, step: int) -> float:
        start = self.config.warmup_factor
        if self.config.warmup_shape == "constant":
            return start
        return start + (1 - start) * step / self.warmup

    def _factor(self, step: int) -> float:
        if self.config.name == "constant":
            return 1.0
        if self.config.name == "step":
            return self.config.gamma ** bisect_right(self.milestones, step)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        final = self.config.final_factor
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def total_steps(recipe: RecipeConfig, steps_per_epoch: int) -> int:
    """Optimiser steps of the whole run. Raises InputError when the duration is a percentage."""
    return max(1, Duration.parse(recipe.duration).steps(steps_per_epoch, recipe.batch_size))


def build_schedule(recipe: RecipeConfig, steps_per_epoch: int) -> Schedule:
    """Turn a recipe's schedule into steps.

    Raises:
        InputError: milestones that do not increase or that stand after the end, or a warm-up as long as the run.
    """
    total = total_steps(recipe, steps_per_epoch)

    def steps(text: str) -> int:
        return Duration.parse(text).steps(steps_per_epoch, recipe.batch_size, total)

    warmup, milestones = steps(recipe.schedule.warmup), tuple(steps(text) for text in recipe.schedule.milestones)
    if warmup >= total:
        raise InputError(f"recipe.schedule.warmup={recipe.schedule.warmup} is {warmup} steps; the run has only {total}")
    if list(milestones) != sorted(milestones):
        raise InputError(f"recipe.schedule.milestones={list(recipe.schedule.milestones)} do not increase: {milestones}")
    return Schedule(recipe.schedule, recipe.peak_lr, total, warmup, milestones)
