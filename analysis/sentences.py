"""The findings in sentences: verdicts, what they rest on, crossovers, the audit, what is missing. Every kind of report says the same."""

from collections.abc import Iterator
from itertools import groupby

import polars as pl

from analysis import claims, compare, statistics
from analysis.analyse import Analysis
from analysis.run import Run
from analysis.words import after, count, label, p_value
from tune_ablation.records import STAGES

NORMALITY = "With so few seeds the exact test could never decide: these verdicts rest on seed noise being near normal."


def reason(ruling: claims.Ruling) -> str:
    """Why a verdict is what it is."""
    return ruling.because + ("" if ruling.p_holm is None else f"; p {p_value(ruling.p_holm)}")


def verdicts(found: Analysis) -> list[str]:
    """One sentence a claim."""
    return [f"{ruling.verdict.upper()}: {ruling.text.rstrip('.')} ({reason(ruling)})." for ruling in found.claims]


def verdict(found: Analysis) -> list[str]:
    """What all claims together come to, in one line; nothing of a foreign folder."""
    if not found.claims:
        return (
            [] if not found.run.experiment else ["Verdict: the experiment file makes no claim; the contrasts below stand for themselves."]
        )
    counts = ", ".join(f"{sum(ruling.verdict == kind for ruling in found.claims)} {kind}" for kind in claims.VERDICTS)
    tested = sum(ruling.p is not None for ruling in found.claims)
    together = f" p values are Holm-adjusted over the {tested} claims tested; [ ] are 95 % intervals over seeds." if tested else ""
    ruled = [ruling for ruling in found.claims if ruling.p is not None and ruling.verdict != claims.INCONCLUSIVE]
    seeds = [figure.n for ruling in ruled for figure in ruling.figures if figure.n is not None]
    unsure = f" {NORMALITY}" if seeds and not statistics.exact_can_decide(min(seeds), tested) else ""
    return [f"Verdict: {counts}.{together}{unsure}"]


def chance(run: Run, guesses: int) -> float | None:
    """Accuracy of guessing, in percent, where one of ``guesses`` answers has to be right; None where the classes are not known."""
    return None if run.classes is None else 100 * min(1.0, guesses / run.classes)


def foundation(found: Analysis) -> list[str]:
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
    images = after(", ", f"{data['test']:,} test images" if isinstance(data.get("test"), int) else "")
    listed = f"{count(len(seeds), 'confirm seed')} a cell ({', '.join(map(str, seeds))})"
    spread = "mean ± standard deviation over them" if len(seeds) > 1 else "one seed has no standard deviation"
    return [
        f"Rests on {listed}: {spread}.",
        f"Data: {experiment.data.dataset}, {run.classes} classes{images}; {count(epochs, 'epoch')} a trial.",
        f"Chance level: acc@1 {chance(run, 1):.4g} %, acc@5 {chance(run, 5):.4g} %.",
        target,
    ]


def crossovers(found: Analysis) -> list[str]:
    """A sentence for each change of order that is clear on both sides."""
    return [
        f"Crossover in {label(row['metric'])}: {row['ahead_before']} is ahead up to epoch {row['clear_before']}, {row['ahead_after']} from "
        f"epoch {row['clear_after']} on, each time clear of zero (order changes at epoch {row['epoch']}; {row['n']} seeds)."
        for row in found.crossovers.iter_rows(named=True)
    ]


def audit(found: Analysis) -> list[str]:
    """The audit, one line for each thing found, the cells it was found in together."""
    if not found.findings:
        return ["Audit: nothing found that would make the comparison unfair."]
    lines = [f"Audit: {count(sum(finding.serious for finding in found.findings), 'serious finding')}, others are caveats."]
    return lines + [f"  {'! ' if is_serious else ''}{text}" for is_serious, text in _findings(found)]


def serious(found: Analysis) -> list[str]:
    """What of the audit is serious."""
    return [text for is_serious, text in _findings(found) if is_serious]


def _findings(found: Analysis) -> Iterator[tuple[bool, str]]:
    for _, group in groupby(found.findings, key=lambda finding: (finding.code, finding.text)):
        findings = list(group)
        cells = ", ".join(cell for finding in findings for cell in finding.cells) if len(findings[0].cells) < 2 else ""
        yield findings[0].serious, f"{cells}{': ' if cells else ''}{findings[0].text}."


def missing(found: Analysis) -> list[str]:
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
