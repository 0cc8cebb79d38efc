"""Trials from their epochs: final, best and mean values, gaps, turning points, and how long a target took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest

from analysis import curves, load
from tune_ablation.records import DERIVED_METRICS, METRICS

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

CELL = "resnet18_origin"


def trials_of(folder: Folder) -> list[dict[str, Any]]:
    (run,) = load.load([str(folder.path)]).runs
    return curves.trials(run.epochs, run.design).to_dicts()


def paces_of(folder: Folder, target: float | None, train_images: int | None = 1000) -> list[dict[str, Any]]:
    (run,) = load.load([str(folder.path)]).runs
    return curves.convergence(run.epochs, run.design, target, train_images).to_dicts()


def test_every_quantity_of_one_trial_by_hand(make_folder: MakeFolder) -> None:
    folder = make_folder()
    given = {
        "train_eval_acc1": [50.0, 60.0, 80.0, 97.5],
        "test_acc1": [20.0, 40.0, 36.0, 35.0],
        "train_eval_loss": [2.0, 1.0, 0.5, 0.25],
        "test_loss": [2.5, 2.0, 3.0, 4.0],
        "train_loss": [4.0, 2.0, 1.0, 0.5],
    }
    folder.add(CELL, "confirm", 0, given)
    (row,) = trials_of(folder)
    assert (row["epoch"], row["finished"]) == (4, True)
    assert (row["test_acc1_final"], row["test_acc1_best"], row["test_acc1_mean"]) == (35.0, 40.0, pytest.approx(32.75))
    assert (row["test_loss_final"], row["test_loss_best"], row["test_loss_mean"]) == (4.0, 2.0, pytest.approx(2.875))
    assert (row["gap_acc1_final"], row["gap_acc1_largest"], row["gap_acc1_best"]) == (62.5, 62.5, 20.0)
    assert row["gap_acc1_mean"] == pytest.approx((30 + 20 + 44 + 62.5) / 4)
    assert (row["gap_loss_final"], row["gap_loss_largest"], row["gap_loss_mean"]) == (3.75, 3.75, pytest.approx(7.75 / 4))
    assert (row["turning_epoch"], row["loss_rise"]) == (2, 2.0)
    assert (row["best_epoch"], row["acc1_drop"]) == (2, 5.0)
    assert row["train_loss_area"] == pytest.approx(np.trapezoid(given["train_loss"]))
    assert row["train_eval_loss_area"] == pytest.approx(np.trapezoid(given["train_eval_loss"]))


def test_the_first_of_equal_minima_is_the_turning_point(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_loss": [3.0, 1.0, 2.0, 1.0]})
    (row,) = trials_of(folder)
    assert (row["turning_epoch"], row["loss_rise"]) == (2, 0.0)


def test_a_begun_trial_is_not_finished_and_a_diverged_one_has_no_metrics(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_acc1": [20.0, 40.0]})
    folder.add(CELL, "confirm", 1, {"test_acc1": [20.0, 40.0]}, diverged=True)
    begun, diverged = trials_of(folder)
    assert (begun["finished"], begun["epoch"], begun["test_acc1_final"]) == (False, 2, 40.0)
    assert diverged["finished"]
    assert {diverged[name] for name in ("test_acc1_final", "test_acc1_best", "gap_acc1_mean", "turning_epoch", "train_loss_area")} == {None}


@pytest.mark.parametrize(("target", "epoch"), [(10.0, 1), (10.5, 2), (30.0, 3), (36.0, 4), (36.1, None), (float("inf"), None)])
def test_time_to_a_target_in_epochs_seconds_and_images(make_folder: MakeFolder, target: float, epoch: int | None) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_acc1": [10.0, 20.0, 30.0, 36.0]})
    (row,) = paces_of(folder, target)
    assert row["reached_target"] == (epoch is not None)
    until = epoch or 4  # censored: all that it was trained for
    assert (row["epochs_to_target"], row["seconds_to_target"], row["images_to_target"]) == (until, 1.5 * until, 1000 * until)


def test_a_target_missed_by_rounding_is_reached(make_folder: MakeFolder) -> None:
    folder = make_folder()
    mean = sum([0.1, 0.2, 0.3]) / 3  # 0.20000000000000004
    folder.add(CELL, "confirm", 0, {"test_acc1": [0.1, 0.9 * 0.2, 1.0, 1.0]})
    assert paces_of(folder, 0.9 * mean)[0]["epochs_to_target"] == 2


def test_a_target_of_each_trials_own(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_acc1": [10.0, 18.0, 20.0, 19.0]})
    folder.add(CELL, "confirm", 1, {"test_acc1": [10.0, 18.0, 36.0, 40.0]})
    rows = paces_of(folder, None)
    assert [row["epochs_to_own_target"] for row in rows] == [2, 3]
    assert [row["reached_target"] for row in rows] == [row["epochs_to_target"] for row in rows] == [None, None]


def test_a_diverged_trial_counts_with_all_the_epochs_it_should_have_had(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_acc1": [10.0, 12.0]}, diverged=True)
    folder.add(CELL, "confirm", 1, {"test_acc1": [10.0, 35.0]}, diverged=True)
    never, before = paces_of(folder, 30.0, train_images=None)
    assert (never["reached_target"], never["epochs_to_target"], never["seconds_to_target"]) == (False, 4.0, 6.0)
    assert (before["reached_target"], before["epochs_to_target"], before["seconds_to_target"]) == (True, 2.0, 3.0)
    assert never["images_to_target"] is None


def test_share_of_seeds_that_reached_the_target_by_epoch(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for seed, curve in enumerate([[10.0, 40.0, 40.0, 40.0], [10.0, 10.0, 40.0, 40.0], [40.0] * 4]):
        folder.add(CELL, "confirm", seed, {"test_acc1": curve})
    reached = folder.analysed().reached.filter(pl.col("cell") == CELL)
    assert reached["share"].to_list() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])


def test_bands_are_over_seeds_at_every_epoch(full: Folder) -> None:
    bands = full.analysed().bands
    last = bands.filter((pl.col("cell") == CELL) & (pl.col("metric") == "test_acc1") & (pl.col("epoch") == 4)).to_dicts()
    assert [(row["n"], row["mean"], row["sd"]) for row in last] == [(3, 41.0, 1.0)]


def test_every_metric_that_a_claim_may_name_is_a_quantity(full: Folder) -> None:
    (run,) = load.load([str(full.path)]).runs
    known = curves.quantities(run.design)
    for metric, higher in (METRICS | DERIVED_METRICS).items():
        for at in ("final", "best", "mean"):
            assert known[curves.quantity(metric, at)] == higher


def test_every_quantity_is_a_column_and_in_the_summaries(full: Folder) -> None:
    found = full.analysed()
    known = set(curves.quantities(found.design))
    assert known <= set(found.trials.columns)
    assert set(found.summaries["quantity"]) == known
