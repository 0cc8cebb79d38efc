"""What a person reads: the summary of an experiment, for a terminal of 80 columns and as plain JSON."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import compare, curves
from analysis.load import Failure, Problem, Run, load
from tune_ablation.records import STAGES
from tune_ablation.storage import Storage

WIDTH = 80
"""The narrowest terminal that the tables are laid out for."""

NONE = "-"
MARK = "*"
"""Stands behind the name of a cell that a note below the tables speaks of."""


@dataclass(frozen=True)
class Overview:
    """Everything that the summary of one experiment says.

    Attributes:
        run: the results it is about.
        cells: one row per cell, from ``compare.cells``.
        standing: one row per planned trial, from ``compare.states``.
        baseline: keys of the baseline cells.
        target: what convergence speed is measured to, in percent; None while there is no finished baseline trial.
        target_trials: how many baseline trials the target rests on.
    """

    run: Run
    cells: pl.DataFrame
    standing: pl.DataFrame
    baseline: tuple[str, ...]
    target: float | None
    target_trials: int

    @property
    def planned(self) -> int:
        """Number of trials of the plan."""
        return self.standing.height

    @property
    def finished(self) -> int:
        """Number of trials that ran to their last epoch or diverged."""
        return self.standing.filter(pl.col("state") == "finished").height

    @property
    def failures(self) -> list[Failure]:
        """Failed trials that have not been finished since."""
        failed = set(self.standing.filter(pl.col("state") == "failed")["trial"])
        return [failure for failure in self.run.failures if failure.trial in failed]


def overview(run: Run) -> Overview:
    """Sum up one experiment."""
    experiment = run.experiment
    trials = curves.trials(run.epochs)
    damaged = [problem.trial for problem in run.problems if problem.trial is not None]
    standing = compare.states(run.plan, trials, [failure.trial for failure in run.failures], damaged)
    baseline = compare.baseline_cells(experiment)
    target = compare.target(experiment, trials)
    first = curves.first_epoch_at(run.epochs, "test_acc1", float("inf") if target is None else target)
    speed = compare.convergence(trials, first)
    cells = compare.cells(
        standing, trials, compare.learning_rates(experiment, trials), speed if target is not None else speed.clear()
    )
    counted = int(cells.filter(pl.col("cell").is_in(baseline))["seeds"].sum())
    return Overview(run, cells, standing, tuple(baseline), target, counted)


def summary(source: str | Storage, console: Console) -> None:
    """Print the summary of every experiment in a results folder or storage path.

    Raises:
        UserError: there are no results in it.
    """
    results = load([source])
    for run in results.runs:
        show(overview(run), console)
    show_unreadable(results.unreadable, console)


def show(found: Overview, console: Console) -> None:
    """Print the summary of one experiment."""
    notes = _notes(found)
    width = max(console.width, WIDTH)
    _say(console, found.run.experiment.name + _after(": ", found.run.experiment.question), style="bold")
    for line in _foundation(found):
        _say(console, line)
    for table in (_outcome_table(found, set(notes), width), _trial_table(found, set(notes), width)):
        console.print()
        console.print(table, highlight=False)
    console.print()
    for cell, sentences in notes.items():
        for sentence in sentences:
            _say(console, f"{MARK} {cell}: {sentence}")
    for line in _missing(found):
        _say(console, line)
    console.print()


def show_unreadable(unreadable: Iterable[str], console: Console) -> None:
    """Print why experiments could not be read, where there are any."""
    for reason in unreadable:
        _say(console, f"Left out: {reason}")


def as_json(found: Overview) -> dict[str, Any]:
    """The same as plain JSON data."""
    run = found.run
    return {
        "experiment": run.experiment.name,
        "question": run.experiment.question,
        "where": run.where,
        "seeds": list(run.experiment.confirm.seeds),
        "epochs": run.experiment.recipe.epochs,
        "data": dict(run.header["data"]),
        "chance": {"acc1": _chance(run, 1), "acc5": _chance(run, 5)},
        "baseline": {"levels": run.experiment.baseline_levels(), "cells": list(found.baseline)},
        "target": {"test_acc1": found.target, "trials": found.target_trials},
        "trials": {"planned": found.planned, "finished": found.finished},
        "cells": [
            _cell_json(row, levels) for row, levels in zip(found.cells.iter_rows(named=True), _levels(run), strict=True)
        ],
        "notes": _notes(found),
        "unfinished": [
            {key: row[key] for key in ("trial", "state", "epoch")}
            for row in found.standing.filter(pl.col("state") != "finished").iter_rows(named=True)
        ],
        "failed": [asdict(failure) for failure in found.failures],
        "problems": [{"file": problem.file, "what": problem.what} for problem in run.problems],
    }


def _levels(run: Run) -> list[dict[str, Any]]:
    return [dict(cell.levels) for cell in run.experiment.cells()]


def _cell_json(row: dict[str, Any], levels: dict[str, Any]) -> dict[str, Any]:
    return {
        "cell": row["cell"],
        "levels": levels,
        **{stage: {what: row[f"{stage}_{what}"] for what in ("planned", "finished", "diverged")} for stage in STAGES},
        "lr": row["lr"],
        "objective": row["objective"],
        "seeds": row["seeds"],
        **{name: {"mean": row[f"{name}_mean"], "sd": row[f"{name}_sd"]} for name in compare.SUMMARISED},
        "epochs_to_target": {what: row[f"target_{what}"] for what in ("median", "above", "reached", "of")},
    }


def _chance(run: Run, guesses: int) -> float:
    """Accuracy of guessing, in percent, where one of ``guesses`` answers has to be right."""
    return 100 * min(1.0, guesses / run.classes)


def _foundation(found: Overview) -> list[str]:
    """What the tables rest on."""
    run, experiment = found.run, found.run.experiment
    seeds = experiment.confirm.seeds
    data, epochs = run.header["data"], experiment.recipe.epochs
    images = _after(", ", f"{data['test']:,} test images" if isinstance(data.get("test"), int) else "")
    listed = f"{_count(len(seeds), 'confirm seed')} a cell ({', '.join(map(str, seeds))})"
    spread = "mean ± standard deviation over them" if len(seeds) > 1 else "one seed has no standard deviation"
    levels = ", ".join(f"{name} = {level}" for name, level in experiment.baseline_levels().items())
    baseline = f"the baseline's mean final test acc@1 ({levels}; {_count(found.target_trials, 'trial')})"
    return [
        f"Rests on {listed}: {spread}.",
        f"Data: {experiment.data.dataset}, {run.classes} classes{images}; {_count(epochs, 'epoch')} a trial.",
        f"Chance level: acc@1 {_chance(run, 1):.4g} %, acc@5 {_chance(run, 5):.4g} %.",
        f"Target: {found.target:.2f} % test acc@1, 90 % of {baseline}."
        if found.target is not None
        else f"Target: none yet, it is 90 % of {baseline}.",
    ]


def _outcome_table(found: Overview, marked: set[str], width: int) -> Table:
    headings = ("test acc@1", "test acc@5", "macro-F1", "epochs to\ntarget")
    rows = [
        (*(_spread(row, name, 2) for name in ("test_acc1", "test_acc5", "test_f1")), _to_target(row))
        for row in found.cells.iter_rows(named=True)
    ]
    return _table(found, marked, headings, rows, width)


def _trial_table(found: Overview, marked: set[str], width: int) -> Table:
    headings = ("search", "confirm", "div-\nerged", "best lr", "gap in acc@1", "gap in loss")
    rows = [
        (
            *(f"{row[f'{stage}_finished']}/{row[f'{stage}_planned']}" for stage in STAGES),
            str(sum(row[f"{stage}_diverged"] for stage in STAGES)),
            NONE if row["lr"] is None else f"{row['lr']:.3g}",
            _spread(row, "gap_acc1", 2),
            _spread(row, "gap_loss", 3),
        )
        for row in found.cells.iter_rows(named=True)
    ]
    return _table(found, marked, headings, rows, width)


def _table(
    found: Overview, marked: set[str], headings: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Table:
    """Numbers keep their lines whole: the cells' names, which alone can be long, are broken to fit beside them."""
    factors = curves.factors(found.run.plan)
    between = 2  # a blank of padding and one of the box
    needed = [
        max(len(line) for text in column for line in text.split("\n")) for column in zip(headings, *rows, strict=True)
    ]
    room = max(width - sum(needed) - between * len(needed), len("resnet"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("cell", no_wrap=False)
    for heading, least in zip(headings, needed, strict=True):
        table.add_column(Text(heading), justify="right", min_width=least, overflow="fold")
    for cell, row in zip(found.cells["cell"], rows, strict=True):
        table.add_row(Text(_broken(cell + MARK * (cell in marked), room, factors)), *map(Text, row))
    return table


def _broken(name: str, room: int, factors: Sequence[str]) -> str:
    """A cell's name in lines of at most ``room`` characters: broken before a factor, else a word, else anywhere."""
    lines = [""]
    for part in re.split(f"(?=_(?:{'|'.join(factors)})=)", name):
        for piece in [part] if len(part) <= room else re.split("(?=_)|(?<==)", part):
            if len(lines[-1]) + len(piece) <= room:
                lines[-1] += piece
            else:
                lines += [piece[start : start + room] for start in range(0, len(piece), room)]
    return "\n".join(line for line in lines if line)


def _spread(row: dict[str, Any], name: str, digits: int) -> str:
    mean, sd = row[f"{name}_mean"], row[f"{name}_sd"]
    if mean is None:
        return NONE
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def _to_target(row: dict[str, Any]) -> str:
    if not row["target_of"]:
        return NONE
    value = f">{row['target_above']}" if row["target_median"] is None else f"{row['target_median']:g}"
    return (
        value
        if row["target_reached"] == row["target_of"]
        else f"{value} ({row['target_reached']} of {row['target_of']})"
    )


def _notes(found: Overview) -> dict[str, list[str]]:
    """What a reader of a cell's numbers has to know beside them, by cell."""
    notes: dict[str, list[str]] = {}
    for row in found.cells.iter_rows(named=True):
        said = []
        if row["lr"] is not None and row["search_finished"] < row["search_planned"]:
            said.append(
                f"best lr so far, of {row['search_finished']} of {_count(row['search_planned'], 'search trial')}."
            )
        if row["search_finished"] and row["search_diverged"] == row["search_finished"]:
            said.append("every search trial diverged; the lr is the lowest one tried.")
        if row["confirm_finished"] and row["seeds"] < row["confirm_planned"]:
            lost = row["confirm_diverged"]
            why = [f"{lost} diverged"] * bool(lost) + ["the others are not finished"] * (
                row["confirm_finished"] < row["confirm_planned"]
            )
            over = (
                f"means over {row['seeds']} of {_count(row['confirm_planned'], 'seed')}" if row["seeds"] else "no mean"
            )
            said.append(f"{over}: {', '.join(why)}.")
        if row["target_of"] and row["target_median"] is None:
            said.append(f"target not reached in {_count(row['target_above'], 'epoch')} by half of its seeds or more.")
        if said:
            notes[row["cell"]] = said
    return notes


def _missing(found: Overview) -> list[str]:
    """What the tables lack: unfinished trials by cell, failed trials, damaged files."""
    unfinished = found.standing.filter(pl.col("state") != "finished")
    lines = []
    if unfinished.height:
        lines.append(f"Missing: {unfinished.height} of {_count(found.planned, 'trial')} not finished.")
    untouched = []
    for (cell,), rows in unfinished.group_by("cell", maintain_order=True):
        if (rows["state"] == "not started").all() and rows.height == found.standing.filter(
            pl.col("cell") == cell
        ).height:
            untouched.append(str(cell))
            continue
        lines.append(f"  {cell}: {'; '.join(filter(None, (_stage_missing(rows, stage) for stage in STAGES)))}")
    if untouched:
        lines.append(f"  {_count(len(untouched), 'cell')} with no trial yet: {', '.join(untouched)}")
    if found.failures:
        lines.append(f"Failed: {_count(len(found.failures), 'trial')}.")
        lines += [
            f"  {failure.trial} after {_count(failure.attempts, 'attempt')}: {failure.reason}"
            for failure in found.failures
        ]
    if found.run.problems:
        lines.append(f"Left out: {_count(len(found.run.problems), 'damaged or foreign file')}.")
        lines += [f"  {_problem(problem)}" for problem in found.run.problems]
    return lines or [f"Nothing is missing: all {found.planned} trials are finished and every file is sound."]


def _stage_missing(rows: pl.DataFrame, stage: str) -> str:
    counts = dict(rows.filter(pl.col("stage") == stage)["state"].value_counts().iter_rows())
    return (
        f"{stage} {', '.join(f'{counts[state]} {state}' for state in compare.STATES if state in counts)}"
        if counts
        else ""
    )


def _problem(problem: Problem) -> str:
    return f"{problem.file}: {problem.what}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _after(separator: str, text: str) -> str:
    return f"{separator}{text}" if text else ""


def _say(console: Console, line: str, style: str = "") -> None:
    """Print words as they are, wrapped, further lines indented as the first: what is in a name is never markup."""
    indent = line[: len(line) - len(line.lstrip())]
    for part in textwrap.wrap(line, console.width, subsequent_indent=indent, break_on_hyphens=False):
        console.print(Text(part, style), highlight=False)
