"""From trials to cells: where each planned trial stands, each cell's learning rate and summary over seeds, and paired contrasts."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import polars as pl

from analysis import statistics
from analysis.curves import quantities, target_value
from analysis.design import Design, Pair
from analysis.statistics import ALPHA
from tune_ablation.records import STAGES

STATES = ("finished", "begun", "failed", "damaged", "not started")
"""Where a planned trial stands; the first that fits counts. Records do not tell running from interrupted: ``begun``."""

VERDICTS = ("better", "worse", "inconclusive")


def states(planned: pl.DataFrame, trials: pl.DataFrame, failed: Collection[str], damaged: Collection[str]) -> pl.DataFrame:
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


def confirmed(trials: pl.DataFrame) -> pl.DataFrame:
    """The finished confirm trials, in a fixed order, so that no sum depends on the order of files."""
    return trials.filter(pl.col("finished") & (pl.col("stage") == "confirm")).sort("cell", "number")


def responses(trials: pl.DataFrame, design: Design) -> pl.DataFrame:
    """The learning-rate response of every cell: a row for each finished search trial.

    Returns:
        ``cell``, ``number``, ``lr``, ``objective`` (its final value; null where it diverged), ``diverged``, ``winner``: whether it is the
        cell's best, the lower learning rate on a tie, a diverged one only if all diverged, as the plan chooses.
    """
    worst_first = pl.col("objective") * (1 if design.metrics[design.objective] else -1)
    return (
        trials.filter(pl.col("finished") & (pl.col("stage") == "search"))
        .select("cell", "number", "lr", pl.col(f"{design.objective}_final").alias("objective"), "diverged")
        .with_columns((-worst_first.fill_null(float("-inf"))).alias("_badness"))
        .sort("cell", "_badness", "lr", "number", nulls_last=True)
        .with_columns((pl.int_range(pl.len()).over("cell") == 0).alias("winner"))
        .sort("cell", "number")
        .drop("_badness")
    )


def learning_rates(response: pl.DataFrame, design: Design, fixed: float | None = None) -> pl.DataFrame:
    """Each cell's learning rate and the objective that chose it: ``cell``, ``lr``, ``objective``.

    ``objective`` is null where every search trial diverged; a cell without a finished search trial has no row. Where the recipe fixes
    the learning rate there is no search, and that one is every cell's.
    """
    if fixed is not None:
        schema = {"cell": pl.String, "lr": pl.Float64, "objective": pl.Float64}
        return pl.DataFrame([(cell, fixed, None) for cell in design.cells], schema, orient="row")
    return response.filter("winner").select("cell", "lr", "objective")


def target(trials: pl.DataFrame, design: Design) -> tuple[float | None, int]:
    """The common target of convergence speed, and how many trials it rests on.

    One target for all cells: 90 % of the mean final value of the primary metric over the finished confirm trials of all baseline
    cells together (of every depth), those that diverged left out. None while there is none.
    """
    final = confirmed(trials).filter(pl.col("cell").is_in(design.baseline_cells))[f"{design.primary}_final"].drop_nulls().to_list()
    if not final:
        return None, 0
    return target_value(sum(final) / len(final), higher_is_better=design.metrics[design.primary]), len(final)


def summaries(trials: pl.DataFrame, design: Design) -> pl.DataFrame:
    """Every quantity of every cell over its finished confirm trials, long.

    Returns:
        ``cell``, ``quantity`` (a name of ``curves.quantities``), ``n``, ``mean``, ``sd``, ``low``, ``high`` (95 % t interval), in the
        design's order. Diverged trials are left out, but for the times to a target, where they count as never having got there.
    """
    values = long_values(trials, list(quantities(design))).sort("value")
    found = statistics.summarise(values, ["cell", "quantity"])
    return _in_order(found, design).filter(pl.col("n") > 0)


def long_values(trials: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Per-trial quantities of the finished confirm trials: ``cell``, ``number``, ``seed``, ``quantity``, ``value``."""
    known = [name for name in names if name in trials.columns]
    return (
        confirmed(trials)
        .with_columns(pl.col(known).cast(pl.Float64))
        .unpivot(known, index=["cell", "number", "seed"], variable_name="quantity", value_name="value")
    )


def _in_order(frame: pl.DataFrame, design: Design) -> pl.DataFrame:
    order = {cell: place for place, cell in enumerate(design.cells)}
    names = {name: place for place, name in enumerate(quantities(design))}
    keys = [pl.col("cell").replace_strict(order, default=len(order)), pl.col("quantity").replace_strict(names, default=len(names))]
    return frame.sort(*keys, maintain_order=True)


def cells(standing: pl.DataFrame, trials: pl.DataFrame, rates: pl.DataFrame, design: Design) -> pl.DataFrame:
    """One row per cell, in the design's order.

    Args:
        standing: from ``states``.
        trials: from ``curves.trials`` joined with ``curves.convergence``.
        rates: from ``learning_rates``.
        design: the cells.

    Returns:
        ``cell``; ``<stage>_planned``, ``_finished``, ``_diverged``, ``_failed`` for both stages; ``lr``, ``objective``; ``seeds``, the
        number of confirm trials that the means are over (finished and not diverged); and for each target ``<target>_median``, the
        Kaplan-Meier median of the epochs it took (null where fewer than half got there), ``<target>_above``, the epochs trained where it is
        null, ``<target>_reached`` and ``<target>_of``: so many of the finished confirm trials reached it.
    """
    state, stage = pl.col("state"), pl.col("stage")
    counts = standing.group_by("cell", maintain_order=True).agg(
        expression.sum().cast(pl.Int64).alias(f"{name}_{what}")
        for name in STAGES
        for what, expression in {
            "planned": stage == name,
            "finished": (stage == name) & (state == "finished"),
            "diverged": (stage == name) & (state == "finished") & pl.col("diverged"),
            "failed": (stage == name) & (state == "failed"),
        }.items()
    )
    joined = pl.DataFrame({"cell": list(design.cells)}, {"cell": pl.String})
    done = confirmed(trials)
    seeds = done.group_by("cell").agg((~pl.col("diverged")).sum().cast(pl.Int64).alias("seeds"))
    for frame in (counts, rates, seeds, _medians(done)):
        joined = joined.join(frame, on="cell", how="left", maintain_order="left")
    return joined.with_columns(pl.col("seeds").fill_null(0), pl.col("^(search|confirm)_.*$").fill_null(0))


def _medians(done: pl.DataFrame) -> pl.DataFrame:
    """Censored medians of the epochs to each target, by cell."""
    rows = []
    for (cell,), of_cell in done.group_by("cell", maintain_order=True):
        row: dict[str, object] = {"cell": cell}
        for name in ("target", "own_target"):
            known = of_cell.filter(pl.col(f"reached_{name}").is_not_null())
            reached, epochs = known[f"reached_{name}"].to_list(), known[f"epochs_to_{name}"].to_list()
            median = statistics.kaplan_meier_median(epochs, reached)
            row |= {
                f"{name}_median": median,
                f"{name}_above": max(known["epochs"], default=None) if median is None else None,
                f"{name}_reached": sum(reached) if known.height else None,
                f"{name}_of": known.height or None,
            }
        rows.append(row)
    numbers = {"median": pl.Float64, "above": pl.Int64, "reached": pl.Int64, "of": pl.Int64}
    schema = {"cell": pl.String, **{f"{name}_{what}": dtype for name in ("target", "own_target") for what, dtype in numbers.items()}}
    return pl.DataFrame(rows, schema)


def pair_values(values: pl.DataFrame, pairs: Iterable[Pair]) -> pl.DataFrame:
    """Values of two cells side by side, a row for each pair, quantity and seed that both have.

    Args:
        values: from ``long_values``.
        pairs: which cells.

    Returns:
        ``cell``, ``against``, ``quantity``, ``seed``, ``value``, ``reference``. Trials without a seed pair with nothing.
    """
    wanted = pl.DataFrame(list(pairs), {"cell": pl.String, "against": pl.String}, orient="row").with_row_index("pair")
    keys = ["quantity", "seed"]
    left = values.filter(pl.col("value").is_not_null()).select("cell", *keys, "value")
    right = left.rename({"cell": "against", "value": "reference"})
    joined = wanted.join(left, on="cell").join(right, on=["against", *keys])
    return joined.sort("pair", *keys).select("cell", "against", *keys, "value", "reference")


def contrasts(trials: pl.DataFrame, pairs: Sequence[Pair], better: Mapping[str, bool]) -> pl.DataFrame:
    """Contrasts of cells on quantities, paired by seed. All of them are one family: whoever sees one of them sees all.

    Args:
        trials: from ``curves.trials``.
        pairs: each cell and the one it is held against.
        better: the quantities, and whether higher is better.

    Returns:
        A row for each quantity and pair: the columns of ``statistics.paired``, ``t_p_holm`` and ``exact_p_holm``, adjusted over all rows
        here; ``verdict``, one of ``VERDICTS``: the Holm-adjusted paired t test at 5 %; ``rests_on_normality``, whether n is too small
        for the exact test ever to reach that, so that the verdict rests on seed noise being near normal; ``seeds_needed``, see
        ``statistics.seeds_needed``. A pair with fewer than two seeds in common is there with nulls.
    """
    names = list(better)
    wanted = pl.DataFrame(
        [(cell, against, name) for name in names for cell, against in pairs],
        {"cell": pl.String, "against": pl.String, "quantity": pl.String},
        orient="row",
    )
    return judged(wanted, pair_values(long_values(trials, names), pairs), ["cell", "against", "quantity"], better)


def judged(wanted: pl.DataFrame, pairs: pl.DataFrame, keys: Sequence[str], better: Mapping[str, bool]) -> pl.DataFrame:
    """Test every row of ``wanted``, one family with a ``quantity`` each, on the values by seed of ``pairs``: see ``contrasts``."""
    found = wanted.join(statistics.paired(pairs, keys), on=list(keys), how="left", maintain_order="left")
    verdicts = judge(found.with_columns(pl.col("n").fill_null(0)), better)
    tests = verdicts["t_p"].count()
    needed = [statistics.seeds_needed(effect, tests) for effect in verdicts["standardised"]]
    return verdicts.with_columns(pl.Series("seeds_needed", needed, pl.Int64))


def judge(tested: pl.DataFrame, better: Mapping[str, bool], family: Sequence[str] = ()) -> pl.DataFrame:
    """Add Holm's adjustment over each family, and the verdicts, to the tests of ``statistics.paired`` (see ``contrasts``)."""
    adjusted = statistics.holm(statistics.holm(tested, "t_p", family), "exact_p", family)
    tests = pl.col("t_p").count()
    sign = pl.col("quantity").replace_strict({name: 1 if higher else -1 for name, higher in better.items()}, return_dtype=pl.Int64)
    clear = (pl.col("t_p_holm") <= ALPHA).fill_null(value=False)
    least = (tests.over(*family) if family else tests) * (2.0 ** (1 - pl.col("n").cast(pl.Float64)))
    good = pl.col("mean") * sign > 0
    return adjusted.with_columns(
        pl.when(clear & good).then(pl.lit("better")).when(clear).then(pl.lit("worse")).otherwise(pl.lit("inconclusive")).alias("verdict"),
        (least > ALPHA).alias("rests_on_normality"),
    )
