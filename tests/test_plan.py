"""The plan is pure: the same trials whatever the machines, the order in which they finish, and what was killed on the way."""

# ruff: noqa: S311 - seeded draws decide what is tried, nothing secret

from __future__ import annotations

import math
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from tune_ablation import plan
from tune_ablation.experiment import Experiment, parse
from tune_ablation.plan import Result, Trial
from tune_ablation.samplers import SAMPLERS, SEQUENTIAL
from tune_ablation.seeds import derived_seed

CHEAP = [name for name in SAMPLERS if name != "gp"]  # gp loads torch and fits for a tenth of a second an ask


def asked(
    *,
    depth: tuple[int, ...] = (18, 50),
    seeds: tuple[int, ...] = (0, 1),
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    **search: Any,
) -> Experiment:
    content = {
        "name": "x",
        "seed": seed,
        "grid": {"depth": list(depth), "head": ["origin", "maxpool"]},
        "search": {"trials_per_cell": 5} | search,
        "recipe": dict(recipe or {}),
        "confirm": {"seeds": list(seeds)},
    }
    return parse(content, "x")


def outcome(trial: Trial) -> Result:
    """A smooth response with its optimum at another place in every cell, which diverges at high rates."""
    best = -1.0 - 0.4 * len(trial.cell.key) % 3
    return Result(trial.lr, None if trial.lr > 0.5 else 60 - 10 * (math.log10(trial.lr) - best) ** 2)


def carried_out(
    experiment: Experiment,
    workers: int,
    rng: random.Random,
    done: Mapping[str, Trial] | None = None,
    *,
    killed_after: int | None = None,
    outcome: Callable[[Trial], Result] = outcome,
) -> dict[str, Trial]:
    """What a runner does: starts ready trials as workers come free, which finish in any order; may be killed at any time."""
    finished = dict(done or {})
    results = {key: outcome(trial) for key, trial in finished.items()}
    running: dict[str, Trial] = {}
    ran = 0
    while killed_after is None or ran < killed_after:
        waiting = [trial for trial in plan.ready(experiment, results) if trial.key not in running]
        for trial in waiting[: workers - len(running)]:
            running[trial.key] = trial
        if not running:
            break
        trial = running.pop(rng.choice(sorted(running)))
        assert trial.key not in finished, "a finished trial is never run again"
        finished[trial.key], results[trial.key] = trial, outcome(trial)
        ran += 1
    return finished


@pytest.mark.parametrize("sampler", CHEAP)
@pytest.mark.parametrize("parallel", [1, 2, 7])
def test_the_trials_do_not_depend_on_workers_order_or_restarts(sampler: str, parallel: int) -> None:
    experiment = asked(sampler=sampler, parallel_per_cell=parallel, warmup_trials=1)
    expected = carried_out(experiment, 1, random.Random(0))
    assert set(expected) == set(plan.all_keys(experiment))
    for workers in (1, 2, 5, 64):
        rng = random.Random(workers)
        done: dict[str, Trial] = {}
        while set(done) != set(expected):
            plan.suggest.cache_clear()  # a fresh process remembers nothing
            done = carried_out(experiment, workers, rng, done, killed_after=rng.randint(1, 12))
        assert done == expected


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**40), workers=st.integers(1, 9), parallel=st.integers(1, 6), order=st.randoms(use_true_random=False))
def test_purity_holds_for_any_seed_and_order(seed: int, workers: int, parallel: int, order: random.Random) -> None:
    experiment = asked(seed=seed, parallel_per_cell=parallel, warmup_trials=1, depth=(18,))
    assert carried_out(experiment, workers, order) == carried_out(experiment, 1, random.Random(0))


def test_another_process_plans_the_same_trials() -> None:
    experiment = asked(seed=5, warmup_trials=1)
    history = (Result(0.1, 50.0), Result(0.02, 40.0))
    code = (
        "import sys; from tune_ablation import plan; from tune_ablation.experiment import parse\n"
        "experiment = parse(eval(sys.argv[1]), 'x')\n"
        f"history = tuple(plan.Result(*pair) for pair in {[(result.lr, result.value) for result in history]})\n"
        "print([trial.lr for trial in plan.ready(experiment, {})], plan.suggest(experiment.search, 5, 2, history))"
    )
    command = [sys.executable, "-c", code, repr(experiment.resolved())]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    here = [trial.lr for trial in plan.ready(experiment, {})]
    assert there == f"{here} {plan.suggest(experiment.search, 5, 2, history)}"


def test_planning_leaves_global_randomness_alone() -> None:
    state, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global generator is what is guarded
    carried_out(asked(), 3, random.Random(0))
    assert random.getstate() == state
    assert str(np.random.get_state()) == str(legacy)  # noqa: NPY002 - as above


@pytest.mark.parametrize("sampler", CHEAP)
def test_every_cell_starts_with_the_same_points_and_seeds(sampler: str) -> None:
    experiment = asked(sampler=sampler, parallel_per_cell=3, warmup_trials=3)
    first = [trial for trial in plan.ready(experiment, {}) if trial.stage == "search"]
    assert [trial.number for trial in first] == [0] * 4 + [1] * 4 + [2] * 4
    for number in range(3):
        mine = [trial for trial in first if trial.number == number]
        assert len({trial.cell.key for trial in mine}) == 4
        assert len({(trial.lr, trial.seed) for trial in mine}) == 1
    assert len({trial.lr for trial in first}) == len({trial.seed for trial in first}) == 3


@pytest.mark.parametrize("parallel", [1, 2, 4])
def test_a_trial_knows_its_own_cells_history_and_nothing_else(parallel: int) -> None:
    experiment = asked(trials_per_cell=7, parallel_per_cell=parallel, warmup_trials=1)
    cell, other = experiment.cells()[:2]
    keys = plan.search_keys(experiment, cell)
    rng = random.Random(1)
    history = {key: Result(10 ** rng.uniform(-3, 0), rng.uniform(0, 60)) for key in keys}
    elsewhere = {key: Result(0.5, 59.0) for key in plan.search_keys(experiment, other)}

    def point(number: int, results: Mapping[str, Result]) -> list[float]:
        known = {key: result for key, result in results.items() if key != keys[number]}
        return [trial.lr for trial in plan.ready(experiment, known) if trial.key == keys[number]]

    for number in range(7):
        needed = dict(list(history.items())[: max(0, number - parallel + 1)])
        expected = point(number, needed)
        assert len(expected) == 1
        assert point(number, history) == expected, "later results do not matter"
        assert point(number, needed | elsewhere) == expected, "other cells do not matter"
        for gone in needed:
            assert point(number, {key: result for key, result in history.items() if key != gone}) == [], "it waits for its history"


def test_history_matters_to_a_sampler_with_a_model_after_its_warmup_alone() -> None:
    search = asked(sampler="tpe", warmup_trials=2, trials_per_cell=8).search
    histories = [tuple(Result(lr, value) for lr, value in zip((0.01, 0.1), values, strict=True)) for values in ((50.0, 10.0), (10.0, 50.0))]
    assert len({plan.suggest(search, 0, 2, history) for history in histories}) == 2
    assert len({plan.suggest(search, 0, 1, history[:1]) for history in histories}) == 1


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("objective", ["val_acc1", "val_loss"])
def test_suggestions_stay_in_the_range_with_diverged_history(name: str, log: bool, objective: str) -> None:
    low, high = 1e-3, 3e-3
    search = asked(sampler=name, lr={"low": low, "high": high, "log": log}, objective=objective, warmup_trials=1, trials_per_cell=6).search
    history = (Result(low, 1.0), Result(high, None), Result(2e-3, 0.5))
    for number in (0, 3) if name == "gp" else range(12):
        point = plan.suggest(search, 7, number, history[:number])
        assert low <= point <= high
        assert point == plan.suggest.__wrapped__(search, 7, number, history[:number])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_history_of_nothing_but_divergence_can_be_gone_on_from(name: str) -> None:
    for objective in ("val_acc1", "val_loss"):
        search = asked(sampler=name, objective=objective, warmup_trials=1).search
        assert 1e-3 <= plan.suggest(search, 0, 2, (Result(0.1, None), Result(0.2, None))) <= 1.0


@pytest.mark.parametrize("log", [True, False])
def test_qmc_is_scipys_scrambled_sobol_sequence(log: bool) -> None:
    low, high = (1e-3, 1.0) if log else (0.25, 0.75)
    search = asked(sampler="qmc", lr={"low": low, "high": high, "log": log}, trials_per_cell=8).search
    points = [plan.suggest(search, 5, number, ()) for number in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's on `seed=`, the argument that Optuna uses
        unit = qmc.Sobol(1, scramble=True, seed=derived_seed(5, "sampler", 0)).random(8)[:, 0]
    expected = np.exp(np.log(low) + unit * np.log(high / low)) if log else low + unit * (high - low)
    np.testing.assert_allclose(points, expected, rtol=1e-9)
    eighth = np.sort((np.log(points) - np.log(low)) / np.log(high / low) if log else (np.array(points) - low) / (high - low)) * 8
    assert list(np.floor(eighth)) == list(range(8)), "one point in each eighth of the range"
    assert {"qmc"} == SEQUENTIAL


def test_random_points_are_spread_evenly_over_the_logarithm() -> None:
    search = asked(sampler="random").search
    points = np.log10([plan.suggest(search, 3, number, ()) for number in range(300)])
    assert abs(points.mean() + 1.5) < 0.2
    assert abs(points.std() - 3 / math.sqrt(12)) < 0.1


@pytest.mark.parametrize("objective", ["val_acc1", "val_loss"])
def test_tpe_closes_in_on_the_optimum_where_random_search_does_not(objective: str) -> None:
    sign = 1 if objective == "val_acc1" else -1

    def distances(sampler: str, seed: int) -> list[float]:
        experiment = asked(sampler=sampler, trials_per_cell=16, objective=objective, depth=(18,), seed=seed)
        history: list[Result] = []
        for number in range(16):
            lr = plan.suggest(experiment.search, seed, number, tuple(history))
            history.append(Result(lr, sign * (60 - 10 * (math.log10(lr) + 1.2) ** 2)))
        return [abs(math.log10(result.lr) + 1.2) for result in history[experiment.search.warmup :]]

    tuned, drawn = ([np.mean(distances(sampler, seed)) for seed in range(6)] for sampler in ("tpe", "random"))
    assert np.mean(tuned) < 0.7 * np.mean(drawn)


def test_gp_closes_in_on_the_optimum() -> None:
    search = asked(sampler="gp", trials_per_cell=8, warmup_trials=2).search
    history = tuple(Result(lr, 60 - 10 * (math.log10(lr) + 1.2) ** 2) for lr in (1e-3, 1e-2, 3e-2, 0.3, 1.0))
    assert 0.02 < plan.suggest(search, 0, 5, history) < 0.3


def test_the_default_warmup_leaves_most_of_the_budget_to_the_model() -> None:
    assert [asked(trials_per_cell=trials).search.warmup for trials in (1, 3, 8, 30)] == [1, 1, 2, 10]
    assert asked(trials_per_cell=8, warmup_trials=5).search.warmup == 5


@pytest.mark.parametrize(
    ("objective", "results", "lr"),
    [
        ("val_acc1", [(0.1, 50.0), (0.01, 60.0), (0.2, None)], 0.01),
        ("val_acc1", [(0.1, 60.0), (0.01, 60.0), (0.2, 60.0)], 0.01),
        ("val_loss", [(0.1, 1.5), (0.01, 2.5), (0.2, None)], 0.1),
        ("val_loss", [(0.1, 1.5), (0.05, 1.5)], 0.05),
        ("val_acc1", [(0.1, None), (0.01, 0.0)], 0.01),
        ("val_acc1", [(0.1, None), (0.01, None)], 0.01),
        ("val_loss", [(0.3, None), (0.2, None)], 0.2),
    ],
)
def test_the_winner_is_the_best_value_and_the_lower_rate_on_a_tie(
    objective: str, results: list[tuple[float, float | None]], lr: float
) -> None:
    search = asked(objective=objective).search
    assert plan.winner(search, [Result(*result) for result in results]).lr == lr
    assert plan.winner(search, [Result(*result) for result in reversed(results)]).lr == lr


def test_winners_are_confirmed_on_the_listed_seeds_after_the_whole_search() -> None:
    experiment = asked(seeds=(4, 2, 9))
    done = carried_out(experiment, 2, random.Random(3))
    for cell in experiment.cells():
        search = [done[key] for key in plan.search_keys(experiment, cell)]
        confirm = [done[key] for key in plan.confirm_keys(experiment, cell)]
        best = plan.winner(experiment.search, [outcome(trial) for trial in search]).lr
        assert [(trial.seed, trial.number, trial.lr) for trial in confirm] == [(seed, seed, best) for seed in (4, 2, 9)]
        assert [trial.key for trial in confirm] == [f"{cell.key}/confirm/seed-{seed}" for seed in (4, 2, 9)]
        without_last = {trial.key: outcome(trial) for trial in search[:-1]}
        assert {trial.stage for trial in plan.ready(experiment, without_last) if trial.cell == cell} == {"search"}


def test_a_diverged_trial_counts_as_one_of_the_budget() -> None:
    experiment = asked(depth=(18,), lr={"low": 0.4, "high": 5.0})
    done = carried_out(experiment, 2, random.Random(0))
    assert any(outcome(trial).value is None for trial in done.values())
    assert set(done) == set(plan.all_keys(experiment))
    assert plan.is_complete(experiment, {key: outcome(trial) for key, trial in done.items()})


def test_the_search_is_over_before_any_confirm_trial_starts_if_one_worker_does_it_all() -> None:
    order = list(carried_out(asked(), 1, random.Random(0)).values())
    stages = [trial.stage for trial in order]
    assert stages == sorted(stages, key=["search", "confirm"].index)
    assert [trial.number for trial in order[:20]] == sorted(trial.number for trial in order[:20]), "cells take turns"


def test_without_a_search_the_recipes_rate_is_confirmed() -> None:
    experiment = asked(trials_per_cell=0, recipe={"lr": 0.25}, seeds=(3, 5))
    trials = plan.ready(experiment, {})
    assert [trial.key for trial in trials[:4]] == [f"{cell.key}/confirm/seed-3" for cell in experiment.cells()]
    assert {(trial.stage, trial.lr, trial.seed == trial.number) for trial in trials} == {("confirm", 0.25, True)}
    assert {trial.key for trial in trials} == set(plan.all_keys(experiment))


def test_growing_by_seeds_and_levels_keeps_every_trial_there_was() -> None:
    small, grown = asked(depth=(18,), seeds=(0, 1)), asked(depth=(50, 18), seeds=(1, 0, 2, 7))
    done = carried_out(small, 2, random.Random(0))
    after = carried_out(grown, 2, random.Random(1), done)
    assert after.items() >= done.items()
    assert set(after) == set(plan.all_keys(grown))
    assert {key: trial for key, trial in after.items() if key not in done} == {
        key: trial for key, trial in carried_out(grown, 1, random.Random(2)).items() if key not in done
    }


def test_a_failed_trial_holds_up_its_own_cell_only() -> None:
    experiment = asked()
    first = plan.search_keys(experiment, experiment.cells()[0])[0]
    done: dict[str, Result] = {}
    while waiting := [trial for trial in plan.ready(experiment, done) if trial.key != first]:
        done[waiting[0].key] = outcome(waiting[0])
    assert {key.split("/")[0] for key in set(plan.all_keys(experiment)) - set(done)} == {experiment.cells()[0].key}
    assert len(done) == 3 * 7


def test_keys_are_the_folders_of_the_results() -> None:
    assert plan.trial_key("resnet18_maxpool", "search", 3) == "resnet18_maxpool/search/003"
    assert plan.trial_key("resnet18_maxpool", "search", 1234) == "resnet18_maxpool/search/1234"
    assert plan.trial_key("resnet18_maxpool", "confirm", 2) == "resnet18_maxpool/confirm/seed-2"
    experiment = asked()
    assert len(plan.all_keys(experiment)) == len(set(plan.all_keys(experiment))) == 4 * (5 + 2)


def test_results_are_read_from_last_rows_by_the_objective() -> None:
    rows = [
        {"trial": "a", "lr": 0.1, "diverged": False, "val_loss": 1.5, "val_acc1": 40.0, "test_loss": 0.1},
        {"trial": "b", "lr": 0.2, "diverged": True, "val_loss": None, "val_acc1": None, "test_loss": None},
    ]
    assert plan.results_of(asked(objective="val_loss"), rows) == {"a": Result(0.1, 1.5), "b": Result(0.2, None)}
    assert plan.results_of(asked(), rows)["a"] == Result(0.1, 40.0)


def test_finished_studies_hold_what_has_finished_in_order() -> None:
    experiment = asked(depth=(18,))
    key = experiment.cells()[0].key
    results = {f"{key}/search/003": Result(0.1, 1.0), f"{key}/search/001": Result(0.2, None), f"{key}/confirm/seed-0": Result(0.3, 2.0)}
    assert plan.finished_studies(experiment, results)[key] == [(1, Result(0.2, None)), (3, Result(0.1, 1.0))]


def test_training_seeds_are_the_same_in_every_cell_and_differ_by_number_and_purpose() -> None:
    seeds = [derived_seed(0, purpose, number) for purpose in ("training", "sampler") for number in range(50)]
    assert len(set(seeds)) == 100
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert derived_seed(1, "training", 0) != derived_seed(0, "training", 0)
