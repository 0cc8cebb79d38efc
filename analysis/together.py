"""Several results side by side, old logs beside new runs: the same cells of every source in one table, described and never tested."""

from collections.abc import Sequence

import polars as pl

from analysis.analyse import Analysis
from analysis.tables import Table
from analysis.words import NONE, count, label, spread

AT = ("final", "best")
"""The values of a metric that are laid side by side."""

SHOWN = ("test_acc1", "test_acc5")
"""What the table shows where sources share it; else the first metrics that they do."""

UNTESTED = (
    "Side by side only: rows of different sources are not paired by seed, and may differ in data, recipe and hardware, so no contrast and "
    "no test is made between them."
)

_COLUMNS: dict[str, type[pl.DataType]] = {
    "cell": pl.String,
    "source": pl.Int64,
    "quantity": pl.String,
    "n": pl.Int64,
    "mean": pl.Float64,
    "sd": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "epochs_least": pl.Int64,
    "epochs_most": pl.Int64,
}


def shared_metrics(found: Sequence[Analysis]) -> list[str]:
    """The metrics that at least two of the sources have, those of ``SHOWN`` first."""
    metrics = dict.fromkeys((*SHOWN, *(metric for one in found for metric in one.design.metrics)))
    return [metric for metric in metrics if sum(metric in one.design.metrics for one in found) > 1]


def side_by_side(found: Sequence[Analysis]) -> pl.DataFrame:
    """What every cell of every source came to, on the metrics that at least two sources share; no rows for a single source.

    Returns:
        ``cell``; ``source``, the place of its experiment among all, from 0; ``quantity``, ``<metric>_final`` or ``_best``; ``n``, ``mean``,
        ``sd``, ``low`` and ``high`` over its finished confirm trials that did not diverge (``compare.summaries``); ``epochs_least`` and
        ``epochs_most``, how many these trials were trained. A cell's sources follow one another; cells without such a trial are left out.
    """
    wanted = [f"{metric}_{at}" for metric in shared_metrics(found) for at in AT]
    frames = [pl.DataFrame(schema=_COLUMNS)]
    for source, one in enumerate(found):
        counted = pl.col("finished") & (pl.col("stage") == "confirm") & ~pl.col("diverged")
        epochs = one.trials.filter(counted).group_by("cell").agg(least=pl.col("epoch").min(), most=pl.col("epoch").max())
        rows = one.summaries.filter(pl.col("quantity").is_in(wanted)).join(epochs, on="cell")
        named = {"source": pl.lit(source), "epochs_least": pl.col("least"), "epochs_most": pl.col("most")}
        frames.append(rows.with_columns(**named).select(pl.col(name).cast(dtype) for name, dtype in _COLUMNS.items()))
    cells = {cell: place for place, cell in enumerate(dict.fromkeys(cell for one in found for cell in one.design.cells))}
    order = {name: place for place, name in enumerate(wanted)}
    return pl.concat(frames).sort(pl.col("cell").replace_strict(cells), "source", pl.col("quantity").replace_strict(order))


def table(found: Sequence[Analysis]) -> Table | None:
    """The same for people to read; None where there is only one source."""
    if len(found) < 2:
        return None
    metrics = shared_metrics(found)
    rows = side_by_side(found)
    sources = "; ".join(f"{source}: {one.design.name} ({one.run.where})" for source, one in enumerate(found, 1))
    notes = [f"Sources: {sources}.", UNTESTED]
    if not metrics:
        return Table("Side by side", "cell", [], ("source",), [], ["No metric is in two of the sources.", *notes])
    shown = [metric for metric in metrics if metric in SHOWN] or metrics[:2]
    names, cells = [], []
    for _, of_cell in rows.group_by("cell", "source", maintain_order=True):
        known = {row["quantity"]: row for row in of_cell.to_dicts()}
        values = [_value(known.get(f"{metric}_{at}"), at) for metric in shown for at in AT]
        first = of_cell.row(0, named=True)
        least, most = first["epochs_least"], first["epochs_most"]
        names.append(first["cell"])
        cells.append((str(first["source"] + 1), *values, f"{most}" if least == most else f"{least}-{most}", str(of_cell["n"].max())))
    absent = [one.design.name for source, one in enumerate(found) if source not in set(rows["source"])]
    if absent:
        reason = "no finished trial on a confirm seed, or none of these metrics"
        notes.insert(1, f"Without a row here: {count(len(absent), 'source')} ({', '.join(absent)}): {reason}.")
    headings = ("source", *(f"{at}\n{label(metric)}".replace(" ", "\n") for metric in shown for at in AT), "epochs", "n")
    return Table("Side by side", "cell", names, headings, cells, notes)


def _value(summary: dict[str, float | None] | None, at: str) -> str:
    if summary is None or summary["mean"] is None:
        return NONE
    return spread(summary, 2) if at == "final" else f"{summary['mean']:.2f}"
