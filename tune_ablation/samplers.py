"""The Optuna samplers that a search may use, each built for one ask. Optuna is imported when a sampler is built."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler


def _tpe(seed: int, warmup: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=warmup)


def _random(seed: int, warmup: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    del warmup
    return RandomSampler(seed=seed)


def _qmc(seed: int, warmup: int) -> BaseSampler:
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import QMCSampler

    del warmup
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # stable in practice since Optuna 3.0, still so marked in 5.0
        return QMCSampler(seed=seed, scramble=True)


def _gp(seed: int, warmup: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=warmup, deterministic_objective=False)


SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {"tpe": _tpe, "random": _random, "qmc": _qmc, "gp": _gp}
"""Name -> builder from (seed, number of warm-up trials). ``gp`` is Optuna's own and loads torch when it is built."""

SEQUENTIAL = {"qmc"}
"""Samplers whose n-th point is the n-th of one fixed sequence rather than drawn afresh from a seed of its own."""
