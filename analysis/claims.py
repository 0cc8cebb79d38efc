"""What the results say of each claim of the experiment file: supported, refuted or inconclusive, with the figures behind it.

Every kind of claim comes down to conditions that must all hold, each a paired (or one-sample) t test over confirm seeds of a margin that
is above zero where the condition holds. A claim is *supported* where every condition is clear (intersection-union test: the largest p
counts), and *refuted* where any is clearly violated (the smallest p, times the number of conditions). The smaller of the two is the
claim's p; it is Holm-adjusted over all claims of the experiment, and rules at 5 %.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis import compare, statistics
from analysis.curves import curve_names, quantities, quantity
from analysis.design import Design
from analysis.statistics import ALPHA
from analysis.words import label

if TYPE_CHECKING:  # read for its types alone: a folder that is not ours is read without loading pydantic
    from tune_ablation.claims import Agree, Bound, Claim, Cost, Crossover, Equivalent, Near, Order, Turns

VERDICTS = ("supported", "refuted", "inconclusive")
SUPPORTED, REFUTED, INCONCLUSIVE = VERDICTS

EARLY_SHARE = 1 / 3
"""The first epochs of a crossover claim: this share of all, rounded up."""


@dataclass(frozen=True)
class Figure:
    """A number that a ruling rests on.

    Attributes:
        what: whose and of what, in words.
        n: over how many seeds; None for a static figure.
        mean: the estimate.
        low: lower end of its 95 % t interval; None for fewer than two seeds.
        high: its upper end.
    """

    what: str
    n: int | None
    mean: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.mean is None:
            return f"{self.what}: no figure yet"
        band = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.what}: {self.mean:,.0f}" if self.n is None else f"{self.what}: {self.mean:.4g}{band}"


@dataclass(frozen=True)
class Ruling:
    """What became of a claim.

    Attributes:
        text: the claim, as the experiment file has it.
        kind: one of ``tune_ablation.claims.KINDS``.
        verdict: one of ``VERDICTS``.
        because: the figure that decided it, or what is lacking, in words.
        p: p value of the verdict's side before adjustment; None where the claim is no matter of chance, or has no data.
        p_holm: the same, Holm-adjusted over all claims of the experiment.
        figures: every number behind it.
    """

    text: str
    kind: str
    verdict: str
    because: str
    p: float | None
    p_holm: float | None
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class _Condition:
    """Part of a claim: what it looks at, whether the mean is on the claimed side, and the two-sided p of a margin of 0."""

    figure: Figure
    holds: bool
    p: float | None


@dataclass(frozen=True)
class _Evidence:
    """The two sides of a claim. ``certain`` is a verdict that no chance enters into."""

    figures: tuple[Figure, ...]
    p_support: float = 1.0
    p_refute: float = 1.0
    support: str = ""
    refute: str = ""
    certain: str | None = None


@dataclass(frozen=True)
class Material:
    """What rulings are made from.

    Attributes:
        design: the cells.
        trials: from ``curves.trials`` joined with ``curves.convergence``.
        curves: from ``curves.by_epoch``, finished trials only.
        costs: static figures by cell and name.
    """

    design: Design
    trials: pl.DataFrame
    curves: pl.DataFrame
    costs: Mapping[str, Mapping[str, float]]


def rule(material: Material) -> tuple[Ruling, ...]:
    """Rule on every claim of the design, in its order."""
    claims = material.design.claims
    evidence = [None if claim.kind == "all_above" else _evidence(claim, material) for claim in claims]
    p = [None if one is None or one.certain else min(one.p_support, one.p_refute) for one in evidence]
    adjusted = statistics.holm(pl.DataFrame({"p": p}, {"p": pl.Float64}), "p")["p_holm"].to_list()
    rulings: list[Ruling] = []
    for claim, one, p_holm in zip(claims, evidence, adjusted, strict=True):
        rulings.append(_all_above(claim, rulings) if one is None else _ruling(claim, one, p_holm))
    return tuple(rulings)


def _ruling(claim: Claim, evidence: _Evidence, p_holm: float | None) -> Ruling:
    if evidence.certain is not None:
        return Ruling(claim.text, claim.kind, evidence.certain, evidence.support, None, None, evidence.figures)
    p = min(evidence.p_support, evidence.p_refute)
    refuting = evidence.p_refute < evidence.p_support
    verdict = INCONCLUSIVE if p_holm is None or p_holm > ALPHA else REFUTED if refuting else SUPPORTED
    because = evidence.refute if refuting and evidence.refute else evidence.support
    return Ruling(claim.text, claim.kind, verdict, because, p, p_holm, evidence.figures)


def _all_above(claim: Claim, above: Sequence[Ruling]) -> Ruling:
    counts = {verdict: sum(ruling.verdict == verdict for ruling in above) for verdict in VERDICTS}
    verdict = REFUTED if counts[REFUTED] else SUPPORTED if counts[SUPPORTED] == len(above) else INCONCLUSIVE
    because = f"of the {len(above)} above, {', '.join(f'{count} {name}' for name, count in counts.items())}"
    return Ruling(claim.text, claim.kind, verdict, because, None, None, ())


def _evidence(claim: Claim, material: Material) -> _Evidence:
    absent = [dict(selector) for _, selector in claim.selectors() if material.design.pick(selector) is None]
    if absent:
        return _Evidence((), certain=INCONCLUSIVE, support=f"this grid has no cell {absent[0]}")
    return _EVIDENCE[claim.kind](claim, material)


def _all_hold(conditions: Sequence[_Condition]) -> _Evidence:
    """The evidence of conditions that must all hold: the weakest supports, the worst refutes."""
    by_support = [(one.p if one.holds and one.p is not None else 1.0, not one.holds, one) for one in conditions]
    by_refute = [(one.p if not one.holds and one.p is not None else 1.0, one) for one in conditions]
    p_support, _, weakest = max(by_support, key=lambda entry: entry[:2])
    p_refute, worst = min(by_refute, key=lambda entry: entry[0])
    figures = tuple(dict.fromkeys(one.figure for one in conditions))
    return _Evidence(figures, p_support, min(1.0, p_refute * len(conditions)), _said(weakest), _said(worst))


def _said(condition: _Condition) -> str:
    figure = condition.figure
    if figure.n is not None and figure.n < 2:
        return f"{figure}; {figure.n} of the 2 seeds that a test needs at least"
    if condition.p is None:
        return f"{figure}; its {figure.n} seeds do not spread, so there is nothing to judge chance by"
    return str(figure)


def _condition(figure: Figure, margins: Sequence[float]) -> _Condition:
    """The condition that the margins, one a seed, are above 0 on average."""
    frame = pl.DataFrame({"group": 0, "value": pl.Series(margins, dtype=pl.Float64), "reference": 0.0})
    tested = statistics.paired(frame, ["group"]).to_dicts() if margins else []
    return _Condition(figure, bool(tested) and tested[0]["mean"] > 0, tested[0]["t_p"] if tested else None)


def _figure(what: str, values: Sequence[float]) -> Figure:
    found = statistics.summarise(pl.DataFrame({"group": 0, "value": pl.Series(values, dtype=pl.Float64)}), ["group"]).to_dicts()
    return Figure(what, found[0]["n"], found[0]["mean"], found[0]["low"], found[0]["high"]) if found else Figure(what, 0, None)


def _cells(material: Material, selectors: Sequence[Mapping[str, object]]) -> list[str]:
    picked = [material.design.pick(selector) for selector in selectors]  # type: ignore[arg-type]  # checked by the experiment
    return [cell for cell in picked if cell is not None]


def _values(material: Material, cell: str, name: str) -> dict[int, float]:
    """A quantity of a cell by seed."""
    found = compare.long_values(material.trials.filter(pl.col("cell") == cell), [name]).drop_nulls("value")
    return dict(found.select("seed", "value").iter_rows())


def _differences(material: Material, first: str, second: str, name: str) -> list[float]:
    left, right = _values(material, first, name), _values(material, second, name)
    return [left[seed] - right[seed] for seed in sorted(left.keys() & right.keys())]


def _higher(material: Material, name: str) -> bool:
    return quantities(material.design)[name]


def _order(claim: Order, material: Material) -> _Evidence:
    name = quantity(claim.metric, claim.at)
    sign = 1.0 if _higher(material, name) else -1.0
    conditions = []
    for first, second in itertools.pairwise(_cells(material, [claim.better, *claim.than])):
        values = _differences(material, first, second, name)
        conditions.append(_condition(_figure(f"{first} - {second}, {label(name)}", values), [sign * value for value in values]))
    return _all_hold(conditions)


def _near(claim: Near, material: Material) -> _Evidence:
    bounds = [(1.0, claim.value - claim.within), (-1.0, claim.value + claim.within)]
    return _all_hold(_bounded(material, _cells(material, claim.cells), claim.metric, claim.at, bounds))


def _bound(claim: Bound, material: Material) -> _Evidence:
    sign, bound = (1.0, claim.above) if claim.above is not None else (-1.0, claim.below)
    return _all_hold(_bounded(material, _cells(material, claim.cells), claim.metric, claim.at, [(sign, float(bound or 0.0))]))


def _turned(claim: Turns, material: Material) -> _Evidence:
    return _all_hold([one for cell in _cells(material, claim.cells) for one in _turns(material, cell, claim.metric)])


def _equivalent(claim: Equivalent, material: Material) -> _Evidence:
    name = quantity(claim.metric, claim.at)
    first, second = _cells(material, claim.cells)
    values = _differences(material, first, second, name)
    figure = _figure(f"{first} - {second}, {label(name)}", values)
    return _all_hold([_condition(figure, [claim.within + sign * value for value in values]) for sign in (1.0, -1.0)])


def _bounded(material: Material, cells: Sequence[str], metric: str, at: str, bounds: Sequence[tuple[float, float]]) -> list[_Condition]:
    """For every cell and every (sign, bound) the condition that ``sign * (value - bound)`` is above 0."""
    name = quantity(metric, at)
    conditions = []
    for cell in cells:
        values = list(_values(material, cell, name).values())
        figure = _figure(f"{cell}, {label(name)}", values)
        conditions += [_condition(figure, [sign * (value - bound) for value in values]) for sign, bound in bounds]
    return conditions


def _turns(material: Material, cell: str, metric: str) -> list[_Condition]:
    """That a cell's curve gets better up to its turning point, and worse from there.

    Each seed's turning point is where the mean curve of the *other* seeds is best, the first and the last epoch left out: taken from its
    own curve, noise alone would make every curve turn.
    """
    higher = curve_names(material.design)[metric]
    frame = material.curves.filter((pl.col("cell") == cell) & (pl.col("metric") == metric)).sort("trial", "epoch")
    curves = [of_trial["value"].to_list() for _, of_trial in frame.group_by("trial", maintain_order=True)]
    falls, rises = [], []
    length = min(map(len, curves), default=0)
    for place, curve in enumerate(curves if length > 2 and len(curves) > 1 else []):
        others = [math.fsum(other[epoch] for index, other in enumerate(curves) if index != place) for epoch in range(1, length - 1)]
        turn = 1 + others.index(max(others) if higher else min(others))
        sign = 1.0 if higher else -1.0
        falls.append(sign * (curve[turn] - curve[0]))
        rises.append(sign * (curve[turn] - curve[-1]))
    before = _figure(f"{cell}, {label(metric)} better by its turning point than at first", falls)
    after = _figure(f"{cell}, {label(metric)} worse at the end than at its turning point", rises)
    return [_condition(before, falls), _condition(after, rises)]


def _agree(claim: Agree, material: Material) -> _Evidence:
    """Whether wherever the first metric tells two cells apart (5 %, Holm over the pairs), the second does so in the same direction."""
    names = [quantity(metric, claim.at) for metric in claim.metrics]
    signs = [1.0 if _higher(material, name) else -1.0 for name in names]
    pairs = list(itertools.combinations(_cells(material, claim.cells), 2))
    tested: list[list[_Condition]] = []
    for name, sign in zip(names, signs, strict=True):
        rows = []
        for first, second in pairs:
            values = _differences(material, first, second, name)
            rows.append(_condition(_figure(f"{first} - {second}, {label(name)}", values), [sign * value for value in values]))
        tested.append(rows)
    adjusted = statistics.holm(pl.DataFrame({"p": [one.p for one in tested[0]]}, {"p": pl.Float64}), "p")["p_holm"].to_list()
    apart = [place for place, p in enumerate(adjusted) if p is not None and p <= ALPHA]
    figures = tuple(one.figure for rows in zip(*tested, strict=True) for one in rows)
    followed = [replace(tested[1][place], holds=tested[1][place].holds == tested[0][place].holds) for place in apart]
    against = [
        max(first.p, second.p)
        for first, second in zip(*tested, strict=True)
        if first.p is not None and second.p is not None and first.holds != second.holds
    ]
    p_refute = min(1.0, len(pairs) * min(against, default=1.0))
    told = f"{label(names[0])} tells {len(apart)} of {len(pairs)} pairs of cells apart"
    if not followed:
        return _Evidence(figures, 1.0, p_refute, told, told)
    evidence = _all_hold(followed)
    return replace(evidence, figures=figures, p_refute=p_refute, support=f"{told}; {evidence.support}", refute=f"{told}; {evidence.refute}")


def _crossover(claim: Crossover, material: Material) -> _Evidence:
    """Whether ``early`` is clearly ahead at some epoch of the first third (Bonferroni over them) and clearly behind at the last."""
    early, late = _cells(material, [claim.early, claim.late])
    sign = 1.0 if curve_names(material.design)[claim.metric] else -1.0
    of_metric = material.curves.filter(pl.col("metric") == claim.metric)
    left, right = (of_metric.filter(pl.col("cell") == cell).select("epoch", "seed", "value") for cell in (early, late))
    joined = left.join(right.rename({"value": "reference"}), on=["epoch", "seed"])
    last = joined["epoch"].max()
    if not isinstance(last, int) or last < 2:
        return _Evidence(
            (Figure(f"{early} - {late}, {label(claim.metric)}", 0, None),), support="fewer than two epochs that both cells have"
        )
    steps: dict[int, tuple[_Condition, Figure]] = {}
    for (epoch,), rows in joined.sort("epoch", "seed").group_by("epoch", maintain_order=True):
        values = (rows["value"] - rows["reference"]).to_list()
        figure = _figure(f"{early} - {late}, {label(claim.metric)} at epoch {epoch}", values)
        steps[int(str(epoch))] = (_condition(figure, [sign * value for value in values]), figure)
    first = [steps[epoch][0] for epoch in sorted(steps) if epoch <= math.ceil(last * EARLY_SHARE)]
    end = steps[last][0]
    ahead = min(first, key=lambda one: one.p if one.holds and one.p is not None else 1.0)
    p_ahead = min(1.0, len(first) * ahead.p) if ahead.holds and ahead.p is not None else 1.0
    p_behind = end.p if not end.holds and end.p is not None else 1.0
    never_ahead = max(1.0 if one.holds or one.p is None else one.p for one in first)
    ahead_at_last = end.p if end.holds and end.p is not None else 1.0
    support = ahead if p_ahead >= p_behind else end
    refute = end if ahead_at_last <= never_ahead else max(first, key=lambda one: one.p or 0.0)
    return _Evidence(
        (ahead.figure, end.figure),
        max(p_ahead, p_behind),
        min(1.0, 2 * min(never_ahead, ahead_at_last)),
        _said(support),
        _said(refute),
    )


def _cost(claim: Cost, material: Material) -> _Evidence:
    cells = _cells(material, claim.cells)
    known = [material.costs.get(cell, {}).get(claim.quantity) for cell in cells]
    figures = tuple(Figure(f"{cell}, {claim.quantity}", None, value) for cell, value in zip(cells, known, strict=True))
    if known[0] is None or known[1] is None:
        return _Evidence(figures, certain=INCONCLUSIVE, support="the run header has no static profile of these cells")
    holds = {"equal": known[0] == known[1], "less": known[0] < known[1], "more": known[0] > known[1]}[claim.relation]
    return _Evidence(figures, certain=SUPPORTED if holds else REFUTED, support="; ".join(map(str, figures)))


_EVIDENCE: dict[str, Callable[[Any, Material], _Evidence]] = {
    "order": _order,
    "equivalent": _equivalent,
    "near": _near,
    "bound": _bound,
    "turns": _turned,
    "agree": _agree,
    "crossover": _crossover,
    "cost": _cost,
}
"""How each kind of claim is judged; ``all_above`` is judged by the rulings before it."""
