"""Changes of order between two cells' curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis import crossover
from analysis.design import of_experiment
from tests.analysis.conftest import CONTENT
from tune_ablation.experiment import parse

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

ORIGIN, MAXPOOL = "resnet18_origin", "resnet18_maxpool"
EPOCHS = 10


def fill(folder: Folder, lead: list[float], metric: str = "test_acc1", noise: float = 0.1) -> None:
    """Curves of both cells, maxpool ahead of origin by ``lead`` at each epoch but for noise."""
    draw = np.random.default_rng(0)
    for seed in folder.experiment.confirm.seeds:
        base = 30 + draw.normal(0, 1) + np.arange(EPOCHS)
        folder.add(ORIGIN, "confirm", seed, {metric: base.tolist()})
        folder.add(MAXPOOL, "confirm", seed, {metric: (base + lead + draw.normal(0, noise, EPOCHS)).tolist()})


@pytest.fixture
def folder(make_folder: MakeFolder) -> Folder:
    return make_folder(recipe={"epochs": EPOCHS}, confirm={"seeds": list(range(6))})


@pytest.mark.parametrize(("metric", "early", "late"), [("test_acc1", MAXPOOL, ORIGIN), ("test_loss", ORIGIN, MAXPOOL)])
def test_a_change_of_order_that_is_clear_on_both_sides(folder: Folder, metric: str, early: str, late: str) -> None:
    fill(folder, [3, 3, 2, 1, 0.02, -0.02, -1, -2, -3, -3], metric)
    (row,) = folder.analysed().crossovers.to_dicts()
    assert (row["cell"], row["against"], row["metric"]) == (MAXPOOL, ORIGIN, metric)
    assert (row["ahead_before"], row["ahead_after"]) == (early, late)
    assert (row["clear_before"], row["clear_after"]) == (4, 7)
    assert row["epoch"] in (5, 6, 7)
    assert row["difference_before"] > 0 > row["difference_after"]


def test_curves_that_stay_in_order_or_wind_about_each_other_do_not_cross(folder: Folder) -> None:
    fill(folder, [3.0] * EPOCHS)
    assert folder.analysed().crossovers.height == 0
    fill(folder, [0.0] * EPOCHS, noise=1.0)
    assert folder.analysed().crossovers.height == 0


def test_two_crossings_are_two_rows(folder: Folder) -> None:
    fill(folder, [2, 2, 2, -2, -2, -2, -2, 2, 2, 2])
    assert folder.analysed().crossovers.select("clear_before", "clear_after").rows() == [(3, 4), (7, 8)]


def test_differences_by_epoch_are_scipys(folder: Folder) -> None:
    fill(folder, [1.0] * EPOCHS, noise=1.0)
    curves = folder.analysed().curves.filter(pl.col("metric") == "test_acc1")
    found = crossover.differences(curves, ((MAXPOOL, ORIGIN),))
    wide = curves.pivot("cell", index=["seed", "epoch"], values="value")
    for row in found.iter_rows(named=True):
        at = wide.filter(pl.col("epoch") == row["epoch"]).sort("seed")
        assert row["t_p"] == pytest.approx(stats.ttest_rel(at[MAXPOOL], at[ORIGIN]).pvalue)
        assert row["n"] == 6


def test_curves_that_do_not_differ_hardly_ever_cross() -> None:
    draw = np.random.default_rng(3)
    design = of_experiment(parse(CONTENT, "test"))
    pairs = []
    frames = []
    for number in range(300):
        pairs.append((f"a{number}", f"b{number}"))
        for cell in pairs[-1]:
            walk = draw.normal(0, 1, (5, 30)).cumsum(axis=1)  # curves wander: epochs hang together
            seed, epoch = np.meshgrid(np.arange(5), np.arange(1, 31), indexing="ij")
            frames.append(
                pl.DataFrame({"seed": seed.ravel(), "epoch": epoch.ravel(), "value": walk.ravel()}).with_columns(cell=pl.lit(cell))
            )
    curves = pl.concat(frames).with_columns(metric=pl.lit("test_acc1"))
    names = [name for pair in pairs for name in pair]
    wide = type(design)(**{**vars(design), "cells": {name: {} for name in names}})
    found = crossover.crossovers(crossover.differences(curves, tuple(pairs)), wide, {"test_acc1": True})
    assert found["cell"].n_unique() <= 0.05 * len(pairs)
