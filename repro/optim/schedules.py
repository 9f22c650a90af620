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
    """A schedule with its durations turned into steps; calling it gives the learning rate of a step (0-based).

    `every` is not rounded: 2.4 epochs of 1,251 steps are 3002.4 steps, and the fifth drop is at step 15,012.
    """

    config: ScheduleConfig
    lr: float
    total: int
    warmup: int
    milestones: tuple[int, ...]
    every: float = 1.0

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
        if self.config.name == "exponential":
            return self._exponential(step)
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        final = self.config.final_factor
        if self.config.name == "polynomial":
            return final + (1 - final) * (1 - min(1.0, progress)) ** self.config.power
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def _exponential(self, step: int) -> float:
        """Count from step 0, as TensorFlow's EfficientNet does: its warm-up of 5 epochs ends on gamma^2, not on 1."""
        periods = step / self.every
        return self.config.gamma ** (math.floor(periods + 1e-9) if self.config.staircase else periods)


def total_steps(recipe: RecipeConfig, steps_per_epoch: int) -> int:
    """Optimiser steps of the whole run. Raises InputError when the duration is a percentage."""
    return max(1, Duration.parse(recipe.duration).steps(steps_per_epoch, recipe.batch_size))


def build_schedule(recipe: RecipeConfig, steps_per_epoch: int) -> Schedule:
    """Turn a recipe's schedule into steps.

    Raises:
        InputError: milestones that go back, a warm-up as long as the run, or an exponential decay every 0 steps.
    """
    total = total_steps(recipe, steps_per_epoch)
    config = recipe.schedule

    def steps(text: str) -> int:
        return Duration.parse(text).steps(steps_per_epoch, recipe.batch_size, total)

    warmup, milestones = steps(config.warmup), tuple(steps(text) for text in config.milestones)
    if warmup >= total:
        raise InputError(f"recipe.schedule.warmup={config.warmup} is {warmup} steps; the run has only {total}")
    if list(milestones) != sorted(milestones):
        raise InputError(f"recipe.schedule.milestones={list(config.milestones)} do not increase: {milestones}")
    every = _unrounded(Duration.parse(config.every), steps_per_epoch, recipe.batch_size, total)
    if config.name == "exponential" and every == 0:
        raise InputError(f"recipe.schedule.every={config.every} is no length; expected more than 0, such as 2.4ep")
    return Schedule(config, recipe.peak_lr, total, warmup, milestones, every)


def _unrounded(duration: Duration, steps_per_epoch: int, batch_size: int, total: int) -> float:
    """Convert to optimiser steps without rounding them up, so that a period does not drift over the run."""
    return duration.value * {"ep": steps_per_epoch, "st": 1.0, "ex": 1 / batch_size, "%": total / 100}[duration.unit]
