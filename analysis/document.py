"""The report's content in reading order, the verdict first: what Markdown and HTML lay out, each in its own way."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tomli_w

from analysis import audit, figures, sentences, tables
from analysis.analyse import Analysis
from analysis.claims import Ruling
from analysis.style import Figure, Style, styles
from analysis.tables import Table
from analysis.together import table as joint_table
from analysis.words import after, count


@dataclass(frozen=True)
class Section:
    """A part of the report: what is said, shown and listed, each possibly empty."""

    title: str
    lines: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    code: str = ""


@dataclass(frozen=True)
class Experiment:
    """The report on one experiment.

    Attributes:
        name: of the experiment, or of the foreign folder.
        question: what it asks; may be empty.
        verdict: what all claims come to, in sentences.
        warnings: what the audit has to say that is serious, and whether results are missing.
        rulings: the claims.
        foundation: what everything rests on.
        styles: every cell's look.
        drawn: the cells that the figures show.
        sections: the rest.
    """

    name: str
    question: str
    verdict: Sequence[str]
    warnings: Sequence[str]
    rulings: Sequence[Ruling]
    foundation: Sequence[str]
    styles: Mapping[str, Style]
    drawn: Sequence[str]
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        """Every figure, in reading order."""
        return [figure for section in self.sections for figure in section.figures]


@dataclass(frozen=True)
class Document:
    """The whole report.

    Attributes:
        experiments: one part each.
        joint: their cells side by side; None for a single experiment.
        together: what keeps the experiments from being compared, and what could not be read.
    """

    experiments: Sequence[Experiment]
    joint: Table | None
    together: Sequence[str]

    @property
    def title(self) -> str:
        """What the report is about."""
        return "Ablation report" + after(": ", ", ".join(experiment.name for experiment in self.experiments))


def document(found: Sequence[Analysis], unreadable: Iterable[str]) -> Document:
    """Compose the report of several experiments."""
    together = [f"{finding.text}." for finding in audit.across([one.run for one in found])]
    return Document([_experiment(one) for one in found], joint_table(found), [*together, *(f"Left out: {reason}" for reason in unreadable)])


def _experiment(found: Analysis) -> Experiment:
    pictures = {figure.name: figure for figure in figures.figures(found)}

    def take(*names: str) -> list[Figure]:
        return [pictures.pop(name) for name in names if name in pictures]

    by_epoch = [name for name in pictures if name.startswith("curves_")]
    everything = (
        Section("Contrasts", sentences.crossovers(found), take("contrasts"), _those(tables.contrasts(found), tables.effects(found))),
        Section("Cells", (), take("cells"), [tables.outcome(found), tables.trials(found)]),
        Section("Training", (), take(*by_epoch, "gap", "reached"), _those(tables.course(found))),
        Section("Search", (), take("learning_rates"), _those(tables.responses(found))),
        Section("Cost", (), take("costs"), _those(tables.costs(found))),
        Section("Other quantities", (), take("contrasts_secondary"), _those(tables.secondary(found))),
        Section("Audit", [*sentences.audit(found), *sentences.missing(found)]),
        _provenance(found),
    )
    return Experiment(
        name=found.design.name,
        question=found.design.question,
        verdict=sentences.verdict(found),
        warnings=_warnings(found),
        rulings=found.claims,
        foundation=sentences.foundation(found),
        styles=styles(found.design.cells),
        drawn=figures.drawn(found),
        sections=[section for section in everything if section.lines or section.figures or section.tables or section.code],
    )


def _warnings(found: Analysis) -> list[str]:
    lines = sentences.serious(found)
    if found.finished < found.planned:
        lines.append(f"{found.planned - found.finished} of {count(found.planned, 'trial')} are not finished.")
    if found.run.problems:
        lines.append(f"{count(len(found.run.problems), 'damaged or foreign file')} left out.")
    return lines


def _those(*given: Table | None) -> list[Table]:
    return [table for table in given if table is not None]


def _provenance(found: Analysis) -> Section:
    """The experiment file as resolved, and what ran it."""
    header = found.run.header
    if not header:
        return Section("Where it is from", [f"Read from {found.run.where}."])
    names, rows = [], []
    for session in header.get("sessions") or []:
        if isinstance(session, dict):
            versions, hardware = session.get("versions") or {}, session.get("hardware") or {}
            names.append(str(session.get("started")))
            packages = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
            processors = ", ".join(filter(None, [f"{hardware.get('cpus')} x {hardware.get('cpu')}", *(hardware.get("gpus") or [])]))
            rows.append((str(session.get("host")), processors, str(session.get("commit") or "not known")[:13], packages))
    table = Table("Every start of the run", "started", names, ("host", "hardware", "commit", "versions"), rows)
    code = tomli_w.dumps(_without_none(header["experiment"]))
    return Section("The experiment", [f"Digest {header.get('digest')}."], tables=[table] if rows else [], code=code)


def _without_none(content: Mapping[str, Any]) -> dict[str, Any]:
    """TOML knows no null: what is not set is left out, as in the file."""
    return {name: _value(value) for name, value in content.items() if value is not None}


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _without_none(value)
    return [_value(one) for one in value] if isinstance(value, list | tuple) else value
