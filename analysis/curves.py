"""From epochs to trials: what each trial's curves come to. Frame to frame; the order of the rows never matters."""

import polars as pl

from tune_ablation.records import FIXED_COLUMNS, METRICS

GAPS: dict[str, tuple[str, str]] = {
    "gap_acc1": ("train_eval_acc1", "test_acc1"),
    "gap_loss": ("test_loss", "train_eval_loss"),
}
"""Each overfitting gap, the first column less the second: both taken in eval mode, on equally many images."""

TARGET_SHARE = 0.9
"""The share of an accuracy that convergence speed is measured to."""

_ROUNDING = 1e-9
"""Percentage points by which a target may be missed: 0.9 times a mean is not exact in floating point."""


def factors(frame: pl.DataFrame) -> list[str]:
    """The factor columns of a frame of epochs or trials, in its order."""
    return [name for name in frame.columns if name not in FIXED_COLUMNS and name not in {"finished", *GAPS}]


def trials(epochs: pl.DataFrame) -> pl.DataFrame:
    """One row per trial: its last record, plus ``finished`` and the gaps of ``GAPS``.

    ``epoch`` is how far it got; the metrics are those of that epoch, so filter on ``finished`` before summing up. A
    diverged trial's metrics are null, whatever was still measured in its last epoch.
    """
    last = epochs.sort("trial", "epoch").group_by("trial", maintain_order=True).last().select(epochs.columns)
    return last.with_columns(
        (pl.col("diverged") | (pl.col("epoch") >= pl.col("epochs"))).alias("finished"),
        *(pl.when(~pl.col("diverged")).then(name).alias(name) for name in METRICS),
    ).with_columns((pl.col(first) - pl.col(second)).alias(name) for name, (first, second) in GAPS.items())


def first_epoch_at(epochs: pl.DataFrame, metric: str, target: float | pl.Expr) -> pl.DataFrame:
    """For every trial the first epoch whose metric is as good as the target.

    Args:
        epochs: one row per trial and epoch.
        metric: a name of ``METRICS``; its direction says what "as good" is.
        target: a value, or an expression over the epochs for a target of each trial's own.

    Returns:
        ``trial`` and ``first_epoch``, which is null where the target was not reached in the epochs recorded (censored).
    """
    sign = 1 if METRICS[metric] else -1
    wanted = target if isinstance(target, pl.Expr) else pl.lit(target, pl.Float64)
    reached = sign * (pl.col(metric) - wanted) >= -_ROUNDING
    return (
        epochs.with_columns(reached.fill_null(value=False).alias("_reached"))
        .group_by("trial")
        .agg(pl.col("epoch").filter(pl.col("_reached")).min().alias("first_epoch"))
        .sort("trial")
    )
