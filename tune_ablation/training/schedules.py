"""Learning-rate schedules: the factor on the trial's learning rate at every step. Plain arithmetic, no torch."""

import math
from collections.abc import Callable
from typing import Protocol


class ScheduleSpec(Protocol):
    """What a schedule reads from the recipe."""

    @property
    def epochs(self) -> int:
        """Epochs of a trial."""

    @property
    def schedule(self) -> str:
        """A key of ``SCHEDULES``."""

    @property
    def warmup_epochs(self) -> int:
        """Epochs of the linear ramp at the start."""

    @property
    def step_epochs(self) -> int:
        """Epochs between two steps of ``step``."""

    @property
    def step_gamma(self) -> float:
        """What each of them multiplies by."""


def _constant(progress: float, spec: ScheduleSpec) -> float:
    del progress, spec
    return 1.0


def _step(progress: float, spec: ScheduleSpec) -> float:
    return float(spec.step_gamma ** math.floor(progress / spec.step_epochs))


def _cosine(progress: float, spec: ScheduleSpec) -> float:
    """Half a cosine from 1 to 0 over the epochs after the warm-up (Loshchilov & Hutter 2017, arXiv 1608.03983, no restarts)."""
    after_warmup = (progress - spec.warmup_epochs) / max(spec.epochs - spec.warmup_epochs, 1e-9)
    return 0.5 * (1.0 + math.cos(math.pi * after_warmup))


SCHEDULES: dict[str, Callable[[float, ScheduleSpec], float]] = {"constant": _constant, "step": _step, "cosine": _cosine}
"""Name -> factor as a function of progress (in epochs, fractions included) and the recipe."""


def learning_rate_factor(spec: ScheduleSpec, epoch: int, step: int, steps_per_epoch: int) -> float:
    """Factor on the learning rate for one step.

    Args:
        spec: the recipe.
        epoch: counted from 1.
        step: counted from 0 within the epoch.
        steps_per_epoch: steps in every epoch.

    Returns:
        A linear ramp over the warm-up epochs that reaches 1 with its last step, then the schedule.
    """
    done = (epoch - 1) * steps_per_epoch + step
    warmup_steps = spec.warmup_epochs * steps_per_epoch
    if done < warmup_steps:
        return (done + 1) / warmup_steps
    return SCHEDULES[spec.schedule](done / steps_per_epoch, spec)
