"""Everything that would make the comparison unfair, or its figures unsafe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import polars as pl

from analysis import statistics
from analysis.design import Design
from analysis.run import Run
from analysis.words import count, label

if TYPE_CHECKING:
    from tune_ablation.experiment import Experiment  # read for its types alone: a folder that is not ours is read without loading pydantic

EDGE = 0.05
"""A best learning rate within this share of its range (in the scale it was drawn in) of an end lies on the edge."""

LATE_SHARE = 0.1
"""A cell is still improving where it got better over this last share of its epochs, clear of zero."""

SEQUENTIAL_ONLY = ("tpe", "gp")
"""Samplers that learn from results, whose warm-up is drawn blindly."""


@dataclass(frozen=True)
class Finding:
    """Something that a reader has to know before believing the figures.

    Attributes:
        code: its stable name.
        serious: whether it voids "fair" or "safe" for the cells named; else it is a caveat.
        cells: which cells; empty where it is about all.
        text: the finding in a sentence.
    """

    code: str
    serious: bool
    cells: tuple[str, ...]
    text: str


def audit(run: Run, cells: pl.DataFrame, trials: pl.DataFrame, curves: pl.DataFrame) -> tuple[Finding, ...]:
    """Look for everything known to void a comparison, serious findings first.

    Args:
        run: the results.
        cells: from ``compare.cells``.
        trials: from ``curves.trials``.
        curves: from ``curves.by_epoch``.
    """
    findings = [
        *_attempts(cells),
        *_divergence(cells),
        *_seeds(cells, run.design),
        *_still_improving(curves, run.design),
        *_disagreement(trials, run.design),
        *_one_of_each(run),
    ]
    if run.experiment is not None:
        findings += [*_edges(cells, run.experiment), *_warmup(run.experiment), *_sessions(run.header), *_caveats(run.design)]
    if run.problems:
        findings.append(Finding("left_out", True, (), f"{count(len(run.problems), 'damaged or foreign file')} left out, named below"))
    return tuple(sorted(findings, key=lambda finding: not finding.serious))


def across(runs: Sequence[Run]) -> tuple[Finding, ...]:
    """What keeps several results from being laid side by side: other data or another precision."""
    findings = []
    ours = [run for run in runs if run.header]
    for code, what, key in (("data_differ", "data", _fingerprint), ("precision_differs", "precision", _precision)):
        found = {run.design.name + f" ({run.where})": key(run.header) for run in ours}
        if len(set(found.values())) > 1:
            listed = "; ".join(f"{name}: {value}" for name, value in found.items())
            findings.append(Finding(code, True, (), f"these results are on different {what}: {listed}"))
    return tuple(findings)


def _fingerprint(header: Mapping[str, object]) -> str:
    data = header.get("data")
    return str(data.get("fingerprint"))[:12] if isinstance(data, Mapping) else "unknown"


def _precision(header: Mapping[str, object]) -> str:
    return str(header.get("precision"))


def _edges(cells: pl.DataFrame, experiment: Experiment) -> Iterable[Finding]:
    if experiment.recipe.lr is not None:
        return
    searched = experiment.search.lr
    scale = math.log if searched.log else float
    low, high = scale(searched.low), scale(searched.high)
    for cell, lr in cells.select("cell", "lr").drop_nulls().iter_rows():
        place = (scale(lr) - low) / (high - low)
        if min(place, 1 - place) < EDGE:
            end, bound = ("low", searched.low) if place < 0.5 else ("high", searched.high)
            text = f"best lr {lr:.3g} lies at the {end} edge of the range searched ({bound:g}): a better one may lie beyond"
            yield Finding("lr_at_edge", True, (cell,), text)


def _attempts(cells: pl.DataFrame) -> Iterable[Finding]:
    finished = dict(cells.select("cell", "search_finished").iter_rows())
    if len(set(finished.values())) > 1:
        most = max(finished.values())
        fewer = tuple(cell for cell, count in finished.items() if count < most)
        listed = ", ".join(f"{cell} {finished[cell]}" for cell in fewer)
        yield Finding("unequal_attempts", True, fewer, f"unequal numbers of search trials finished: {listed}; the others {most}")


def _divergence(cells: pl.DataFrame) -> Iterable[Finding]:
    for row in cells.iter_rows(named=True):
        diverged, finished = row["confirm_diverged"], row["confirm_finished"]
        if diverged:
            text = f"{diverged} of {finished} confirm trials diverged: its means are over the {row['seeds']} that did not"
            yield Finding("confirm_diverged", True, (row["cell"],), text)
        diverged, finished = row["search_diverged"], row["search_finished"]
        if diverged and diverged == finished:
            yield Finding("search_all_diverged", True, (row["cell"],), "every search trial diverged; the lr is the lowest one tried")
        elif diverged:
            yield Finding("search_diverged", False, (row["cell"],), f"{diverged} of {finished} search trials diverged")


def _seeds(cells: pl.DataFrame, design: Design) -> Iterable[Finding]:
    for row in cells.iter_rows(named=True):
        missing = row["confirm_planned"] - row["confirm_finished"]
        if missing:
            text = f"{missing} of {count(row['confirm_planned'], 'confirm seed')} not finished"
            yield Finding("missing_seeds", True, (row["cell"],), text)
    confirmed = cells.filter(pl.col("confirm_planned") > 0)
    if confirmed.height and len(design.seeds) == 1:
        yield Finding("one_seed", True, (), "one confirm seed: no interval and no test on any difference")


def _still_improving(curves: pl.DataFrame, design: Design) -> Iterable[Finding]:
    sign = 1 if design.metrics[design.primary] else -1
    primary = curves.filter(pl.col("metric") == design.primary)
    lasts = dict(primary.group_by("cell").agg(pl.col("epoch").max()).iter_rows())
    earlier_of = {last: min(last - 1, math.floor(last * (1 - LATE_SHARE))) for last in lasts.values()}
    ends = primary.filter(pl.col("epoch").is_in([*earlier_of, *earlier_of.values()]))
    for cell in design.cells:
        last = lasts.get(cell, 0)
        if last < 2:
            continue
        earlier = earlier_of[last]
        of_cell = ends.filter(pl.col("cell") == cell)
        at = [of_cell.filter(pl.col("epoch") == epoch).select("trial", "value") for epoch in (last, earlier)]
        gains = at[0].join(at[1].rename({"value": "reference"}), on="trial")
        tested = statistics.paired(gains.with_columns(pl.lit(cell).alias("cell")), ["cell"]).to_dicts()
        if tested and tested[0]["t_p"] is not None and tested[0]["t_p"] <= statistics.ALPHA and sign * tested[0]["mean"] > 0:
            gain = f"{tested[0]['mean']:+.3g} [{tested[0]['low']:.3g}, {tested[0]['high']:.3g}]"
            text = f"still improving at the end: {label(design.primary)} {gain} from epoch {earlier} to {last}"
            yield Finding("still_improving", True, (cell,), text)


def _disagreement(trials: pl.DataFrame, design: Design) -> Iterable[Finding]:
    """Whether the objective and the primary metric name different winners among a baseline and what is held against it."""
    if design.objective == design.primary:
        return
    confirm = trials.filter(pl.col("finished") & (pl.col("stage") == "confirm"))
    groups: dict[str, list[str]] = {}
    for cell, base in design.baseline_pairs():
        groups.setdefault(base, [base]).append(cell)
    for group in groups.values():
        winners = {}
        for metric in (design.objective, design.primary):
            means = dict(confirm.filter(pl.col("cell").is_in(group)).group_by("cell").agg(pl.col(f"{metric}_final").mean()).iter_rows())
            known = {cell: means[cell] for cell in group if means.get(cell) is not None}
            if len(known) == len(group):
                winners[metric] = (max if design.metrics[metric] else min)(known, key=lambda cell: known[cell])
        if len(set(winners.values())) > 1:
            said = " and ".join(f"{label(metric)} {cell}" for metric, cell in winners.items())
            text = f"val and test disagree about the best of {', '.join(group)}: {said}"
            yield Finding("val_test_disagree", False, tuple(group), text)


def _one_of_each(run: Run) -> Iterable[Finding]:
    for column, code in (("device", "hardware_differs"), ("precision", "precision_differs")):
        if column not in run.epochs.columns:
            continue
        found = run.epochs.group_by(column).agg(pl.col("trial").n_unique()).drop_nulls().sort(column).rows()
        if len(found) > 1:
            listed = ", ".join(f"{name}: {count(trials, 'trial')}" for name, trials in found)
            yield Finding(code, True, (), f"trials ran on more than one {column} ({listed})")


def _warmup(experiment: Experiment) -> Iterable[Finding]:
    search = experiment.search
    if search.sampler in SEQUENTIAL_ONLY and 0 < search.trials_per_cell <= search.warmup:
        text = f"the search's warm-up ({count(search.warmup, 'trial')}) is as long as the search: {search.sampler} tuned nothing"
        yield Finding("warmup_is_the_search", True, (), text)


def _sessions(header: Mapping[str, object]) -> Iterable[Finding]:
    sessions = header.get("sessions")
    known = [session for session in sessions if isinstance(session, Mapping)] if isinstance(sessions, Sequence) else []
    for key, code in (("commit", "commits_differ"), ("versions", "versions_differ"), ("hardware", "sessions_hardware_differs")):
        given = [session.get(key) for session in known]
        if any(one != other for one, other in pairwise(given)):
            yield Finding(code, key == "hardware", (), f"its {count(len(known), 'session')} differ in {key}; see the run header")


def _caveats(design: Design) -> Iterable[Finding]:
    if any(levels.get("head") == "dropout" for levels in design.cells.values()):
        yield Finding("fixed_dropout", False, (), "the dropout rate of 0.5 is part of the head under study: it was not tuned")
