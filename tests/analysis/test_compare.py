"""Cells from their trials: winners, means over seeds, censored convergence; contrasts paired by seed."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]  # ships no type information

from analysis import compare, curves, load
from analysis.design import of_experiment
from tune_ablation import plan
from tune_ablation.experiment import parse
from tune_ablation.records import STAGES

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

ORIGIN, MAXPOOL = "resnet18_origin", "resnet18_maxpool"


def cells_of(folder: Folder) -> dict[str, dict[str, Any]]:
    """Rows of the cells, with mean and sd of every final metric beside their counts."""
    found = folder.analysed()
    rows = {row["cell"]: row for row in found.cells.iter_rows(named=True)}
    for cell, row in rows.items():
        for name in (*curves.curve_names(found.design),):
            figures = found.summary(cell, f"{name}_final")
            row |= {f"{name}_mean": figures["mean"], f"{name}_sd": figures["sd"]}
    return rows


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
    assert row["test_acc1_mean"] is row["test_acc1_sd"] is row["target_of"] is None  # without a baseline there is no target


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
    found = folder.analysed()
    assert found.design.baseline_cells == ("resnet18_origin", "resnet50_origin")
    assert found.target == pytest.approx(0.9 * 35)
    assert found.target_trials == 4


@pytest.mark.parametrize(
    ("reached", "median", "above"),
    [
        ([1, 2, 3], 2.0, None),
        ([1, 3, None], 3.0, None),
        ([1, None, None], None, 4),
        ([None, None, None], None, 4),
        ([1, 2, 3, 4], 2.0, None),  # the epoch by which half of them got there
        ([1, 2, 3, None], 2.0, None),
        ([1, 2, None, None], 2.0, None),
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
    speed = curves.convergence(run.epochs, run.design, 36.0, None)
    trials = curves.trials(run.epochs, run.design).join(speed, on="trial")
    standing = compare.states(run.plan, trials, [], [])
    rates = compare.learning_rates(compare.responses(trials, run.design), run.design)
    row = compare.cells(standing, trials, rates, run.design).row(1, named=True)
    assert (row["target_median"], row["target_above"]) == (median, above)
    assert (row["target_reached"], row["target_of"]) == (sum(first is not None for first in reached), len(reached))


def test_states_of_planned_trials(full: Folder) -> None:
    (run,) = load.load([str(full.path)]).runs
    kept = (pl.col("number") > 0) | (pl.col("stage") == "search") | (pl.col("epoch") < 3)
    trials = curves.trials(run.epochs.filter(kept), run.design)
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
    design = run.design
    assert curves.trials(shuffled, design).equals(curves.trials(run.epochs, design))
    speeds = [curves.convergence(epochs, design, 30.0, 80) for epochs in (run.epochs, shuffled)]
    assert speeds[0].equals(speeds[1])
    trials = curves.trials(run.epochs, design).join(speeds[0], on="trial")
    mixed = trials.sample(fraction=1, shuffle=True, seed=seed)
    assert compare.target(mixed, design) == compare.target(trials, design)
    assert compare.summaries(mixed, design).equals(compare.summaries(trials, design))
    better = {"test_acc1_final": True}
    pairs = design.all_pairs()
    assert compare.contrasts(mixed, pairs, better).equals(compare.contrasts(trials, pairs, better))
    frames = []
    for some in (trials, mixed):
        rates = compare.learning_rates(compare.responses(some, design), design)
        frames.append(compare.cells(compare.states(run.plan, some, [], []), some, rates, design))
    assert frames[0].equals(frames[1])


RESULTS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.4]), st.none() | st.sampled_from([10.0, 20.0, 30.0])), min_size=1, max_size=6)


@given(RESULTS, st.sampled_from(["val_acc1", "val_loss"]))
def test_the_winner_is_the_one_that_the_plan_chooses(results: list[tuple[float, float | None]], objective: str) -> None:
    content = {"name": "a", "grid": {"head": ["origin"]}, "search": {"objective": objective, "trials_per_cell": len(results)}}
    experiment = parse(content, "test")
    rows = [
        {"cell": ORIGIN, "number": n, "lr": lr, f"{objective}_final": value, "diverged": value is None, "finished": True, "stage": "search"}
        for n, (lr, value) in enumerate(results)
    ]
    found = compare.responses(
        pl.DataFrame(rows, infer_schema_length=None, schema_overrides={f"{objective}_final": pl.Float64}), of_experiment(experiment)
    )
    (winner,) = found.filter("winner").to_dicts()
    expected = plan.winner(experiment.search, [plan.Result(lr, value) for lr, value in results])
    assert (winner["lr"], winner["objective"]) == (expected.lr, expected.value)


DEEP = {"grid": {"depth": [18, 50], "head": ["origin", "maxpool", "dropout"]}, "confirm": {"seeds": [0, 1, 2, 3, 4]}}


def drawn(folder: Folder, seed: int = 0) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Fill a folder with confirm trials and say how each cell's ended."""
    draw = np.random.default_rng(seed)
    finals = {cell.key: 30 + 3 * place + draw.normal(0, 1, 5) for place, cell in enumerate(folder.experiment.cells())}
    for cell, values in finals.items():
        folder.confirm(cell, values.tolist())
    return finals


def test_contrasts_are_paired_with_the_baseline_of_the_same_depth(make_folder: MakeFolder) -> None:
    folder = make_folder(**DEEP)
    finals = drawn(folder)
    contrasts = folder.analysed().contrasts
    pairs = list(contrasts.select("cell", "against").iter_rows())
    assert pairs == [(f"resnet{depth}_{head}", f"resnet{depth}_origin") for depth in (18, 50) for head in ("maxpool", "dropout")]
    p = [stats.ttest_rel(finals[cell], finals[against]).pvalue for cell, against in pairs]
    assert contrasts["t_p"].to_list() == pytest.approx(p)
    assert contrasts["t_p_holm"].to_list() == pytest.approx(multipletests(p, method="holm")[1])
    assert contrasts["mean"].to_list() == pytest.approx([float((finals[cell] - finals[against]).mean()) for cell, against in pairs])
    assert contrasts["exact_p_holm"].to_list() == pytest.approx(multipletests(contrasts["exact_p"], method="holm")[1])
    assert contrasts["rests_on_normality"].all()


def test_all_pairs_are_one_larger_family(make_folder: MakeFolder) -> None:
    folder = make_folder(**DEEP)
    drawn(folder)
    few, many = folder.analysed(), folder.analysed(every_pair=True)
    assert (few.contrasts.height, many.contrasts.height) == (4, 15)
    first = many.contrasts.row(0, named=True)
    assert (first["cell"], first["against"]) == ("resnet18_maxpool", "resnet18_origin")
    assert first["t_p_holm"] >= few.contrasts["t_p_holm"][0]


@pytest.mark.parametrize(("metric", "verdict"), [("test_acc1", "better"), ("test_loss", "worse")])
def test_a_verdict_knows_which_way_is_better(make_folder: MakeFolder, metric: str, verdict: str) -> None:
    folder = make_folder()
    folder.confirm(ORIGIN, [30.0, 31.0, 32.0], metric)
    folder.confirm(MAXPOOL, [40.0, 41.1, 42.2], metric)
    (row,) = folder.analysed(metric).contrasts.to_dicts()
    assert (row["quantity"], row["verdict"], row["rests_on_normality"]) == (f"{metric}_final", verdict, True)


def test_only_seeds_that_both_have_count(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.confirm(ORIGIN, [30.0, 31.0, 32.0])
    folder.add(MAXPOOL, "confirm", 2, {"test_acc1": [40.0] * 4})
    folder.add(MAXPOOL, "confirm", 0, {"test_acc1": [39.0] * 4})
    folder.add(MAXPOOL, "confirm", 1, {"test_acc1": [39.0] * 2}, diverged=True)
    (row,) = folder.analysed().contrasts.to_dicts()
    assert (row["n"], row["mean"]) == (2, pytest.approx(8.5))


def test_a_contrast_without_seeds_is_there_and_undecided(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.confirm(ORIGIN, [30.0, 31.0, 32.0])
    (row,) = folder.analysed().contrasts.to_dicts()
    assert (row["n"], row["mean"], row["t_p_holm"], row["verdict"], row["seeds_needed"]) == (0, None, None, "inconclusive", None)


def test_cell_names_change_no_number(make_folder: MakeFolder) -> None:
    numbers = []
    for name, heads in (("one", ["origin", "maxpool"]), ("two", ["dropout", "maxpool"]), ("three", ["maxpool", "dropout"])):
        folder = make_folder(name=name, grid={"depth": [18], "head": heads})
        folder.confirm(f"resnet18_{heads[0]}", [30.0, 31.0, 33.0])
        folder.confirm(f"resnet18_{heads[1]}", [32.0, 34.0, 33.5])
        numbers.append(folder.analysed().contrasts.drop("cell", "against"))
    assert numbers[0].equals(numbers[1])
    assert numbers[0].equals(numbers[2])


def test_search_counts_attempts_divergence_and_failures(full: Folder) -> None:
    row = full.analysed().cells.row(0, named=True)
    assert [row[f"search_{what}"] for what in ("planned", "finished", "diverged", "failed")] == [2, 2, 0, 0]
    assert STAGES == ("search", "confirm")
