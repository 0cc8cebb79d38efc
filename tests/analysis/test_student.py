"""Student's t distribution, held against SciPy's."""

from __future__ import annotations

import math

import pytest
from scipy import special

from analysis import student

FREEDOM = [1, 2, 3, 4, 7, 11, 29, 100, 1665, 9999, 1_000_000]


@pytest.mark.parametrize("df", FREEDOM)
def test_the_tail_is_scipys(df: int) -> None:
    for t in (0.0, 1e-200, 1e-9, 0.01, 0.3, 0.999, 1.0, 1.5, 2.0, 4.0, 12.0, 100.0, 1e4, 1e160):
        assert student.tail(t, df) == pytest.approx(special.stdtr(df, -t), rel=1e-8, abs=1e-300), t
    assert math.isnan(student.tail(math.nan, df))


@pytest.mark.parametrize("df", FREEDOM)
def test_the_quantile_is_scipys(df: int) -> None:
    for share in (0.4, 0.025, 0.005, 0.025 / 28, 1e-6, 1e-12):
        assert student.quantile(share, df) == pytest.approx(-special.stdtrit(df, share), rel=1e-9), share


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 11, 29, 100, 999])
@pytest.mark.parametrize("share", [0.025, 0.025 / 3, 0.025 / 28, 1e-6])
def test_the_power_is_scipys(df: int, share: float) -> None:
    critical = student.quantile(share, df)
    for shift in (0.001, 0.3, 1.0, 2.5, 4.0, 8.0, 20.0):
        assert student.power(critical, df, shift) == pytest.approx(1 - special.nctdtr(df, shift, critical), abs=1e-7), shift
