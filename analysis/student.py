"""Student's t distribution: tail, quantile, and the power of its test.

Written out because ``scipy.special`` takes longer to import than a whole report takes to compute; the tests hold it against SciPy.
"""

import functools
import math
from statistics import NormalDist

_ENOUGH = 1e-15
_TINY = 1e-300
_MOST_STEPS = 100_000

_FAR = 10.0
"""Standard deviations beyond which nothing of a normal or a chi distribution is left: less than 1e-22."""

_STEP = 0.05
"""Length of a step of the power integral, in standard deviations of the narrower of the two distributions in it."""


def tail(t: float, df: float) -> float:
    """The chance of a value above ``t`` (at least 0): half the regularised incomplete beta function at (df / 2, 1 / 2).

    Abramowitz & Stegun 26.5.27; the function by its continued fraction (26.5.8).
    """
    a, b = df / 2, 0.5
    x, rest = df / (df + t * t), t * t / (df + t * t)
    if not rest:
        return 0.5
    if not x:
        return 0.0
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) - a * math.log1p(t * t / df) + b * math.log(rest))
    if x < (a + 1) / (a + b + 2):
        return 0.5 * front * _fraction(a, b, x) / a
    return 0.5 * (1 - front * _fraction(b, a, rest) / b)


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, from its front by Lentz's method."""
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1))
    value = d
    for step in range(1, _MOST_STEPS):
        twice = a + 2 * step
        even = step * (b - step) * x / ((twice - 1) * twice)
        odd = -(a + step) * (a + b + step) * x / (twice * (twice + 1))
        for numerator in (even, odd):
            d = 1 / _off_zero(1 + numerator * d)
            c = _off_zero(1 + numerator / c)
            value *= c * d
        if abs(c * d - 1) < _ENOUGH:
            break
    return value


def _off_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


@functools.cache
def quantile(share: float, df: float) -> float:
    """The t that only ``share`` (below 1/2) of all values exceed."""
    t = NormalDist().inv_cdf(1 - share)
    for _ in range(100):  # Newton's method on logarithms, where the far tail is a straight line
        beyond = tail(t, df)
        change = math.log(beyond / share) * beyond / (t * _density(t, df))
        t *= math.exp(change)
        if abs(change) < _ENOUGH * 4:
            break
    return t


def _density(t: float, df: float) -> float:
    scale = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    return math.exp(scale - (df + 1) / 2 * math.log1p(t * t / df))


def power(critical: float, df: float, shift: float) -> float:
    """The chance that a noncentral t value with this shift is above ``critical`` (above 0).

    ``(z + shift) / s`` with ``z`` normal and ``s`` chi over the root of ``df`` (Johnson, Kotz & Balakrishnan 1995, chapter 31): the chance
    that ``z`` is above ``critical * s - shift``, summed over ``s`` by Simpson's rule.
    """
    spread = 1 / math.sqrt(2 * df)
    low, high = max(0.0, 1 - _FAR * 2 * spread), min(1 + _FAR * 2 * spread, (shift + _FAR) / critical)
    if high <= low:
        return 0.0
    steps = 2 * math.ceil((high - low) / (2 * _STEP * min(spread, 1 / critical)))
    scale = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)
    total = 0.0
    for step in range(steps + 1):
        s = low + (high - low) * step / steps
        weight = 1 if step in {0, steps} else 4 if step % 2 else 2
        above = math.erfc((critical * s - shift) / math.sqrt(2)) / 2
        total += weight * above * math.exp(scale + (df - 1) * math.log(max(s, _TINY)) - df * s * s / 2)
    return total * (high - low) / steps / 3
