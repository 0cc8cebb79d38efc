"""What a person reads in a terminal of 80 columns: the verdict first, then cells, contrasts, effects, the audit and what is missing."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import audit, claims, compare, statistics
from analysis.analyse import Analysis, analyse
from analysis.load import load
from analysis.run import Run
from analysis.words import count, label
from tune_ablation.records import STAGES
from tune_ablation.storage import Storage

WIDTH = 80
"""The narrowest terminal that the tables are laid out for."""

NONE = "-"
_NORMALITY = "With so few seeds the exact test could never decide: these verdicts rest on seed noise being near normal."
MARK = "*"
"""Stands behind the name of a cell that the audit has something serious to say of."""


def summary(source: str | Storage, console: Console) -> None:
    """Print the summary of every experiment in a results folder or storage path.

    Raises:
        UserError: there are no results in it.
    """
    results = load([source])
    show_all([analyse(run) for run in results.runs], results.unreadable, console)


def show_all(found: Sequence[Analysis], unreadable: Iterable[str], console: Console) -> None:
    """Print the summaries of several experiments, what keeps them from being compared, and what could not be read."""
    for one in found:
        show(one, console)
    for finding in audit.across([one.run for one in found]):
        _say(console, f"Audit: {finding.text}.")
    for reason in unreadable:
        _say(console, f"Left out: {reason}")


def show(found: Analysis, console: Console) -> None:
    """Print the summary of one experiment."""
    width = max(console.width, WIDTH)
    design = found.design
    _say(console, design.name + _after(": ", design.question), style="bold")
    for lines in filter(None, (_verdict(found), _foundation(found))):
        console.print()
        for line in lines:
            _say(console, line)
    marked = {cell for finding in found.findings if finding.serious for cell in finding.cells}
    for table in (_outcome_table(found, marked, width), _trial_table(found, marked, width)):
        console.print()
        console.print(table, highlight=False)
    if marked:
        _say(console, f"{MARK} see the audit below")
    _show_contrasts(found, console, width)
    _show_effects(found, console, width)
    for line in _crossovers(found):
        _say(console, line)
    console.print()
    for line in [*_audit(found), *_missing(found)]:
        _say(console, line)
    console.print()


def _verdict(found: Analysis) -> list[str]:
    """One sentence a claim, and what all of them together come to."""
    if not found.claims:
        return (
            [] if not found.run.experiment else ["Verdict: the experiment file makes no claim; the contrasts below stand for themselves."]
        )
    lines = []
    for ruling in found.claims:
        p = "" if ruling.p_holm is None else f"; p {_p(ruling.p_holm)}"
        lines.append(f"{ruling.verdict.upper()}: {ruling.text.rstrip('.')} ({ruling.because}{p}).")
    counts = ", ".join(f"{sum(ruling.verdict == verdict for ruling in found.claims)} {verdict}" for verdict in claims.VERDICTS)
    tested = sum(ruling.p is not None for ruling in found.claims)
    together = f" p values are Holm-adjusted over the {tested} claims tested; [ ] are 95 % intervals over seeds." if tested else ""
    ruled = [ruling for ruling in found.claims if ruling.p is not None and ruling.verdict != claims.INCONCLUSIVE]
    seeds = [figure.n for ruling in ruled for figure in ruling.figures if figure.n is not None]
    unsure = f" {_NORMALITY}" if seeds and not statistics.exact_can_decide(min(seeds), tested) else ""
    return [*lines, f"Verdict: {counts}.{together}{unsure}"]


def _chance(run: Run, guesses: int) -> float | None:
    """Accuracy of guessing, in percent, where one of ``guesses`` answers has to be right; None where the classes are not known."""
    return None if run.classes is None else 100 * min(1.0, guesses / run.classes)


def _foundation(found: Analysis) -> list[str]:
    """What the tables rest on."""
    run, design, experiment = found.run, found.design, found.run.experiment
    baseline = f"the baseline's mean final {label(design.primary)}"
    levels = ", ".join(f"{name} = {level}" for name, level in design.baseline.items())
    rests_on = "; ".join(filter(None, [levels, count(found.target_trials, "trial")]))
    percent = " %" if experiment is not None else ""
    target = (
        f"Target: {found.target:.4g}{percent} {label(design.primary)}, 90 % of {baseline} ({rests_on})."
        if found.target is not None
        else f"Target: none yet, it is 90 % of {baseline} ({rests_on})."
    )
    if experiment is None:
        known = found.trials["stage"].to_list()
        repeated = "repetitions of their cells" if "confirm" in known else "a search: name a --seed-column to compare cells by seed"
        return [f"Read from {run.where}: {count(len(known), 'trial')}, taken for {repeated}.", target]
    seeds = experiment.confirm.seeds
    data, epochs = run.header["data"], experiment.recipe.epochs
    images = _after(", ", f"{data['test']:,} test images" if isinstance(data.get("test"), int) else "")
    listed = f"{count(len(seeds), 'confirm seed')} a cell ({', '.join(map(str, seeds))})"
    spread = "mean ± standard deviation over them" if len(seeds) > 1 else "one seed has no standard deviation"
    return [
        f"Rests on {listed}: {spread}.",
        f"Data: {experiment.data.dataset}, {run.classes} classes{images}; {count(epochs, 'epoch')} a trial.",
        f"Chance level: acc@1 {_chance(run, 1):.4g} %, acc@5 {_chance(run, 5):.4g} %.",
        target,
    ]


def _outcome_table(found: Analysis, marked: set[str], width: int) -> Table:
    metrics = [name for name in ("test_acc1", "test_acc5", "test_f1") if name in found.design.metrics] or list(found.design.metrics)[:3]
    headings = (*(label(name).replace("test macro", "macro") for name in metrics), "epochs to\ntarget")
    rows = [
        (*(_spread(found.summary(row["cell"], f"{name}_final"), 2) for name in metrics), _to_target(row))
        for row in found.cells.iter_rows(named=True)
    ]
    return _cell_table(found, marked, headings, rows, width)


def _trial_table(found: Analysis, marked: set[str], width: int) -> Table:
    ours = found.run.experiment is not None
    headings = ["search", "confirm", "div-\nerged", "best lr"]
    headings += ["gap in acc@1", "gap in loss"] if ours else [f"best {label(found.design.objective)}"]
    rows = []
    for row in found.cells.iter_rows(named=True):
        counts = [f"{row[f'{stage}_finished']}/{row[f'{stage}_planned']}" for stage in STAGES]
        diverged = str(sum(row[f"{stage}_diverged"] for stage in STAGES))
        rate = NONE if row["lr"] is None else f"{row['lr']:.3g}"
        gaps = [_spread(found.summary(row["cell"], f"{name}_final"), digits) for name, digits in (("gap_acc1", 2), ("gap_loss", 3))]
        objective = [NONE if row["objective"] is None else f"{row['objective']:.4g}"]
        rows.append((*counts, diverged, rate, *(gaps if ours else objective)))
    return _cell_table(found, marked, headings, rows, width)


def _cell_table(found: Analysis, marked: set[str], headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    names = [cell + MARK * (cell in marked) for cell in found.cells["cell"]]
    return _table(found, "cell", names, headings, rows, width)


def _table(found: Analysis, first: str, names: Sequence[str], headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """Numbers keep their lines whole: the names, which alone can be long, are broken to fit beside them."""
    factors = found.design.factors
    between = 2  # a blank of padding and one of the box
    needed = [max(len(line) for text in column for line in text.split("\n")) for column in zip(headings, *rows, strict=True)]
    room = max(width - sum(needed) - between * len(needed), len("resnet"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(first, no_wrap=False)
    for heading, least in zip(headings, needed, strict=True):
        table.add_column(Text(heading), justify="right", min_width=least, overflow="fold")
    for name, row in zip(names, rows, strict=True):
        broken = "\n".join(_broken(part, room, factors) for part in name.split("\n"))
        table.add_row(Text(broken), *map(Text, row))
    return table


def _broken(name: str, room: int, factors: Sequence[str]) -> str:
    """A name in lines of at most ``room`` characters: broken before a factor, else at a blank or a word, else anywhere."""
    lines = [""]
    wanted = f"(?=_(?:{'|'.join(map(re.escape, factors))})=)|(?<= )" if factors else "(?<= )"
    for part in re.split(wanted, name):
        for piece in [part] if len(part) <= room else re.split("(?=_)|(?<==)", part):
            if len(lines[-1]) + len(piece) <= room:
                lines[-1] += piece
            else:
                lines += [piece[start : start + room] for start in range(0, len(piece), room)]
    return "\n".join(line.rstrip() for line in lines if line)


def _spread(figures: Mapping[str, float | None], digits: int) -> str:
    mean, sd = figures["mean"], figures["sd"]
    if mean is None:
        return NONE
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def _to_target(row: Mapping[str, Any]) -> str:
    if not row["target_of"]:
        return NONE
    value = f">{row['target_above']}" if row["target_median"] is None else f"{row['target_median']:g}"
    return value if row["target_reached"] == row["target_of"] else f"{value} ({row['target_reached']} of {row['target_of']})"


def _p(p: float | None) -> str:
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _show_contrasts(found: Analysis, console: Console, width: int) -> None:
    contrasts = found.contrasts
    if not contrasts["n"].sum():
        return
    console.print()
    _say(console, f"Contrasts in {label(found.quantity)}, paired by seed:", style="bold")
    names = [f"{row['cell']}\n- {row['against']}" for row in contrasts.iter_rows(named=True)]
    console.print(_tested_table(found, "cell - the one against", names, contrasts, width), highlight=False)
    tests = count(contrasts["t_p"].count(), "contrast")
    _say(
        console,
        f"p: paired t test, exact: sign-flip test over all 2^n signs, both Holm-adjusted over {tests}. "
        "Need: seeds that would decide at the effect seen, 4 times in 5.",
    )
    if contrasts.filter((pl.col("verdict") != "inconclusive") & pl.col("rests_on_normality")).height:
        _say(console, _NORMALITY)


def _show_effects(found: Analysis, console: Console, width: int) -> None:
    if len(found.design.varied) < 2 or not found.effects["n"].sum():
        return
    console.print()
    _say(console, f"Effects on {label(found.quantity)}, paired by seed:", style="bold")
    names = [
        row["effect"] if row["kind"] == "main" else f"{row['effect']}, beyond the sum of both"
        for row in found.effects.iter_rows(named=True)
    ]
    console.print(_tested_table(found, "effect", names, found.effects, width), highlight=False)


def _tested_table(found: Analysis, first: str, names: Sequence[str], tested: pl.DataFrame, width: int) -> Table:
    headings = ("mean", "95 % interval", "p", "exact", "n", "need", "verdict")
    rows = [
        (
            NONE if row["mean"] is None else f"{row['mean']:+.4g}",
            NONE if row["low"] is None else f"[{row['low']:.3g}, {row['high']:.3g}]",
            _p(row["t_p_holm"]),
            _p(row["exact_p_holm"]),
            str(row["n"]),
            NONE if row["seeds_needed"] is None or row["verdict"] != "inconclusive" else str(row["seeds_needed"]),
            row["verdict"],
        )
        for row in tested.iter_rows(named=True)
    ]
    return _table(found, first, names, headings, rows, width)


def _crossovers(found: Analysis) -> list[str]:
    return [
        f"Crossover in {label(row['metric'])}: {row['ahead_before']} is ahead up to epoch {row['clear_before']}, {row['ahead_after']} from "
        f"epoch {row['clear_after']} on, each time clear of zero (order changes at epoch {row['epoch']}; {row['n']} seeds)."
        for row in found.crossovers.iter_rows(named=True)
    ]


def _audit(found: Analysis) -> list[str]:
    """The audit, one line for each thing found, the cells it was found in together."""
    if not found.findings:
        return ["Audit: nothing found that would make the comparison unfair."]
    lines = [f"Audit: {count(sum(finding.serious for finding in found.findings), 'serious finding')}, others are caveats."]
    for _, group in groupby(found.findings, key=lambda finding: (finding.code, finding.text)):
        findings = list(group)
        cells = ", ".join(cell for finding in findings for cell in finding.cells) if len(findings[0].cells) < 2 else ""
        lines.append(f"  {'! ' if findings[0].serious else ''}{cells}{': ' if cells else ''}{findings[0].text}.")
    return lines


def _missing(found: Analysis) -> list[str]:
    """What the tables lack: unfinished trials by cell, failed trials, damaged files."""
    unfinished = found.standing.filter(pl.col("state") != "finished")
    lines = []
    if unfinished.height:
        lines.append(f"Missing: {unfinished.height} of {count(found.planned, 'trial')} not finished.")
    untouched = []
    for (cell,), rows in unfinished.group_by("cell", maintain_order=True):
        if (rows["state"] == "not started").all() and rows.height == found.standing.filter(pl.col("cell") == cell).height:
            untouched.append(str(cell))
            continue
        lines.append(f"  {cell}: {'; '.join(filter(None, (_stage_missing(rows, stage) for stage in STAGES)))}")
    if untouched:
        lines.append(f"  {count(len(untouched), 'cell')} with no trial yet: {', '.join(untouched)}")
    if found.failures:
        lines.append(f"Failed: {count(len(found.failures), 'trial')}.")
        lines += [f"  {failure.trial} after {count(failure.attempts, 'attempt')}: {failure.reason}" for failure in found.failures]
    if found.run.problems:
        lines.append(f"Left out: {count(len(found.run.problems), 'damaged or foreign file')}.")
        lines += [f"  {problem.file}: {problem.what}" for problem in found.run.problems]
    return lines or [f"Nothing is missing: {count(found.planned, 'trial')} finished, of as many planned, and every file is sound."]


def _stage_missing(rows: pl.DataFrame, stage: str) -> str:
    counts = dict(rows.filter(pl.col("stage") == stage)["state"].value_counts().iter_rows())
    return f"{stage} {', '.join(f'{counts[state]} {state}' for state in compare.STATES if state in counts)}" if counts else ""


def _after(separator: str, text: str) -> str:
    return f"{separator}{text}" if text else ""


def _say(console: Console, line: str, style: str = "") -> None:
    """Print words as they are, wrapped, further lines indented as the first: what is in a name is never markup."""
    indent = line[: len(line) - len(line.lstrip())]
    for part in textwrap.wrap(line, console.width, subsequent_indent=indent, break_on_hyphens=False):
        console.print(Text(part, style), highlight=False)
