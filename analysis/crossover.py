"""Where the curves of two cells change order, each time clear of zero on both sides."""

from itertools import pairwise

import polars as pl

from analysis import statistics
from analysis.design import Design, Pair

KEYS = ("cell", "against", "metric", "epoch")
COLUMNS: dict[str, type[pl.DataType]] = {
    "cell": pl.String,
    "against": pl.String,
    "metric": pl.String,
    "epoch": pl.Int64,
    "ahead_before": pl.String,
    "ahead_after": pl.String,
    "clear_before": pl.Int64,
    "clear_after": pl.Int64,
    "difference_before": pl.Float64,
    "difference_after": pl.Float64,
    "n": pl.Int64,
}


def differences(curves: pl.DataFrame, pairs: tuple[Pair, ...]) -> pl.DataFrame:
    """The mean difference of two cells' curves at every epoch.

    Args:
        curves: from ``curves.by_epoch``.
        pairs: each cell and the one it is held against.

    Returns:
        ``cell``, ``against``, ``metric``, ``epoch`` and the columns of ``statistics.tested`` over the seeds that both have at that epoch.
    """
    known = set(curves["cell"].unique())
    keys = ["metric", "epoch", "seed"]
    cells = list(dict.fromkeys(cell for pair in pairs for cell in pair if cell in known))
    seeded = curves.filter(pl.col("seed").is_not_null())
    wide = seeded.pivot("cell", on_columns=cells, index=keys, values="value", aggregate_function="first") if cells else seeded.clear()
    # Side by side, a row holds every pair's values at once: far fewer rows than one each pair.
    chosen = [pair for pair in pairs if known.issuperset(pair)] if wide.height else []
    aggregated = (
        wide.sort("seed")
        .group_by("metric", "epoch")
        .agg(
            expression.alias(f"{name} {place}")
            for place, (cell, against) in enumerate(chosen)
            for name, expression in statistics.differences(pl.col(cell), pl.col(against)).items()
        )
    )
    found = [
        aggregated.select(
            pl.lit(cell).alias("cell"),
            pl.lit(against).alias("against"),
            "metric",
            "epoch",
            *(pl.col(f"{name} {place}").alias(name) for name in ("n", "mean", "sd", "scale")),
        )
        for place, (cell, against) in enumerate(chosen)
    ]
    nothing = pl.DataFrame(schema={name: COLUMNS[name] for name in (*KEYS, "n")} | dict.fromkeys(("mean", "sd", "scale"), pl.Float64))
    frame = pl.concat(found) if found else nothing
    return statistics.tested(frame.filter(pl.col("n") > 0)).sort(*KEYS)


def crossovers(differences: pl.DataFrame, design: Design, higher: dict[str, bool]) -> pl.DataFrame:
    """Every change of order between two cells that is clear of zero before and after.

    A difference is clear at an epoch where its paired t test is below 5 %, Holm-adjusted over the epochs of the two curves: of curves
    that do not differ, one pair in twenty has a clear epoch, and next to none two of opposite sign. A crossover is two clear epochs of
    opposite sign with no clear one in between; curves that merely wind about each other have none.

    Args:
        differences: from ``differences``.
        design: the order of the cells.
        higher: the metrics to look at, and whether higher is better.

    Returns:
        ``cell``, ``against``, ``metric``; ``epoch``, the first from which the mean curves are in the new order; ``ahead_before`` and
        ``ahead_after``, the better cell; ``clear_before`` and ``clear_after``, the last clear epoch of the old order and the first of the
        new; the mean differences at these; ``n``, seeds.
    """
    rows = []
    order = {cell: place for place, cell in enumerate(design.cells)}
    chosen = statistics.holm(differences.filter(pl.col("metric").is_in(list(higher))), "t_p", ["cell", "against", "metric"])
    for (cell, against, metric), curve in chosen.group_by("cell", "against", "metric", maintain_order=True):
        steps = curve.sort("epoch").to_dicts()
        clear = [step for step in steps if step["t_p_holm"] is not None and step["t_p_holm"] <= statistics.ALPHA]
        for before, after in pairwise(clear):
            if before["mean"] * after["mean"] > 0:
                continue
            between = [step for step in steps if before["epoch"] < step["epoch"] <= after["epoch"]]
            old = [step["epoch"] for step in between if step["mean"] * after["mean"] <= 0]
            cell_is_better = (after["mean"] > 0) == higher[str(metric)]
            rows.append(
                {
                    "cell": cell,
                    "against": against,
                    "metric": metric,
                    "epoch": next(step["epoch"] for step in between if not old or step["epoch"] > old[-1]),
                    "ahead_before": against if cell_is_better else cell,
                    "ahead_after": cell if cell_is_better else against,
                    "clear_before": before["epoch"],
                    "clear_after": after["epoch"],
                    "difference_before": before["mean"],
                    "difference_after": after["mean"],
                    "n": min(before["n"], after["n"]),
                }
            )
    rows.sort(key=lambda row: (list(higher).index(row["metric"]), order[row["cell"]], order[row["against"]], row["epoch"]))
    return pl.DataFrame(rows, COLUMNS)
