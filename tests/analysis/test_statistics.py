"""The statistics against SciPy, statsmodels and plain enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]  # ships no type information
from statsmodels.stats.power import TTestPower  # type: ignore[import-untyped]  # ships no type information

from analysis import statistics

VALUES = st.floats(-100, 100, allow_nan=False).map(lambda value: round(value, 3))
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=9)
PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def paired(pairs: Sequence[tuple[float | None, float | None]]) -> dict[str, Any]:
    frame = pl.DataFrame(list(pairs), {"value": pl.Float64, "reference": pl.Float64}, orient="row").with_columns(pl.lit("g").alias("group"))
    (row,) = statistics.paired(frame, ["group"]).to_dicts()
    return row


def drawn(n: int, seed: int = 0) -> list[tuple[float, float]]:
    draw = np.random.default_rng(seed)
    return [(float(first), float(second)) for first, second in zip(draw.normal(31, 1, n), draw.normal(30, 1, n), strict=True)]


@pytest.mark.parametrize("n", [2, 3, 5, 8, 30])
def test_an_interval_is_scipys(n: int) -> None:
    values = [first for first, _ in drawn(n)]
    (row,) = statistics.summarise(pl.DataFrame({"cell": "a", "value": [*values, None]}), ["cell"]).to_dicts()
    low, high = stats.t.interval(0.95, n - 1, loc=np.mean(values), scale=stats.sem(values))
    assert (row["n"], row["mean"], row["sd"]) == (n, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("n", [2, 3, 5, 8, 30])
def test_a_paired_test_is_scipys(n: int) -> None:
    pairs = drawn(n)
    expected = stats.ttest_rel(*zip(*pairs, strict=True))
    row = paired(pairs)
    assert row["t_p"] == pytest.approx(expected.pvalue)
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert row["standardised"] == pytest.approx(row["mean"] / row["sd"])


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("coarse", [False, True])
def test_the_sign_flip_test_counts_every_assignment(n: int, coarse: bool) -> None:
    differences = np.array([first - second for first, second in drawn(n, seed=n)])
    if coarse:
        differences = differences.round(0)  # ties, and sums that equal the one seen
    sums = np.array([np.dot(signs, differences) for signs in itertools.product((-1, 1), repeat=n)])
    expected = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
    assert statistics.sign_flip_p(differences) == pytest.approx(float(expected))


@pytest.mark.parametrize("n", [3, 8, 12])
def test_the_sign_flip_test_is_scipys(n: int) -> None:
    differences = np.array([first - second for first, second in drawn(n, seed=7)])
    expected = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert statistics.sign_flip_p(differences) == pytest.approx(expected.pvalue)


def test_the_sign_flip_test_is_exact_for_40_pairs_and_declines_more() -> None:
    assert statistics.sign_flip_p(np.ones(40)) == pytest.approx(2 / 2**40)
    assert statistics.sign_flip_p(np.ones(41)) is None
    assert statistics.sign_flip_p(np.zeros(0)) is None


@pytest.mark.parametrize(("n", "least"), [(3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_the_least_exact_p_of_few_seeds(n: int, least: float) -> None:
    assert paired([(1.0 + seed, 0.0) for seed in range(n)])["exact_p"] == pytest.approx(least)


def test_the_exact_test_needs_8_seeds_for_5_contrasts_and_10_for_15() -> None:
    assert [statistics.exact_can_decide(n, 5) for n in (7, 8)] == [False, True]
    assert [statistics.exact_can_decide(n, 15) for n in (9, 10)] == [False, True]


def test_no_difference_is_no_evidence_and_constant_differences_are_no_certainty() -> None:
    same = paired([(30.1, 30.1), (31.2, 31.2), (29.3, 29.3)])
    assert (same["mean"], same["t_p"], same["exact_p"], same["standardised"]) == (0.0, 1.0, 1.0, None)
    constant = paired([(30.1, 30.0), (31.2, 31.1), (29.3, 29.2)])  # 0.1 each, but for rounding
    assert (constant["t_p"], constant["standardised"], constant["exact_p"]) == (None, None, 0.25)
    alone = paired([(30.0, 29.0)])
    assert (alone["n"], alone["sd"], alone["low"], alone["t_p"]) == (1, None, None, None)
    assert paired([(30.0, 29.0), (None, 1.0), (31.0, None)])["n"] == 1


@settings(deadline=None)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(pairs: list[tuple[float, float]], shuffler: Any) -> None:
    shuffled = pairs.copy()
    shuffler.shuffle(shuffled)
    assert paired(shuffled) == paired(pairs)


@settings(deadline=None)
@given(PAIRS, st.sampled_from([-1000.0, -3.0, 0.25, 50.0]))
def test_shifting_a_metric_shifts_no_p(pairs: list[tuple[float, float]], shift: float) -> None:
    before, after = paired(pairs), paired([(first + shift, second + shift) for first, second in pairs])
    for name in ("t_p", "exact_p"):
        assert after[name] == pytest.approx(before[name], abs=1e-6)


@settings(deadline=None)
@given(PAIRS)
def test_exchanging_the_cells_turns_the_sign_and_nothing_else(pairs: list[tuple[float, float]]) -> None:
    before, after = paired(pairs), paired([(second, first) for first, second in pairs])
    assert (after["t_p"], after["exact_p"]) == pytest.approx((before["t_p"], before["exact_p"]))
    assert after["mean"] == pytest.approx(-before["mean"])


@settings(deadline=None, max_examples=8)  # statsmodels takes a tenth of a second
@given(PROBABILITIES)
def test_holm_is_statsmodels(p: list[float]) -> None:
    found = statistics.holm(pl.DataFrame({"p": p}), "p")["p_holm"].to_list()
    assert found == pytest.approx(multipletests(p, method="holm")[1])


@settings(deadline=None, max_examples=8)
@given(PROBABILITIES, PROBABILITIES)
def test_holm_adjusts_each_family_alone_and_leaves_nulls_out(first: list[float], second: list[float]) -> None:
    frame = pl.DataFrame({"family": ["a"] * len(first) + ["b"] * (len(second) + 1), "p": [*first, *second, None]})
    found = statistics.holm(frame, "p", ["family"])["p_holm"].to_list()
    expected = [*multipletests(first, method="holm")[1], *multipletests(second, method="holm")[1]]
    assert found[:-1] == pytest.approx(expected)
    assert found[-1] is None


@settings(deadline=None)
@given(st.floats(0.15, 2), st.integers(1, 15))
def test_seeds_needed_are_statsmodels(effect: float, tests: int) -> None:
    needed = statistics.seeds_needed(effect, tests)
    assert needed is not None
    power = TTestPower()
    assert power.power(effect, needed, statistics.ALPHA / tests) >= statistics.POWER - 1e-3
    assert needed == 2 or power.power(effect, needed - 1, statistics.ALPHA / tests) < statistics.POWER + 1e-3


def test_no_number_of_seeds_decides_where_there_is_no_effect() -> None:
    assert [statistics.seeds_needed(effect, 4) for effect in (None, 0.0, 1e-6, float("nan"))] == [None] * 4
    assert statistics.seeds_needed(1e6, 4) == statistics.seeds_needed(-1e6, 4) == 2


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=12))
def test_a_censored_median_is_kaplan_meiers(trials: list[tuple[int, bool]]) -> None:
    durations, reached = [float(epoch) for epoch, _ in trials], [event for _, event in trials]
    found = statistics.kaplan_meier_median(durations, reached)
    if not any(reached):
        assert found is None
        return
    data = stats.CensoredData(
        uncensored=[epoch for epoch, event in zip(durations, reached, strict=True) if event],
        right=[epoch for epoch, event in zip(durations, reached, strict=True) if not event],
    )
    survival = stats.ecdf(data).sf
    below = [float(epoch) for epoch, share in zip(survival.quantiles, survival.probabilities, strict=True) if share <= 0.5 + 1e-9]
    assert found == (below[0] if below else None)


def test_what_is_not_finite_becomes_none_in_plain_rows() -> None:
    assert statistics.as_rows(pl.DataFrame({"a": [1.0, float("nan"), float("inf")]})) == [{"a": 1.0}, {"a": None}, {"a": None}]
