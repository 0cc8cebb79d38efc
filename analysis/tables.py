"""The tables that a person reads, as words: terminal, Markdown and HTML lay out the same ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from analysis.analyse import Analysis
from analysis.curves import quantities
from analysis.sentences import NORMALITY
from analysis.words import NONE, count, label, p_value, spread
from tune_ablation.records import COSTS, STAGES

MARK = "*"
"""Stands behind the name of a cell that the audit has something serious to say of."""

COURSE = ("turning_epoch", "loss_rise", "best_epoch", "acc1_drop", "epochs_to_own_target", "seconds_to_target", "train_loss_area")
"""What a trial's course comes to besides its end, as far as there is such a quantity."""


@dataclass(frozen=True)
class Table:
    """A table, ready to lay out.

    Attributes:
        title: what it shows.
        first: heading of the first column, which names the rows.
        names: the rows' names; a line break keeps the two cells of a contrast apart.
        headings: the other columns' headings; a line break shows where a narrow one may break.
        rows: the cells of every row, as many as there are headings.
        notes: sentences that belong below it.
    """

    title: str
    first: str
    names: Sequence[str]
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def outcome(found: Analysis) -> Table:
    """What each cell came to: the final test metrics, and how fast."""
    metrics = [name for name in ("test_acc1", "test_acc5", "test_f1") if name in found.design.metrics] or list(found.design.metrics)[:3]
    headings = (*(label(name).replace("test macro", "macro") for name in metrics), "epochs to\ntarget")
    rows = [
        (*(spread(found.summary(row["cell"], f"{name}_final"), 2) for name in metrics), _to_target(row))
        for row in found.cells.iter_rows(named=True)
    ]
    return _of_cells(found, "Final figures of every cell", headings, rows)


def trials(found: Analysis) -> Table:
    """What was run in each cell, the learning rate it came to, and the overfitting gap."""
    ours = found.run.experiment is not None
    headings = ["search", "confirm", "div-\nerged", "best lr"]
    headings += ["gap in acc@1", "gap in loss"] if ours else [f"best {label(found.design.objective)}"]
    rows = []
    for row in found.cells.iter_rows(named=True):
        counts = [f"{row[f'{stage}_finished']}/{row[f'{stage}_planned']}" for stage in STAGES]
        diverged = str(sum(row[f"{stage}_diverged"] for stage in STAGES))
        rate = NONE if row["lr"] is None else f"{row['lr']:.3g}"
        gaps = [spread(found.summary(row["cell"], f"{name}_final"), digits) for name, digits in (("gap_acc1", 2), ("gap_loss", 3))]
        objective = [NONE if row["objective"] is None else f"{row['objective']:.4g}"]
        rows.append((*counts, diverged, rate, *(gaps if ours else objective)))
    return _of_cells(found, "Trials finished of those planned, and the gap between training and test", headings, rows)


def _to_target(row: Mapping[str, Any]) -> str:
    if not row["target_of"]:
        return NONE
    value = f">{row['target_above']}" if row["target_median"] is None else f"{row['target_median']:g}"
    return value if row["target_reached"] == row["target_of"] else f"{value} ({row['target_reached']} of {row['target_of']})"


def _of_cells(found: Analysis, title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    marked = {cell for finding in found.findings if finding.serious for cell in finding.cells}
    names = [cell + MARK * (cell in marked) for cell in found.cells["cell"]]
    return Table(title, "cell", names, headings, rows, [f"{MARK} see the audit below"] if marked else [])


def course(found: Analysis) -> Table | None:
    """The course of each cell's trials: when overfitting set in, when they were at their best, how fast they were."""
    shown = [name for name in COURSE if name in quantities(found.design) and _known(found, name)]
    if not shown:
        return None
    rows = [[spread(found.summary(cell, name), 3 if name == "loss_rise" else 1) for name in shown] for cell in found.cells["cell"]]
    note = (
        "Mean ± standard deviation over confirm seeds. Turning epoch: the first at which the test loss is lowest; its rise is the final "
        "less the lowest value. A time to a target that was not reached counts with all the time trained, so its mean is a lower bound."
    )
    return Table("The course of training", "cell", list(found.cells["cell"]), [label(name) for name in shown], rows, [note])


def _known(found: Analysis, quantity: str) -> bool:
    return bool(found.summaries.filter((pl.col("quantity") == quantity) & pl.col("mean").is_not_null()).height)


def costs(found: Analysis) -> Table | None:
    """What each cell costs, counted on the network before any training."""
    if not found.costs.height:
        return None
    rows = [[f"{row[name]:,}" for name in COSTS] for row in found.costs.iter_rows(named=True)]
    return Table("Static cost of every cell, for one image", "cell", list(found.costs["cell"]), [label(name) for name in COSTS], rows)


def contrasts(found: Analysis) -> Table | None:
    """The primary family of contrasts."""
    if not found.contrasts["n"].sum():
        return None
    tests = count(found.contrasts["t_p"].count(), "contrast")
    explained = (
        f"p: paired t test, exact: sign-flip test over all 2^n signs, both Holm-adjusted over {tests}. "
        "Need: seeds that would decide at the effect seen, 4 times in 5."
    )
    notes = [explained]
    if found.contrasts.filter((pl.col("verdict") != "inconclusive") & pl.col("rests_on_normality")).height:
        notes.append(NORMALITY)
    title = f"Contrasts in {label(found.quantity)}, paired by seed"
    return _tested(title, "cell - the one against", found.contrasts, lambda row: f"{row['cell']}\n- {row['against']}", notes)


def secondary(found: Analysis) -> Table | None:
    """The same pairs on other quantities."""
    if not found.secondary["n"].sum():
        return None
    tests = count(found.secondary["t_p"].count(), "contrast")
    notes = [f"A family of its own: both p are Holm-adjusted over its {tests}."]
    known = found.secondary.filter(pl.col("n") > 0)
    return _tested(
        "Contrasts in other quantities, paired by seed",
        "cell - the one against",
        known,
        lambda row: f"{row['cell']}\n- {row['against']}\nin {label(row['quantity'])}",
        notes,
    )


def effects(found: Analysis) -> Table | None:
    """Main effects and interactions of the factors."""
    if len(found.design.varied) < 2 or not found.effects["n"].sum():
        return None

    def name(row: Mapping[str, Any]) -> str:
        return str(row["effect"]) + ("" if row["kind"] == "main" else ", beyond the sum of both")

    return _tested(f"Effects on {label(found.quantity)}, paired by seed", "effect", found.effects, name)


def _tested(title: str, first: str, tested: pl.DataFrame, name: Callable[[Mapping[str, Any]], str], notes: Sequence[str] = ()) -> Table:
    headings = ("mean", "95 % interval", "p", "exact", "n", "need", "verdict")
    names, rows = [], []
    for row in tested.iter_rows(named=True):
        names.append(name(row))
        rows.append(
            (
                NONE if row["mean"] is None else f"{row['mean']:+.4g}",
                NONE if row["low"] is None else f"[{row['low']:.3g}, {row['high']:.3g}]",
                p_value(row["t_p_holm"]),
                p_value(row["exact_p_holm"]),
                str(row["n"]),
                NONE if row["seeds_needed"] is None or row["verdict"] != "inconclusive" else str(row["seeds_needed"]),
                row["verdict"],
            )
        )
    return Table(title, first, names, headings, rows, notes)


def responses(found: Analysis) -> Table | None:
    """Every search trial: its learning rate and what it came to."""
    if not found.responses.height:
        return None
    ordered = found.responses.sort(pl.col("cell").cast(pl.Enum(list(found.design.cells))), "lr", "number")
    names, rows = [], []
    for row in ordered.iter_rows(named=True):
        outcome = "diverged" if row["diverged"] else NONE if row["objective"] is None else f"{row['objective']:.4g}"
        names.append(row["cell"])
        rows.append((str(row["number"]), NONE if row["lr"] is None else f"{row['lr']:.4g}", outcome, "winner" if row["winner"] else ""))
    return Table("Every search trial", "cell", names, ("number", "lr", label(found.design.objective), "chosen"), rows)
