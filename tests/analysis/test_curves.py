"""Trials from their epochs: last values, gaps, first epoch at a target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from analysis import curves, load

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

CELL = "resnet18_origin"


def epochs_of(folder: Folder) -> pl.DataFrame:
    (run,) = load.load([str(folder.path)]).runs
    return run.epochs


def test_a_trial_is_its_last_epoch_and_its_gaps(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(
        CELL,
        "confirm",
        0,
        {
            "train_eval_acc1": [50.0, 60.0, 80.0, 97.5],
            "test_acc1": [20.0, 40.0, 36.0, 35.0],
            "train_eval_loss": [2.0, 1.0, 0.5, 0.25],
            "test_loss": [2.5, 2.0, 3.0, 4.0],
        },
    )
    (row,) = curves.trials(epochs_of(folder)).to_dicts()
    assert (row["epoch"], row["finished"], row["test_acc1"]) == (4, True, 35.0)
    assert (row["gap_acc1"], row["gap_loss"]) == (62.5, 3.75)


def test_a_begun_trial_is_not_finished_and_a_diverged_one_has_no_metrics(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_acc1": [20.0, 40.0]})
    folder.add(CELL, "confirm", 1, {"test_acc1": [20.0, 40.0]}, diverged=True)
    begun, diverged = curves.trials(epochs_of(folder)).to_dicts()
    assert (begun["finished"], begun["epoch"], begun["test_acc1"]) == (False, 2, 40.0)
    assert (diverged["finished"], diverged["test_acc1"], diverged["gap_acc1"], diverged["train_loss"]) == (
        True,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(("target", "first"), [(10.0, 1), (10.5, 2), (30.0, 3), (36.0, 4), (36.1, None), (float("inf"), None)])
def test_first_epoch_at_a_target(make_folder: MakeFolder, target: float, first: int | None) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_acc1": [10.0, 20.0, 30.0, 36.0]})
    assert curves.first_epoch_at(epochs_of(folder), "test_acc1", target)["first_epoch"].to_list() == [first]


def test_a_target_missed_by_rounding_is_reached(make_folder: MakeFolder) -> None:
    folder = make_folder()
    mean = sum([0.1, 0.2, 0.3]) / 3  # 0.20000000000000004
    folder.add(CELL, "confirm", 0, {"test_acc1": [0.1, 0.9 * 0.2, 1.0, 1.0]})
    assert curves.first_epoch_at(epochs_of(folder), "test_acc1", 0.9 * mean)["first_epoch"].to_list() == [2]


def test_a_loss_is_reached_from_above_and_null_reaches_nothing(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_loss": [3.0, 2.0, 1.0, 2.0]})
    folder.add(CELL, "confirm", 1, {"test_loss": [3.0, float("nan")]}, diverged=True)
    assert curves.first_epoch_at(epochs_of(folder), "test_loss", 2.5)["first_epoch"].to_list() == [2, None]


def test_a_target_of_each_trials_own(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add(CELL, "confirm", 0, {"test_acc1": [10.0, 18.0, 20.0, 19.0]})
    folder.add(CELL, "confirm", 1, {"test_acc1": [10.0, 18.0, 36.0, 40.0]})
    own = curves.TARGET_SHARE * pl.col("test_acc1").max().over("trial")
    assert curves.first_epoch_at(epochs_of(folder), "test_acc1", own)["first_epoch"].to_list() == [2, 3]


def test_factors_are_what_is_no_fixed_column(full: Folder) -> None:
    epochs = epochs_of(full)
    assert curves.factors(epochs) == curves.factors(curves.trials(epochs)) == ["depth", "head"]
