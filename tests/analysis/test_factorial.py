"""Main effects and interactions, by hand and against least squares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

SEEDS = [0, 1, 2, 3]


def fill(folder: Folder, seed: int = 0) -> dict[tuple[Any, ...], list[float]]:
    draw = np.random.default_rng(seed)
    finals = {}
    for cell in folder.experiment.cells():
        values = (30 + draw.normal(0, 3) + draw.normal(0, 1, len(SEEDS))).tolist()
        finals[tuple(cell.levels.values())] = values
        folder.confirm(cell.key, values)
    return finals


def test_effects_of_a_2_by_3_grid_by_hand(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"depth": [18, 50], "head": ["origin", "maxpool", "dropout"]}, confirm={"seeds": SEEDS})
    y = {cell: np.array(values) for cell, values in fill(folder).items()}
    expected = {
        "depth = 50, not 18": np.mean([y[50, head] - y[18, head] for head in ("origin", "maxpool", "dropout")], axis=0),
        "head = maxpool, not origin": np.mean([y[depth, "maxpool"] - y[depth, "origin"] for depth in (18, 50)], axis=0),
        "head = dropout, not origin": np.mean([y[depth, "dropout"] - y[depth, "origin"] for depth in (18, 50)], axis=0),
        "depth = 50 with head = maxpool": (y[50, "maxpool"] - y[50, "origin"]) - (y[18, "maxpool"] - y[18, "origin"]),
        "depth = 50 with head = dropout": (y[50, "dropout"] - y[50, "origin"]) - (y[18, "dropout"] - y[18, "origin"]),
    }
    effects = folder.analysed().effects
    assert effects["effect"].to_list() == list(expected)
    for row, by_seed in zip(effects.iter_rows(named=True), expected.values(), strict=True):
        test = stats.ttest_1samp(by_seed, 0)
        assert (row["n"], row["mean"], row["t_p"]) == (4, pytest.approx(by_seed.mean()), pytest.approx(test.pvalue))
        assert (row["low"], row["high"]) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert effects["cells"].to_list() == [6, 4, 4, 4, 4]


def test_effects_of_a_2_by_2_by_2_grid_are_least_squares(make_folder: MakeFolder) -> None:
    grid: dict[str, list[int] | list[str]] = {"depth": [18, 50], "head": ["origin", "maxpool"], "augment": ["none", "flip-crop"]}
    folder = make_folder(grid=grid, confirm={"seeds": SEEDS})
    finals = fill(folder, seed=1)
    sides = np.array([[-0.5 if level == grid[name][0] else 0.5 for name, level in zip(grid, cell, strict=True)] for cell in finals])
    a, b, c = sides.T
    model = np.column_stack([np.ones(8), a, b, c, a * b, a * c, b * c, a * b * c])
    fitted = np.linalg.lstsq(model, np.array(list(finals.values())), rcond=None)[0].mean(axis=1)
    effects = folder.analysed().effects
    assert effects["mean"].to_list() == pytest.approx(fitted[1:7])
    assert effects["kind"].to_list() == ["main"] * 3 + ["interaction"] * 3


def test_the_baseline_is_the_reference_wherever_it_stands(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"depth": [18], "head": ["maxpool", "origin"]}, baseline={"head": "origin"}, confirm={"seeds": SEEDS})
    fill(folder)
    assert folder.analysed().effects["effect"].to_list() == ["head = maxpool, not origin"]


def test_a_seed_that_lacks_a_cell_does_not_count(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"depth": [18, 50], "head": ["origin", "maxpool"]}, confirm={"seeds": SEEDS})
    fill(folder)
    folder.file("resnet50_maxpool/confirm/seed-3").unlink()
    assert folder.analysed().effects["n"].to_list() == [3, 3, 3]


def test_one_cell_has_no_effects(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"depth": [18], "head": ["origin"]}, confirm={"seeds": SEEDS})
    fill(folder)
    found = folder.analysed()
    assert (found.effects.height, found.contrasts.height) == (0, 0)
