"""The statistics that everything else rests on: t intervals, paired tests over seeds, Holm's adjustment, seeds needed. Frame to frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis import student

if TYPE_CHECKING:
    import numpy as np  # loaded where signs are flipped, and not for reports of more seeds than that is done for
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LEVEL = 0.95
"""Coverage of every interval."""

ALPHA = 0.05
"""Chance of any false verdict in a family of tests."""

POWER = 0.8
"""Chance of a verdict that ``seeds_needed`` plans for."""

MOST_SEEDS = 1000
"""What ``seeds_needed`` looks no further than."""

MOST_FLIPPED = 40
"""Pairs up to which all sign flips are counted: 2**20 sums for each half of them fit in memory."""

_SAME = 1e-9
"""Differences that spread by less than this share of the values themselves do not spread: it is rounding."""


def interval(frame: pl.DataFrame) -> pl.DataFrame:
    """Add ``low`` and ``high``, the 95 % t interval of a mean, to a frame with ``n``, ``mean`` and ``sd``.

    ``mean -+ t(0.975, n - 1) * sd / sqrt(n)`` (Student 1908), as ``scipy.stats.t.interval``; null where n is below 2.
    """
    widths = {n: student.quantile((1 - LEVEL) / 2, max(n - 1, 1)) / math.sqrt(max(n, 1)) for n in frame["n"].unique()}
    half = frame["n"].replace_strict(widths, return_dtype=pl.Float64) * frame["sd"]
    return frame.with_columns((frame["mean"] - half).alias("low"), (frame["mean"] + half).alias("high"))


def summarise(values: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Mean and spread of ``value`` by group: ``n``, ``mean``, ``sd`` (n - 1 in the denominator), ``low``, ``high`` (95 % t interval).

    Nulls do not count; ``sd`` and the interval are null for fewer than two values. Groups come in the order of the keys.
    """
    value = pl.col("value").list
    groups = values.group_by(*by).agg(pl.col("value").drop_nulls().sort())  # sums then do not depend on the order of rows
    found = groups.select(*by, value.len().cast(pl.Int64).alias("n"), value.mean().alias("mean"), value.std(ddof=1).alias("sd"))
    return interval(found.sort(*by))


def paired(pairs: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Paired tests by group.

    Args:
        pairs: one row per group and seed, with the two values of that seed: ``value`` and ``reference``.
        by: the columns that make a group.

    Returns:
        A row per group: ``n`` (pairs with both values), ``mean`` and ``sd`` of ``value - reference``, ``low`` and ``high`` (95 % paired
        t interval), ``t_p`` (two-sided paired t test), ``exact_p`` (two-sided exact sign-flip test, see ``sign_flip_p``),
        ``standardised`` (mean over sd of the differences, Cohen's d_z). ``t_p`` and ``standardised`` are null where n is below 2, or where
        differences do not spread at all yet are not 0: that is no sign of certainty, it is too little data or too coarse a metric. If all
        are 0, ``t_p`` is 1.
    """
    value, reference = pl.col("value"), pl.col("reference")
    groups = (
        pairs.sort(value - reference, value)  # sums then do not depend on the order of rows, to the last bit
        .group_by(*by)
        .agg(
            *(expression.alias(name) for name, expression in differences(value, reference).items()),
            (value - reference).drop_nulls().alias("differences"),
        )
        .filter(pl.col("n") > 0)
        .sort(*by)
    )
    exact = [sign_flip_p(values) for values in groups["differences"]]
    return tested(groups.with_columns(pl.Series("exact_p", exact, pl.Float64))).select(
        *by, "n", "mean", "sd", "low", "high", "t_p", "exact_p", "standardised"
    )


def differences(value: pl.Expr, reference: pl.Expr) -> dict[str, pl.Expr]:
    """What a group's differences come to: ``n``, ``mean``, ``sd``, and ``scale``, the largest value that they are differences of."""
    difference = (value - reference).drop_nulls()
    return {
        "n": difference.len().cast(pl.Int64),
        "mean": difference.mean(),
        "sd": difference.std(ddof=1),
        "scale": pl.max_horizontal(value.abs().max(), reference.abs().max()),
    }


def tested(groups: pl.DataFrame) -> pl.DataFrame:
    """Add ``low``, ``high``, ``t_p`` and ``standardised`` (see ``paired``) to groups with ``n``, ``mean``, ``sd`` and ``scale``."""
    nothing = pl.col("scale") * _SAME
    groups = groups.with_columns(
        pl.when(pl.col("mean").abs() <= nothing).then(0.0).otherwise("mean").alias("mean"),
        pl.when(pl.col("sd") <= nothing).then(0.0).otherwise("sd").alias("sd"),
    ).with_columns(pl.when(pl.col("sd") > 0).then(pl.col("mean") / pl.col("sd")).alias("standardised"))
    p = [
        None if effect is None else 2 * student.tail(abs(effect) * math.sqrt(n), n - 1)
        for n, effect in groups.select("n", "standardised").iter_rows()
    ]
    even = (pl.col("n") >= 2) & (pl.col("sd") == 0) & (pl.col("mean") == 0)
    return interval(
        groups.with_columns(pl.Series("t_p", p, pl.Float64)).with_columns(pl.when(even).then(1.0).otherwise("t_p").alias("t_p"))
    )


def sign_flip_p(differences: Floats | Sequence[float] | pl.Series) -> float | None:
    """The exact two-sided paired sign-flip (Fisher's randomisation) test of a mean of 0.

    The share of all 2**n assignments of signs whose sum is at least as far from 0 as the one seen (Fisher 1935; Ernst 2004,
    "Permutation methods"). All are counted, in two halves whose sums are sorted and matched. None for no pair, or more than
    ``MOST_FLIPPED``.
    """
    n = len(differences)
    if not 0 < n <= MOST_FLIPPED:
        return None
    import numpy as np

    values = np.asarray(differences, dtype=np.float64)
    sizes = np.abs(values)
    bound = abs(float(values.sum())) - _SAME * float(sizes.sum())
    if bound <= 0:
        return 1.0
    first, second = _signed_sums(sizes[: n // 2]), _signed_sums(sizes[n // 2 :])
    as_far = len(second) - np.searchsorted(second, bound - first, side="left")
    return min(1.0, int(as_far.sum()) * 2.0 ** (1 - n))  # as many lie as far on the other side


def _signed_sums(sizes: Floats) -> Floats:
    """All of them in ascending order: numbers searched for in their order are found several times as fast."""
    import numpy as np

    sums = np.zeros(1)
    for size in sizes:
        sums = np.sort(np.concatenate([sums - size, sums + size]), kind="stable")  # which merges two sorted halves
    return sums


def holm(frame: pl.DataFrame, p: str, family: Sequence[str] = ()) -> pl.DataFrame:
    """Add ``<p>_holm``: p values adjusted by Holm's step-down method over each family (Holm 1979).

    The i-th smallest of m is multiplied by m - i + 1, cut at 1, and never below the one before it. Nulls stay null and do not count.
    """
    rank = pl.col(p).rank("ordinal")
    stepped = pl.min_horizontal(pl.lit(1.0), pl.col(p) * (pl.col(p).count() - rank + 1))
    adjusted = stepped.sort_by(p, nulls_last=True).cum_max().gather(pl.int_range(pl.len()).sort_by(p, nulls_last=True).arg_sort())
    column = pl.when(pl.col(p).is_not_null()).then(adjusted.over(*family) if family else adjusted)
    return frame.with_columns(column.alias(f"{p}_holm"))


def seeds_needed(effect: float | None, tests: int) -> int | None:
    """The fewest seeds with which a paired t test would decide, if the effect is as large as seen.

    Args:
        effect: mean over standard deviation of the paired differences.
        tests: how many tests the family holds; the test is at ``ALPHA / tests``, Holm's first and hardest step.

    Returns:
        The smallest n with a power of ``POWER`` in the noncentral t distribution (Cohen 1988; for seeds: Colas et al. 2018, arXiv
        1806.08295); None where there is no effect to plan with, or where more than ``MOST_SEEDS`` would be needed.
    """
    if effect is None or not math.isfinite(effect) or effect == 0 or _power(abs(effect), MOST_SEEDS, tests) < POWER:
        return None
    low, high = 1, MOST_SEEDS  # power grows with n: low falls short (of one seed nothing is known), high suffices
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(abs(effect), middle, tests) >= POWER else (middle, high)
    return high


def _power(effect: float, n: int, tests: int) -> float:
    critical = student.quantile(ALPHA / max(tests, 1) / 2, n - 1)
    shift = effect * math.sqrt(n)
    if shift - critical > 30:
        return 1.0  # the noncentral t is not needed there, nor computed well
    return student.power(critical, n - 1, shift)


def exact_can_decide(n: int, tests: int) -> bool:
    """Whether the exact test could ever decide the first step of a family: its least p is 2 / 2**n, times the number of tests."""
    return tests * 2.0 ** (1 - n) <= ALPHA


def kaplan_meier_median(durations: Sequence[float], reached: Sequence[bool]) -> float | None:
    """The epoch by which at least half have reached a target, by the Kaplan-Meier estimate (Kaplan & Meier 1958).

    Args:
        durations: for each trial the epoch at which it reached the target, or the last at which it is known not to have.
        reached: which of the two.

    Returns:
        The first epoch at which the estimated share that has not reached it is 1/2 or less; None where it never gets there.
    """
    share = 1.0
    for epoch in sorted({duration for duration, event in zip(durations, reached, strict=True) if event}):
        at_risk = sum(duration >= epoch for duration in durations)
        events = sum(event and duration == epoch for duration, event in zip(durations, reached, strict=True))
        share *= 1 - events / at_risk
        if share <= 0.5 + _SAME:
            return epoch
    return None


def as_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """A frame as plain data; what is not finite becomes None, for JSON has no word for it."""
    return [
        {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
        for row in frame.iter_rows(named=True)
    ]
