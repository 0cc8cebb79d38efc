"""The plan: which trials an experiment means. Pure functions of the experiment and of the results so far.

Trial n of a cell's search is Optuna's answer given the seed, n, and the results of trials 0 .. n - parallel_per_cell of that cell;
never timing, other cells, or how many machines there are. Knows neither ray nor torch, no clock and no global randomness.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tune_ablation.experiment import Cell, Experiment, LearningRate, Search
from tune_ablation.records import Stage
from tune_ablation.samplers import SAMPLERS, SEQUENTIAL
from tune_ablation.seeds import derived_seed

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Trial:
    """One training run of the plan.

    Attributes:
        cell: what is trained.
        stage: ``search`` or ``confirm``.
        number: trial number within the cell's search; the listed seed of a confirm trial.
        seed: what the training draws everything from.
        lr: peak learning rate.
    """

    cell: Cell
    stage: Stage
    number: int
    seed: int
    lr: float

    @property
    def key(self) -> str:
        """The trial's name and its folder below ``trials/``."""
        return trial_key(self.cell.key, self.stage, self.number)


@dataclass(frozen=True)
class Result:
    """How a finished trial ended.

    Attributes:
        lr: the learning rate it was trained at.
        value: the objective at its last epoch; None when it diverged.
    """

    lr: float
    value: float | None


Results = Mapping[str, Result]
"""Finished trials by key. A trial that is not in it has not run, is running, or failed for want of a machine."""

Turn = tuple[bool, int]
"""When a trial should start: whether it is a confirm trial, and its place in its cell's stage; among equals cells take turns."""


def trial_key(cell_key: str, stage: Stage, number: int) -> str:
    """``resnet18_maxpool/search/003`` or ``resnet18_maxpool/confirm/seed-2``."""
    return f"{cell_key}/{stage}/{f'{number:03d}' if stage == 'search' else f'seed-{number}'}"


def ready(experiment: Experiment, results: Results) -> tuple[Trial, ...]:
    """Every unfinished trial whose history is complete, in the order they should start.

    All trials come out of this one function: call it again whenever ``results`` has grown; when every cell's trials are in
    ``results`` it returns nothing. Cells take turns: all cells' trial 0 first, then trial 1, the confirm trials last.
    """
    waiting = [
        (turn, order, trial) for order, cell in enumerate(experiment.cells()) for turn, trial in ready_in_cell(experiment, cell, results)
    ]
    return tuple(trial for *_, trial in sorted(waiting, key=lambda entry: entry[:2]))


def is_complete(experiment: Experiment, results: Results) -> bool:
    """Whether every trial of the plan is finished."""
    return all(key in results for key in all_keys(experiment))


def all_keys(experiment: Experiment) -> tuple[str, ...]:
    """The key of every trial that the experiment means; known beforehand, their learning rates are not."""
    return tuple(key for cell in experiment.cells() for key in (*search_keys(experiment, cell), *confirm_keys(experiment, cell)))


def search_keys(experiment: Experiment, cell: Cell) -> tuple[str, ...]:
    """Keys of a cell's search trials, in order."""
    cell_key = cell.key
    return tuple(trial_key(cell_key, "search", number) for number in range(experiment.search.trials_per_cell))


def confirm_keys(experiment: Experiment, cell: Cell) -> tuple[str, ...]:
    """Keys of a cell's confirm trials, in the order of the listed seeds."""
    cell_key = cell.key
    return tuple(trial_key(cell_key, "confirm", seed) for seed in experiment.confirm.seeds)


def ready_in_cell(experiment: Experiment, cell: Cell, results: Results) -> list[tuple[Turn, Trial]]:
    """What ``ready`` gives of one cell, each with its turn; only results of this cell are looked at."""
    search = experiment.search
    found: list[tuple[Turn, Trial]] = []
    keys = search_keys(experiment, cell)
    finished = [results.get(key) for key in keys]
    unbroken = tuple(result for result in itertools.takewhile(lambda result: result is not None, finished) if result is not None)
    for number, key in enumerate(keys):
        history = max(0, number - search.parallel_per_cell + 1)
        if history > len(unbroken):
            break  # every later trial would need that one too
        if key not in results:
            seed = derived_seed(experiment.seed, "training", number)
            lr = suggest(search, experiment.seed, number, unbroken[:history])
            found.append(((False, number), Trial(cell, "search", number, seed, lr)))
    complete = [result for result in finished if result is not None]
    if len(complete) == len(keys):
        lr = experiment.recipe.lr or winner(search, complete).lr
        found += [
            ((True, position), Trial(cell, "confirm", seed, seed, lr))
            for position, (seed, key) in enumerate(zip(experiment.confirm.seeds, confirm_keys(experiment, cell), strict=True))
            if key not in results
        ]
    return found


def winner(search: Search, results: Sequence[Result]) -> Result:
    """A cell's best search result: the best value, the lower learning rate on a tie; a diverged one only if all diverged."""
    sign = -1.0 if search.maximise else 1.0
    return min(results, key=lambda result: (math.inf if result.value is None else sign * result.value, result.lr))


@functools.lru_cache(maxsize=4096)
def suggest(search: Search, seed: int, number: int, history: tuple[Result, ...]) -> float:
    """The learning rate of search trial ``number``: Optuna's answer on a fresh study that holds ``history`` alone.

    Args:
        search: sampler, range and objective.
        seed: the experiment's seed.
        number: the trial's number, from 0.
        history: results of trials 0 .. number - parallel_per_cell, in order.

    Returns:
        A learning rate within the range. Kept for as long as it may be asked for again: it is a pure function, and dear.
    """
    import optuna

    space: dict[str, optuna.distributions.BaseDistribution] = {"lr": distribution(search.lr)}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if search.sampler in SEQUENTIAL:
        # One seed for the whole sequence; asking number + 1 times reaches point `number`. The placeholder trial gives the
        # sampler its space, which it would otherwise learn only after a first point drawn off the sequence.
        sampler_seed, asks = derived_seed(seed, "sampler", 0), number + 1
        known = [optuna.trial.create_trial(params={"lr": search.lr.low}, distributions=space, value=0.0)]
    else:
        sampler_seed, asks = derived_seed(seed, "sampler", number), 1
        known = [_told(search, result, space) for result in history]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        # What gp says of a diverged trial's infinite loss, which it then counts as the worst finite one: just what is wanted.
        warnings.filterwarnings("ignore", message="Clip non-finite values")
        sampler = SAMPLERS[search.sampler](sampler_seed, search.warmup)
        study = optuna.create_study(direction="maximize" if search.maximise else "minimize", sampler=sampler)
        study.add_trials(known)
        for _ in range(asks):
            point = study.ask(space).params["lr"]
    return min(max(float(point), search.lr.low), search.lr.high)


def distribution(lr: LearningRate) -> optuna.distributions.FloatDistribution:
    """The searched range as Optuna's distribution."""
    from optuna.distributions import FloatDistribution

    return FloatDistribution(lr.low, lr.high, log=lr.log)


def _told(search: Search, result: Result, space: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """A result as Optuna is told it. A diverged one counts as the worst there is: no accuracy at all, or an infinite loss."""
    import optuna

    value = result.value if result.value is not None else 0.0 if search.maximise else math.inf
    return optuna.trial.create_trial(params={"lr": result.lr}, distributions=space, value=value)


def results_of(experiment: Experiment, last_rows: Iterable[Mapping[str, Any]]) -> dict[str, Result]:
    """Results from the last record row of finished trials."""
    return {row["trial"]: Result(row["lr"], None if row["diverged"] else row[experiment.search.objective]) for row in last_rows}


def finished_studies(experiment: Experiment, results: Results) -> dict[str, list[tuple[int, Result]]]:
    """For every cell its finished search trials as (number, result), in order."""
    return {
        cell.key: [(number, results[key]) for number, key in enumerate(search_keys(experiment, cell)) if key in results]
        for cell in experiment.cells()
    }
