"""Thousands of simulated experiments with known true differences: intervals cover, and false verdicts are as rare as promised."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from analysis import compare, statistics

EXPERIMENTS = 2000
PAIRS = (("maxpool", "origin"), ("dropout", "origin"), ("maxpool50", "origin50"), ("dropout50", "origin50"))
BETTER = {"test_acc1_final": True}


def simulated(n: int, truth: dict[str, float], seed: int, experiments: int = EXPERIMENTS) -> pl.DataFrame:
    """Contrasts of simulated experiments, each a family: cells share a seed's luck and have noise of their own."""
    draw = np.random.default_rng(seed)
    luck = draw.normal(0, 1.0, (experiments, n))
    cells = sorted({name for pair in PAIRS for name in pair})
    values = {cell: 30 + truth.get(cell, 0.0) + luck + draw.normal(0, 0.7, (experiments, n)) for cell in cells}
    experiment = np.repeat(np.arange(experiments), n)
    frames = [
        pl.DataFrame({"experiment": experiment, "value": values[cell].ravel(), "reference": values[against].ravel()}).with_columns(
            pl.lit(cell).alias("cell"), pl.lit("test_acc1_final").alias("quantity")
        )
        for cell, against in PAIRS
    ]
    tested = statistics.paired(pl.concat(frames), ["experiment", "cell", "quantity"])
    return compare.judge(tested, BETTER, ["experiment"])


@pytest.mark.parametrize("n", [5, 8, 12])
def test_intervals_cover_the_true_difference(n: int) -> None:
    truth = {"maxpool": -0.5, "dropout": -1.0, "dropout50": 0.3}
    found = simulated(n, truth, seed=n)
    true = pl.col("cell").replace_strict({cell: truth.get(cell, 0.0) for cell, _ in PAIRS}, return_dtype=pl.Float64)
    covered = found.group_by("cell").agg(((pl.col("low") <= true) & (true <= pl.col("high"))).mean().alias("share"))
    assert covered["share"].is_between(0.93, 0.97).all(), covered


def false_verdicts(n: int, experiments: int) -> float:
    """The share of families without any true difference in which something is called better or worse."""
    found = simulated(n, {}, seed=100 + n, experiments=experiments)
    share = found.group_by("experiment").agg((pl.col("verdict") != "inconclusive").any().alias("any"))["any"].mean()
    assert isinstance(share, float)
    return share


@pytest.mark.parametrize("n", [5, 8, 12])
def test_no_true_difference_gives_a_verdict_in_at_most_one_family_of_twenty(n: int) -> None:
    # The rate is just below what is allowed, by design, so that no power is given away: chance alone may put 2,000 families above it.
    standard_error = (0.05 * 0.95 / EXPERIMENTS) ** 0.5
    assert 0.02 < false_verdicts(n, EXPERIMENTS) <= 0.05 + 2 * standard_error


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 8, 12])
def test_no_true_difference_gives_a_verdict_in_at_most_one_family_of_twenty_over_many(n: int) -> None:
    assert 0.04 < false_verdicts(n, 50 * EXPERIMENTS) <= 0.05


@pytest.mark.parametrize("n", [5, 8, 12])
def test_a_verdict_is_never_the_wrong_way_round(n: int) -> None:
    found = simulated(n, {"maxpool": -0.5, "dropout": -1.0, "maxpool50": -0.5, "dropout50": -1.0}, seed=200 + n)
    assert found.filter(pl.col("verdict") == "better").height <= 0.005 * found.height
    worse = found.group_by("cell").agg((pl.col("verdict") == "worse").mean().alias("share"))
    assert worse.filter(pl.col("cell").str.starts_with("dropout"))["share"].min() > 0.1  # type: ignore[operator]  # a share


def test_seeds_needed_decide_as_often_as_planned() -> None:
    effect = 1.0
    n = statistics.seeds_needed(effect, tests=1)
    assert n is not None
    draw = np.random.default_rng(0)
    differences = draw.normal(effect, 1.0, (EXPERIMENTS, n)).ravel()
    frame = pl.DataFrame({"experiment": np.repeat(np.arange(EXPERIMENTS), n), "value": differences, "reference": 0.0})
    decided = (statistics.paired(frame, ["experiment"])["t_p"] <= statistics.ALPHA).mean()
    assert isinstance(decided, float)
    assert 0.78 < decided < 0.88  # n is a whole number: its power is the planned one or somewhat more
