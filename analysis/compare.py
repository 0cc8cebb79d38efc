"""From trials to cells: where each planned trial stands, each cell's learning rate, and its summary over seeds."""

from collections.abc import Collection

import polars as pl

from analysis.curves import GAPS, TARGET_SHARE
from tune_ablation import plan
from tune_ablation.experiment import Experiment
from tune_ablation.records import STAGES

SUMMARISED = ("test_acc1", "test_acc5", "test_f1", *GAPS)
"""What a cell's summary states as mean and standard deviation over its confirm seeds."""

STATES = ("finished", "begun", "failed", "damaged", "not started")
"""Where a planned trial stands; the first that fits counts. Records do not tell running from interrupted: ``begun``."""


def states(
    planned: pl.DataFrame, trials: pl.DataFrame, failed: Collection[str], damaged: Collection[str]
) -> pl.DataFrame:
    """The plan with each trial's ``state`` (of ``STATES``), ``epoch`` and ``diverged``; null where it has none."""
    known = trials.select("trial", "epoch", "diverged", "finished")
    state = (
        pl.when(pl.col("finished").fill_null(value=False))
        .then(pl.lit("finished"))
        .when(pl.col("trial").is_in(list(failed)))
        .then(pl.lit("failed"))
        .when(pl.col("trial").is_in(list(damaged)))
        .then(pl.lit("damaged"))
        .when(pl.col("epoch").is_not_null())
        .then(pl.lit("begun"))
        .otherwise(pl.lit("not started"))
    )
    joined = planned.join(known, on="trial", how="left", maintain_order="left")
    return joined.with_columns(state.alias("state")).drop("finished")


def learning_rates(experiment: Experiment, trials: pl.DataFrame) -> pl.DataFrame:
    """The winner of each cell's finished search trials by the plan's own rule: ``cell``, ``lr``, ``objective``.

    ``objective`` is null where every one of them diverged; a cell without a finished search trial has no row. Where the
    recipe fixes the learning rate there is no search, and that one is every cell's.
    """
    schema = {"cell": pl.String, "lr": pl.Float64, "objective": pl.Float64}
    if experiment.recipe.lr is not None:
        fixed = [(cell.key, experiment.recipe.lr, None) for cell in experiment.cells()]
        return pl.DataFrame(fixed, schema, orient="row")
    results = plan.results_of(experiment, trials.filter(pl.col("finished")).iter_rows(named=True))
    winners = {
        cell: plan.winner(experiment.search, [result for _, result in found])
        for cell, found in plan.finished_studies(experiment, results).items()
        if found
    }
    rows = [(cell, result.lr, result.value) for cell, result in winners.items()]
    return pl.DataFrame(rows, schema, orient="row")


def baseline_cells(experiment: Experiment) -> list[str]:
    """Keys of every cell with the baseline's levels: one for each combination of the other factors."""
    levels = experiment.baseline_levels()
    return [cell.key for cell in experiment.cells() if cell.matches(levels)]


def confirmed(trials: pl.DataFrame) -> pl.DataFrame:
    """The finished confirm trials, in a fixed order, so that no sum depends on the order of files."""
    return trials.filter(pl.col("finished") & (pl.col("stage") == "confirm")).sort("cell", "number")


def target(experiment: Experiment, trials: pl.DataFrame) -> float | None:
    """The common target of convergence speed, in percent: 90 % of the baseline's mean final test acc@1.

    One target for all cells: the mean is over the finished confirm trials of all baseline cells together (of every
    depth), those that diverged left out. None while there is none.
    """
    values = (
        confirmed(trials).filter(pl.col("cell").is_in(baseline_cells(experiment)))["test_acc1"].drop_nulls().to_list()
    )
    return TARGET_SHARE * (sum(values) / len(values)) if values else None


def convergence(trials: pl.DataFrame, first_epochs: pl.DataFrame) -> pl.DataFrame:
    """Epochs to a target in cells with finished confirm trials: ``cell``, ``median``, ``above``, ``reached``, ``of``.

    A trial that ended without reaching the target, diverged ones included, counts as longer than any that did; it
    is never dropped and never averaged. Where the median falls on such a trial ``median`` is null and ``above`` says
    that it is more than the epochs trained; otherwise ``above`` is null. ``reached`` of ``of`` trials reached it.
    """
    never = float("inf")
    median = pl.col("first_epoch").cast(pl.Float64).fill_null(never).median()
    return (
        confirmed(trials)
        .join(first_epochs, on="trial", how="left", maintain_order="left")
        .group_by("cell", maintain_order=True)
        .agg(
            pl.when(median < never).then(median).alias("median"),
            pl.when(median == never).then(pl.col("epochs").max()).alias("above"),
            pl.col("first_epoch").count().cast(pl.Int64).alias("reached"),
            pl.len().cast(pl.Int64).alias("of"),
        )
    )


def cells(standing: pl.DataFrame, trials: pl.DataFrame, rates: pl.DataFrame, speed: pl.DataFrame) -> pl.DataFrame:
    """One row per planned cell, in the plan's order.

    Args:
        standing: from ``states``.
        trials: from ``curves.trials``.
        rates: from ``learning_rates``.
        speed: from ``convergence``; empty while there is no target.

    Returns:
        ``cell``; ``<stage>_planned``, ``_finished``, ``_diverged`` for both stages; ``lr``, ``objective``; ``seeds``,
        the number of confirm trials that the means are over (finished and not diverged); ``<metric>_mean`` and
        ``<metric>_sd`` (n - 1 in the denominator, null for one seed) of every ``SUMMARISED``; ``target_median``,
        ``target_above``, ``target_reached``, ``target_of`` as in ``convergence``.
    """
    counts = standing.group_by("cell", maintain_order=True).agg(
        expression
        for stage in STAGES
        for expression in (
            (pl.col("stage") == stage).sum().cast(pl.Int64).alias(f"{stage}_planned"),
            ((pl.col("stage") == stage) & (pl.col("state") == "finished"))
            .sum()
            .cast(pl.Int64)
            .alias(f"{stage}_finished"),
            ((pl.col("stage") == stage) & (pl.col("state") == "finished") & pl.col("diverged"))
            .sum()
            .cast(pl.Int64)
            .alias(f"{stage}_diverged"),
        )
    )
    means = (
        confirmed(trials)
        .group_by("cell", maintain_order=True)
        .agg(
            (~pl.col("diverged")).sum().cast(pl.Int64).alias("seeds"),
            *(pl.col(name).mean().alias(f"{name}_mean") for name in SUMMARISED),
            *(pl.col(name).std(ddof=1).alias(f"{name}_sd") for name in SUMMARISED),
        )
    )
    joined = counts
    for frame in (rates, means, speed.rename({name: f"target_{name}" for name in speed.columns if name != "cell"})):
        joined = joined.join(frame, on="cell", how="left", maintain_order="left")
    return joined.with_columns(pl.col("seeds").fill_null(0))
