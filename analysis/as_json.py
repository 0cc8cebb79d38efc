"""Everything that was computed, as plain JSON under stable names."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from analysis import audit, together
from analysis.analyse import Analysis
from analysis.statistics import as_rows
from tune_ablation.records import STAGES

SCHEMA = 1
"""Version of what ``--json`` prints; raised when a name goes away or changes its meaning, not when one is added."""

FIELDS = {
    "schema": "this version",
    "experiments": "one for each experiment or foreign result: EXPERIMENT_FIELDS",
    "side_by_side": "every cell of all of them on the metrics that two or more share: cell, source (place among experiments, from 0), "
    "quantity, n, mean, sd, low, high, epochs_least, epochs_most; described, never tested against one another; empty for one experiment "
    "(analysis.together.side_by_side)",
    "findings": "the audit of all of them together: code, serious, cells, text (analysis.audit.across)",
    "unreadable": "what could not be read, a sentence each",
}
"""Every field of the whole output and what it holds."""

EXPERIMENT_FIELDS = {
    "experiment": "its name; of foreign results the name of the folder",
    "question": "what it asks",
    "where": "the results folder or its address",
    "seeds": "the confirm seeds listed",
    "epochs": "epochs a trial is to train; null for foreign results",
    "data": "the run header's data: fingerprint, data set, sizes; null for foreign results",
    "chance": "accuracy of guessing, in percent: acc1, acc5; null for foreign results",
    "baseline": "levels: what makes a cell a baseline; cells: those that have them",
    "target": "value: the common target; metric; trials: how many baseline trials it rests on (analysis.compare.target)",
    "quantity": "name: what contrasts and effects are about; higher_is_better",
    "progress": "trials planned and finished",
    "claims": "a ruling each: text, kind, verdict, because, p, p_holm, figures (analysis.claims.Ruling)",
    "cells": "a cell each: levels, search and confirm counts, lr, objective, seeds, target and own_target medians, costs, and summaries by "
    "quantity: n, mean, sd, low, high (analysis.compare.cells, .summaries)",
    "contrasts": "the primary family (analysis.compare.contrasts)",
    "secondary": "the same pairs on other quantities, a family of its own",
    "effects": "main effects and two-factor interactions (analysis.factorial.effects)",
    "crossovers": "changes of order between curves (analysis.crossover.crossovers)",
    "findings": "the audit: code, serious, cells, text (analysis.audit.Finding)",
    "responses": "learning-rate response of every cell (analysis.compare.responses)",
    "reached": "share of seeds that reached the target by epoch (analysis.curves.reached_by)",
    "curves": "mean and 95 % interval of every curve by cell and epoch (analysis.analyse.Analysis.bands)",
    "trials": "every per-trial quantity (analysis.curves.trials, .convergence)",
    "unfinished": "planned trials that are not finished: trial, state, epoch",
    "failed": "trials given up: trial, reason, attempts",
    "problems": "files left out: file, what, trial",
}
"""Every field of an experiment and what it holds; rows are documented at the function in brackets."""


def as_json(found: Sequence[Analysis], unreadable: Iterable[str]) -> dict[str, Any]:
    """The whole output: the fields of ``FIELDS``."""
    return {
        "schema": SCHEMA,
        "experiments": [experiment_json(one) for one in found],
        "side_by_side": as_rows(together.side_by_side(found)),
        "findings": [asdict(finding) for finding in audit.across([one.run for one in found])],
        "unreadable": list(unreadable),
    }


def experiment_json(found: Analysis) -> dict[str, Any]:
    """One experiment: the fields of ``EXPERIMENT_FIELDS``."""
    run, design, experiment = found.run, found.design, found.run.experiment
    unfinished = found.standing.filter(pl.col("state") != "finished").select("trial", "state", "epoch")
    return {
        "experiment": design.name,
        "question": design.question,
        "where": run.where,
        "seeds": list(design.seeds),
        "epochs": None if experiment is None else experiment.recipe.epochs,
        "data": dict(run.header["data"]) if run.header else None,
        "chance": None if run.classes is None else {"acc1": 100 / run.classes, "acc5": 100 * min(1.0, 5 / run.classes)},
        "baseline": {"levels": dict(design.baseline), "cells": list(design.baseline_cells)},
        "target": {"value": found.target, "metric": design.primary, "trials": found.target_trials},
        "quantity": {"name": found.quantity, "higher_is_better": found.higher_is_better},
        "progress": {"planned": found.planned, "finished": found.finished},
        "claims": [asdict(ruling) for ruling in found.claims],
        "cells": _cells(found),
        "contrasts": as_rows(found.contrasts),
        "secondary": as_rows(found.secondary),
        "effects": as_rows(found.effects),
        "crossovers": as_rows(found.crossovers),
        "findings": [asdict(finding) for finding in found.findings],
        "responses": as_rows(found.responses),
        "reached": as_rows(found.reached),
        "curves": as_rows(found.bands),
        "trials": as_rows(found.trials),
        "unfinished": as_rows(unfinished),
        "failed": [asdict(failure) for failure in found.failures],
        "problems": [asdict(problem) for problem in run.problems],
    }


def _cells(found: Analysis) -> list[dict[str, Any]]:
    summaries: dict[str, dict[str, Any]] = {}
    for row in as_rows(found.summaries):
        summaries.setdefault(row.pop("cell"), {})[row.pop("quantity")] = row
    costs = {row.pop("cell"): row for row in as_rows(found.costs)}
    return [
        {
            "cell": row["cell"],
            "levels": dict(found.design.cells[row["cell"]]),
            **{stage: {what: row[f"{stage}_{what}"] for what in ("planned", "finished", "diverged", "failed")} for stage in STAGES},
            "lr": row["lr"],
            "objective": row["objective"],
            "seeds": row["seeds"],
            **{
                f"epochs_to_{name}": {what: row[f"{name}_{what}"] for what in ("median", "above", "reached", "of")}
                for name in ("target", "own_target")
            },
            "costs": costs.get(row["cell"]),
            "summaries": summaries.get(row["cell"], {}),
        }
        for row in as_rows(found.cells)
    ]
