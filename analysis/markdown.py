"""The report as Markdown, its figures as files beside it."""

from collections.abc import Mapping, Sequence

from analysis.document import Document, Experiment, Section
from analysis.sentences import reason
from analysis.style import Figure
from analysis.tables import Table


def markdown(content: Document, pictures: Mapping[int, str]) -> str:
    """Lay the report out.

    Args:
        content: the report.
        pictures: the file of each figure, relative to the report, by the figure's ``id()``.
    """
    parts = [f"# {_plain(content.title)}"]
    for experiment in content.experiments:
        parts += _experiment(experiment, pictures)
    if content.joint or content.together:
        parts += ["## All together", *([_table(content.joint)] if content.joint else []), _list(content.together)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _experiment(experiment: Experiment, pictures: Mapping[int, str]) -> list[str]:
    rulings = [
        f"**{ruling.verdict.upper()}**: {_plain(ruling.text.rstrip('.'))} ({_plain(reason(ruling))})" for ruling in experiment.rulings
    ]
    parts = [f"## {_plain(experiment.name)}", _plain(experiment.question), *map(_plain, experiment.verdict), _list(rulings)]
    if experiment.warnings:
        parts += ["**Before believing it:**", _list(experiment.warnings)]
    parts.append(" ".join(map(_plain, experiment.foundation)))
    for section in experiment.sections:
        parts += _section(section, pictures)
    return parts


def _section(section: Section, pictures: Mapping[int, str]) -> list[str]:
    parts = [f"### {section.title}", _list(section.lines)]
    parts += [_figure(figure, pictures[id(figure)]) for figure in section.figures]
    parts += [_table(table) for table in section.tables]
    if section.code:
        parts.append(f"```toml\n{section.code.rstrip()}\n```")
    return parts


def _figure(figure: Figure, file: str) -> str:
    return f"![{_plain(figure.title)}]({file})\n\n*{_plain(figure.title)}.* {_plain(figure.sentence)}"


def _table(table: Table) -> str:
    heading = [table.first, *(heading.replace("-\n", "").replace("\n", " ") for heading in table.headings)]
    rows = [[name.replace("\n", " "), *row] for name, row in zip(table.names, table.rows, strict=True)]
    lines = [_row(heading), _row(["---", *["---:"] * len(table.headings)]), *map(_row, rows)]
    return "\n\n".join([f"**{_plain(table.title)}**", "\n".join(lines), *map(_plain, table.notes)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell if set(cell) <= set('-:') and len(cell) > 2 else _plain(cell) for cell in cells)} |"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line if line.startswith('**') else _plain(line.strip())}" for line in lines)


def _plain(text: str) -> str:
    """Text as it is: what is in a name is never markup."""
    for sign in "\\`*_[]<>|#":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
