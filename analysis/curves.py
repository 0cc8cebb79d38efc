"""From epochs to trials: what each trial's curves come to. Frame to frame; the order of the rows never matters."""

from bisect import bisect_right

import polars as pl

from analysis.design import Design
from tune_ablation.records import DERIVED_METRICS

GAPS: dict[str, tuple[str, str]] = {
    "gap_acc1": ("train_eval_acc1", "test_acc1"),
    "gap_loss": ("test_loss", "train_eval_loss"),
}
"""Each overfitting gap, the first column less the second: both taken in eval mode, on equally many images."""

TARGET_SHARE = 0.9
"""The share of an accuracy that convergence speed is measured to."""

AREAS = {"train_loss_area": "train_loss", "train_eval_loss_area": "train_eval_loss"}
"""Areas under a curve over epochs, and the curve."""

TARGETS = ("target", "own_target")
"""What speed is measured to: the target common to all cells, and 90 % of the trial's own best."""

PACES = ("epochs", "seconds", "images")
"""What speed is measured in."""

_ROUNDING = 1e-9
"""Percentage points by which a target may be missed: 0.9 times a mean is not exact in floating point."""


def gaps(design: Design) -> dict[str, tuple[str, str]]:
    """The gaps whose two metrics the design has."""
    return {name: pair for name, pair in GAPS.items() if all(metric in design.metrics for metric in pair)}


def curve_names(design: Design) -> dict[str, bool]:
    """Everything that has a value at every epoch, and whether higher is better: the metrics and the gaps."""
    return {**design.metrics, **{name: DERIVED_METRICS[name] for name in gaps(design)}}


def quantities(design: Design) -> dict[str, bool]:
    """Every per-trial quantity of ``trials`` and ``convergence`` that is summed up over seeds, and whether higher is better.

    ``<metric>_final``, ``_best``, ``_mean`` of each metric and gap and ``_largest`` of each gap; ``turning_epoch``, ``loss_rise``,
    ``best_epoch``, ``acc1_drop``; ``<pace>_to_<target>``, restricted as ``convergence`` says; the areas of ``AREAS``.
    """
    found = {f"{name}_{at}": higher for name, higher in curve_names(design).items() for at in ("final", "best", "mean")}
    found |= {f"{name}_largest": False for name in gaps(design)}
    found |= {"turning_epoch": False, "loss_rise": False} if design.loss else {}
    found |= {"best_epoch": False, "acc1_drop": False}
    found |= {f"{pace}_to_{target}": False for target in TARGETS for pace in PACES}
    return found | {name: False for name, curve in AREAS.items() if curve in design.metrics}


def quantity(metric: str, at: str) -> str:
    """The column of a claim's metric: ``test_acc1`` at ``best`` is ``test_acc1_best``; what has one value only is itself."""
    return metric if metric in DERIVED_METRICS and metric not in GAPS else f"{metric}_{at}"


def with_gaps(epochs: pl.DataFrame, design: Design) -> pl.DataFrame:
    """The epochs with a column for each gap: ``gap_acc1 = train_eval_acc1 - test_acc1``, ``gap_loss = test_loss - train_eval_loss``."""
    return epochs.with_columns((pl.col(first) - pl.col(second)).alias(name) for name, (first, second) in gaps(design).items())


def trials(epochs: pl.DataFrame, design: Design) -> pl.DataFrame:
    """One row per trial.

    Args:
        epochs: one row per trial and epoch.
        design: names the metrics.

    Returns:
        The columns of the trial's last record but the metrics (``epoch`` is how far it got), ``finished``, and null for a diverged
        trial, whatever was measured before:

        - ``<metric>_final``, ``_best``, ``_mean``: last value, best value, mean over epochs, of each metric and of each gap (for a
          gap best means smallest; ``_largest`` is its largest);
        - ``turning_epoch``: the first epoch at which the loss is at its minimum; ``loss_rise``: final less minimum;
        - ``best_epoch``: the first epoch at which the primary metric is at its best; ``acc1_drop``: how much worse its last value is;
        - ``train_loss_area``, ``train_eval_loss_area``: area under the curve over epochs by the trapezoidal rule, in nats x epochs.
    """
    curves = curve_names(design)
    constant = [name for name in epochs.columns if name not in design.metrics]
    best = {name: pl.col(name).max() if higher else pl.col(name).min() for name, higher in curves.items()}
    final = {name: pl.col(name).drop_nulls().last() for name in curves}
    sign = 1 if design.metrics[design.primary] else -1
    measured = {
        **{f"{name}_final": final[name] for name in curves},
        **{f"{name}_best": best[name] for name in curves},
        **{f"{name}_mean": pl.col(name).mean() for name in curves},
        **{f"{name}_largest": pl.col(name).max() for name in gaps(design)},
        "best_epoch": _epoch_of(design.primary, best[design.primary]),
        "acc1_drop": sign * (best[design.primary] - final[design.primary]),
        **{name: _area(curve) for name, curve in AREAS.items() if curve in design.metrics},
    }
    if design.loss:
        measured["turning_epoch"] = _epoch_of(design.loss, pl.col(design.loss).min())
        measured["loss_rise"] = final[design.loss] - pl.col(design.loss).min()
    last = {name: pl.col(name).last() for name in constant if name != "trial"}
    grouped = with_gaps(epochs, design).sort("trial", "epoch").group_by("trial", maintain_order=True)
    return (
        grouped.agg(expression.alias(name) for name, expression in (last | measured).items())
        .select(*constant, *measured)
        .with_columns(
            (pl.col("diverged") | (pl.col("epoch") >= pl.col("epochs"))).alias("finished"),
            *(pl.when(~pl.col("diverged")).then(name).alias(name) for name in measured),
        )
    )


def _epoch_of(metric: str, value: pl.Expr) -> pl.Expr:
    return pl.col("epoch").filter(pl.col(metric) == value).first()


def _area(curve: str) -> pl.Expr:
    height, epoch = pl.col(curve), pl.col("epoch")
    return ((height + height.shift(1)) / 2 * (epoch - epoch.shift(1))).sum()


def target_value(mean: float, *, higher_is_better: bool) -> float:
    """What counts as having got there: 90 % of an accuracy, or a loss at most 1 / 90 % of it."""
    return mean * TARGET_SHARE if higher_is_better else mean / TARGET_SHARE


def convergence(epochs: pl.DataFrame, design: Design, target: float | None, train_images: int | None) -> pl.DataFrame:
    """How long each trial took to the common target and to 90 % of its own best, of the primary metric.

    Args:
        epochs: one row per trial and epoch.
        design: names the primary metric.
        target: the common target; None while there is none.
        train_images: images trained on in an epoch; None where that is not known.

    Returns:
        ``trial`` and for each target ``reached_<target>``, and ``<pace>_to_<target>`` in epochs, seconds (``epoch_seconds`` summed up)
        and images. Right-censored where not reached: then ``reached`` is false and the pace is all that the trial was trained for, so
        its mean is the *restricted* mean time (Royston & Parmar 2013), a lower bound. A diverged trial never reaches anything: it
        counts with all the epochs it should have been trained for. Null where there is no target or no such measure.
    """
    higher = design.metrics[design.primary]
    value, sign = pl.col(design.primary), 1 if higher else -1
    best = (value.max() if higher else value.min()).over("trial")
    levels = (pl.lit(target, pl.Float64), target_value(1.0, higher_is_better=higher) * best)
    paces = {
        "epochs": pl.col("epoch").cast(pl.Float64),
        "seconds": pl.col("epoch_seconds").cum_sum().over("trial"),
        "images": pl.col("epoch").cast(pl.Float64) * (train_images or 0),
    }
    rows = epochs.sort("trial", "epoch").select(
        *("trial", "diverged", "epochs", "epoch"),
        *(
            (sign * (value - level) >= -_ROUNDING).fill_null(value=False).alias(f"reached_{name}")
            for name, level in zip(TARGETS, levels, strict=True)
        ),
        *(pace.alias(f"so_many_{unit}") for unit, pace in paces.items()),
    )
    found: list[pl.Expr] = []
    for name in TARGETS:
        reached = pl.col(f"reached_{name}")
        found.append(reached.any())
        for unit in PACES:
            pace = pl.col(f"so_many_{unit}")
            found.append(pl.when(reached.any()).then(pace.filter(reached).first()).otherwise(pace.last()).alias(f"{unit}_to_{name}"))
    result = rows.group_by("trial", maintain_order=True).agg(
        *found, pl.col("diverged").last(), pl.col("epochs").last(), pl.col("epoch").last()
    )
    stretched = pl.col("epochs") / pl.col("epoch")  # a diverged trial's time, had it gone on to its last epoch
    for name in TARGETS:
        lost = pl.col("diverged") & ~pl.col(f"reached_{name}")
        result = result.with_columns(
            pl.when(lost).then(pl.col(f"{unit}_to_{name}") * stretched).otherwise(f"{unit}_to_{name}").alias(f"{unit}_to_{name}")
            for unit in PACES
        )
    nothing = [f"images_to_{name}" for name in TARGETS] if train_images is None else []
    nothing += [f"{what}_target" for what in ("reached", *(f"{unit}_to" for unit in PACES))] if target is None else []
    return result.drop("diverged", "epochs", "epoch").with_columns(
        pl.lit(None, result.schema[name]).alias(name) for name in dict.fromkeys(nothing)
    )


def by_epoch(epochs: pl.DataFrame, design: Design) -> pl.DataFrame:
    """The curves of confirm trials that did not diverge, long: ``cell``, ``trial``, ``seed``, ``epoch``, ``metric``, ``value``.

    In the order of the epochs given, metric by metric: sorting so many rows would take longer than all that is done with them.
    """
    confirm = with_gaps(epochs, design).filter((pl.col("stage") == "confirm") & ~pl.col("diverged").any().over("trial"))
    return confirm.unpivot(
        list(curve_names(design)), index=["cell", "trial", "seed", "epoch"], variable_name="metric", value_name="value"
    ).filter(pl.col("value").is_not_null())


def reached_by(trials: pl.DataFrame, design: Design) -> pl.DataFrame:
    """The share of finished confirm trials that had reached the common target by each epoch: ``cell``, ``epoch``, ``share``, ``of``."""
    confirm = trials.filter((pl.col("stage") == "confirm") & pl.col("finished") & pl.col("reached_target").is_not_null())
    rows: list[tuple[str, int, float, int]] = []
    for cell in design.cells:
        of_cell = confirm.filter(pl.col("cell") == cell)
        firsts, of = of_cell.filter("reached_target")["epochs_to_target"].sort().to_list(), of_cell.height
        longest = max(of_cell["epochs"].to_list(), default=-1)
        rows += [(cell, epoch, bisect_right(firsts, epoch) / of, of) for epoch in range(longest + 1)]
    return pl.DataFrame(rows, {"cell": pl.String, "epoch": pl.Int64, "share": pl.Float64, "of": pl.Int64}, orient="row")
