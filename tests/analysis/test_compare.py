"""Cells from their trials: winners, means over seeds, censored convergence."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from analysis import compare, curves, load, report

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

ORIGIN, MAXPOOL = "resnet18_origin", "resnet18_maxpool"


def cells_of(folder: Folder) -> dict[str, dict[str, Any]]:
    (run,) = load.load([str(folder.path)]).runs
    return {row["cell"]: row for row in report.overview(run).cells.iter_rows(named=True)}


def confirm(folder: Folder, cell: str, finals: list[float | None], reach: int = 4) -> None:
    """Confirm trials ending at ``finals``, None for one that diverges in epoch 2; below 1 % before epoch ``reach``."""
    for seed, final in enumerate(finals):
        if final is None:
            folder.add(cell, "confirm", seed, {"test_acc1": [0.5, 0.5]}, diverged=True)
        else:
            folder.add(cell, "confirm", seed, {"test_acc1": [0.5 if epoch < reach else final for epoch in (1, 2, 3, 4)]})


def test_mean_and_standard_deviation_over_confirm_seeds(full: Folder) -> None:
    found = cells_of(full)
    assert found[ORIGIN]["test_acc1_mean"] == pytest.approx(41)  # 40, 41, 42
    assert found[MAXPOOL]["test_acc1_mean"] == pytest.approx(36)  # 35, 36, 37
    assert found[MAXPOOL]["test_acc1_sd"] == pytest.approx(statistics.stdev([35, 36, 37]))
    assert found[MAXPOOL]["gap_acc1_mean"] == pytest.approx(99 - 36)
    assert (found[ORIGIN]["seeds"], found[ORIGIN]["search_finished"], found[ORIGIN]["confirm_planned"]) == (3, 2, 3)


def test_best_learning_rate_is_the_plans_winner(make_folder: MakeFolder) -> None:
    folder = make_folder(search={"trials_per_cell": 4})
    for number, (lr, final) in enumerate([(0.5, 30.0), (0.2, 33.0), (0.1, 33.0), (0.9, 99.0)]):
        folder.add(ORIGIN, "search", number, {"val_acc1": [50.0, 50.0, 50.0, final]}, lr=lr, diverged=number == 3)
    folder.add(MAXPOOL, "search", 0, {"val_acc1": [90.0, 90.0]}, lr=0.5)
    found = cells_of(folder)
    assert (found[ORIGIN]["lr"], found[ORIGIN]["objective"], found[ORIGIN]["search_diverged"]) == (0.1, 33.0, 1)
    assert (found[MAXPOOL]["lr"], found[MAXPOOL]["search_finished"]) == (None, 0)


def test_a_loss_as_objective_is_minimised(make_folder: MakeFolder) -> None:
    folder = make_folder(search={"trials_per_cell": 2, "objective": "val_loss"})
    folder.add(ORIGIN, "search", 0, {"val_loss": [4.0, 3.0, 2.0, 1.0]}, lr=0.5)
    folder.add(ORIGIN, "search", 1, {"val_loss": [4.0, 3.0, 2.0, 1.5]}, lr=0.1)
    assert cells_of(folder)[ORIGIN]["lr"] == 0.5


def test_a_learning_rate_fixed_by_the_recipe_is_shown_without_a_search(make_folder: MakeFolder) -> None:
    folder = make_folder(recipe={"epochs": 4, "lr": 0.3}, search={"trials_per_cell": 0})
    folder.fill()
    row = cells_of(folder)[ORIGIN]
    assert (row["lr"], row["search_planned"], row["confirm_finished"], row["seeds"]) == (0.3, 0, 3, 3)


def test_all_diverged_keeps_the_plans_choice_and_has_no_mean(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for number, lr in enumerate((0.9, 0.7)):
        folder.add(ORIGIN, "search", number, {"val_acc1": [1.0]}, lr=lr, diverged=True)
    confirm(folder, ORIGIN, [None, None, None])
    row = cells_of(folder)[ORIGIN]
    assert (row["lr"], row["objective"], row["seeds"], row["confirm_diverged"]) == (0.7, None, 0, 3)
    assert row["test_acc1_mean"] is row["test_acc1_sd"] is row["target_of"] is None


def test_a_diverged_seed_is_left_out_of_the_mean_but_not_of_convergence(make_folder: MakeFolder) -> None:
    folder = make_folder()
    confirm(folder, ORIGIN, [40.0, 42.0, None])
    row = cells_of(folder)[ORIGIN]
    assert (row["test_acc1_mean"], row["seeds"], row["confirm_finished"]) == (41.0, 2, 3)
    assert row["test_acc1_sd"] == pytest.approx(statistics.stdev([40, 42]))
    assert (row["target_reached"], row["target_of"], row["target_median"]) == (2, 3, 4.0)


def test_one_seed_has_no_standard_deviation(make_folder: MakeFolder) -> None:
    folder = make_folder(confirm={"seeds": [3]})
    folder.fill()
    row = cells_of(folder)[ORIGIN]
    assert (row["test_acc1_mean"], row["test_acc1_sd"], row["seeds"]) == (43.0, None, 1)


def test_a_seed_still_running_is_in_no_mean(make_folder: MakeFolder) -> None:
    folder = make_folder()
    confirm(folder, ORIGIN, [40.0, 42.0])
    folder.add(ORIGIN, "confirm", 2, {"test_acc1": [90.0, 90.0, 90.0]})
    row = cells_of(folder)[ORIGIN]
    assert (row["test_acc1_mean"], row["target_of"], row["confirm_finished"]) == (41.0, 2, 2)


def test_the_target_is_common_to_all_cells_and_rests_on_every_baseline_cell(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"depth": [18, 50], "head": ["origin", "maxpool"]})
    confirm(folder, "resnet18_origin", [30.0, 30.0, 30.0])
    confirm(folder, "resnet50_origin", [50.0])
    confirm(folder, "resnet50_maxpool", [90.0, 90.0, 90.0])
    (run,) = load.load([str(folder.path)]).runs
    found = report.overview(run)
    assert found.baseline == ("resnet18_origin", "resnet50_origin")
    assert found.target == pytest.approx(0.9 * 35)
    assert found.target_trials == 4


@pytest.mark.parametrize(
    ("reached", "median", "above"),
    [
        ([1, 2, 3], 2.0, None),
        ([1, 3, None], 3.0, None),
        ([1, None, None], None, 4),
        ([None, None, None], None, 4),
        ([1, 2, 3, 4], 2.5, None),
        ([1, 2, 3, None], 2.5, None),
        ([1, 2, None, None], None, 4),  # the median lies between a known epoch and an unknown one: never averaged
        ([2], 2.0, None),
        ([None], None, 4),
    ],
)
def test_the_median_counts_a_censored_trial_as_later_than_any(
    make_folder: MakeFolder, reached: list[int | None], median: float | None, above: int | None
) -> None:
    folder = make_folder(confirm={"seeds": list(range(len(reached)))})
    for seed, first in enumerate(reached):
        folder.add(
            MAXPOOL,
            "confirm",
            seed,
            {"test_acc1": [40.0 if first and epoch >= first else 1.0 for epoch in (1, 2, 3, 4)]},
        )
    (run,) = load.load([str(folder.path)]).runs
    speed = compare.convergence(curves.trials(run.epochs), curves.first_epoch_at(run.epochs, "test_acc1", 36.0))
    (row,) = speed.to_dicts()
    assert (row["median"], row["above"]) == (median, above)
    assert (row["reached"], row["of"]) == (sum(first is not None for first in reached), len(reached))


def test_states_of_planned_trials(full: Folder) -> None:
    (run,) = load.load([str(full.path)]).runs
    trials = curves.trials(run.epochs.filter((pl.col("number") > 0) | (pl.col("stage") == "search") | (pl.col("epoch") < 3)))
    standing = compare.states(run.plan, trials, [f"{ORIGIN}/confirm/seed-0", f"{ORIGIN}/confirm/seed-1"], [])
    states = dict(standing.select("trial", "state").iter_rows())
    assert states[f"{ORIGIN}/confirm/seed-0"] == "failed"
    assert states[f"{ORIGIN}/confirm/seed-1"] == "finished"  # a failure that a later session mended
    assert states[f"{MAXPOOL}/confirm/seed-0"] == "begun"
    assert standing["trial"].to_list() == run.plan["trial"].to_list()
    nothing = compare.states(run.plan, trials.clear(), [], [f"{ORIGIN}/search/000"])
    assert nothing["state"].value_counts(sort=True).rows() == [("not started", 9), ("damaged", 1)]


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_changes_nothing(full: Folder, seed: int) -> None:
    (run,) = load.load([str(full.path)]).runs
    shuffled = run.epochs.sample(fraction=1, shuffle=True, seed=seed)
    assert not shuffled.equals(run.epochs)
    assert curves.trials(shuffled).equals(curves.trials(run.epochs))
    first = [curves.first_epoch_at(epochs, "test_acc1", 30.0) for epochs in (run.epochs, shuffled)]
    assert first[0].equals(first[1])
    trials = curves.trials(run.epochs)
    mixed = trials.sample(fraction=1, shuffle=True, seed=seed)
    assert compare.convergence(mixed, first[0]).equals(compare.convergence(trials, first[0]))
    assert compare.target(run.experiment, mixed) == compare.target(run.experiment, trials)
    frames = []
    for some in (trials, mixed):
        standing = compare.states(run.plan, some, [], [])
        rates = compare.learning_rates(run.experiment, some)
        frames.append(compare.cells(standing, some, rates, compare.convergence(some, first[0])))
    assert frames[0].equals(frames[1])
