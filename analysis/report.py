"""What a person reads in a terminal of 80 columns: the verdict first, then cells, contrasts, effects, the audit and what is missing."""

import re
import textwrap
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import audit, sentences, tables, together
from analysis.analyse import Analysis, analyse
from analysis.load import load
from analysis.words import after
from tune_ablation.storage import Storage

WIDTH = 80
"""The narrowest terminal that the tables are laid out for."""


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
    if joint := together.table(found):
        _show_table(joint, [factor for one in found for factor in one.design.factors], console, title=f"{joint.title}:")
        for note in joint.notes:
            _say(console, note)
        console.print()
    for finding in audit.across([one.run for one in found]):
        _say(console, f"Audit: {finding.text}.")
    for reason in unreadable:
        _say(console, f"Left out: {reason}")


def show(found: Analysis, console: Console) -> None:
    """Print the summary of one experiment."""
    design = found.design
    _say(console, design.name + after(": ", design.question), style="bold")
    for lines in filter(None, ([*sentences.verdicts(found), *sentences.verdict(found)], sentences.foundation(found))):
        console.print()
        for line in lines:
            _say(console, line)
    of_cells = (tables.outcome(found), tables.trials(found))
    for table in of_cells:
        _show_table(table, design.factors, console)
    for note in dict.fromkeys(note for table in of_cells for note in table.notes):
        _say(console, note)
    for tested in filter(None, (tables.contrasts(found), tables.effects(found))):
        _show_table(tested, design.factors, console, title=f"{tested.title}:")
        for note in tested.notes:
            _say(console, note)
    for line in sentences.crossovers(found):
        _say(console, line)
    console.print()
    for line in [*sentences.audit(found), *sentences.missing(found)]:
        _say(console, line)
    console.print()


def _show_table(table: tables.Table, factors: Sequence[str], console: Console, title: str = "") -> None:
    console.print()
    if title:
        _say(console, title, style="bold")
    if table.names:
        console.print(_laid_out(table, factors, max(console.width, WIDTH)), highlight=False)


def _laid_out(content: tables.Table, factors: Sequence[str], width: int) -> Table:
    """Numbers keep their lines whole: the names, which alone can be long, are broken to fit beside them."""
    between = 2  # a blank of padding and one of the box
    needed = [
        max(len(line) for text in column for line in text.split("\n")) for column in zip(content.headings, *content.rows, strict=True)
    ]
    room = max(width - sum(needed) - between * len(needed), len("resnet"))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(content.first, no_wrap=False, max_width=room)
    for heading, least in zip(content.headings, needed, strict=True):
        table.add_column(Text(heading), justify="right", min_width=least, overflow="fold")
    for name, row in zip(content.names, content.rows, strict=True):
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


def _say(console: Console, line: str, style: str = "") -> None:
    """Print words as they are, wrapped, further lines indented as the first: what is in a name is never markup."""
    indent = line[: len(line) - len(line.lstrip())]
    for part in textwrap.wrap(line, console.width, subsequent_indent=indent, break_on_hyphens=False):
        console.print(Text(part, style), highlight=False)
