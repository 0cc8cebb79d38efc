"""What a run of the harness came to: a live view on a terminal, and the tables that docs/chaos.md keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from tests.chaos.harness import Campaign, Chaos, Done
from tests.chaos.schedule import KINDS
from tune_ablation import results

PACKAGES = ("python", "torch", "ray", "optuna")
Row = tuple[str, ...]

BY_KIND: Row = ("kill", "kills", "while starting", "while training", "inside a write", "driver gone after")
BY_EXPERIMENT: Row = ("experiment", "kills", "starts", "epochs needed", "epochs trained", "records compared", "differences", "faults")


def by_kind(done: Sequence[Done]) -> list[Row]:
    """A row a kind of kill, and their sum."""
    rows = [_kind_row(kind, [kill for kill in done if kill.kill.kind == kind]) for kind in KINDS]
    return [*rows, _kind_row("all", done)]


def _kind_row(kind: str, done: Sequence[Done]) -> Row:
    writes = [kill for kill in done if kill.within]
    starting = [kill for kill in done if kill.kill.moment == "start"]
    seconds = [kill.seconds for kill in done if kill.code is not None]
    return (
        kind,
        str(len(done)),
        str(len(starting)),
        str(len(done) - len(starting) - len(writes)),
        str(len(writes)),
        f"{max(seconds):.1f} s" if seconds else "",
    )


def by_experiment(campaigns: Sequence[Campaign], done: Sequence[Done]) -> list[Row]:
    """A row an experiment, and their sum."""
    rows = []
    for campaign in campaigns:
        kills = sum(kill.campaign == campaign.number for kill in done)
        rows.append((campaign.number, kills, *_counts(campaign)))
    total = [sum(column) for column in zip(*rows, strict=True)][1:] if rows else []
    return [*(tuple(map(str, row)) for row in rows), ("all", *map(str, total))]


def _counts(campaign: Campaign) -> tuple[int, ...]:
    return campaign.starts, campaign.needed, campaign.trained, campaign.compared, campaign.differences, len(campaign.faults)


def live(chaos: Chaos, kills: int) -> Group:
    """The live view."""
    summary = f"{len(chaos.done)} of {kills} kills, {len(chaos.campaigns)} experiments"
    return Group(
        _rich(BY_KIND, by_kind(chaos.done)), Text(), _rich(BY_EXPERIMENT, by_experiment(chaos.campaigns, chaos.done)), Text(summary)
    )


def _rich(headings: Row, rows: Iterable[Row]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(headings: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown."""
    lines = [headings, ("---", *("---:" for _ in headings[1:])), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def where_and_when() -> str:
    """The machine, the versions and the day, as a sentence."""
    session = results.this_session([])
    versions = ", ".join(f"{name} {session['versions'][name]}" for name in PACKAGES)
    return f"Measured on {session['started'][:10]}: {session['hardware']['cpu']}, {session['hardware']['cpus']} cores; {versions}."


def of_chaos(chaos: Chaos, seed: int) -> str:
    """The harness's part of the page."""
    return "\n".join(
        (
            f"`python -m tests.chaos --kills {len(chaos.done)} --seed {seed}`",
            "",
            where_and_when(),
            "",
            markdown(BY_KIND, by_kind(chaos.done)),
            markdown(BY_EXPERIMENT, by_experiment(chaos.campaigns, chaos.done)),
        )
    )


def put(page: Path, part: str, content: str) -> None:
    """Replace a part of a page, which stands between two comments that name it.

    Raises:
        ValueError: the page has no such part.
    """
    begin, end = f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{page}: no part {part!r} between comments")
    page.write_text(f"{before}{begin}{content}{end}{after}", encoding="utf-8")
