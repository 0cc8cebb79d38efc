"""``python -m tests.chaos``: kills real runs at seeded moments, starts them again, and shows that nothing is lost."""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.live import Live

from tests.chaos import tables
from tests.chaos.harness import Chaos
from tests.chaos.schedule import KINDS


def main() -> int:
    """Run it; 1 if anything was lost, trained twice or left behind."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of kills and moments (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="put the tables into this Markdown page")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where the runs stand, those with faults are kept (default: temporary)")
    options = parser.parse_args()
    folder = options.work or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    chaos = Chaos(folder, options.seed, lambda line: console.print(line, markup=False, soft_wrap=True), kinds=options.kinds)
    view = Live(get_renderable=lambda: tables.live(chaos, options.kills), console=console, transient=True)
    with view if console.is_terminal else nullcontext():
        chaos.run(options.kills)
    console.print(tables.live(chaos, options.kills))
    if options.out is not None:
        tables.put(options.out, "chaos", tables.of_chaos(chaos, options.seed))
    return 1 if chaos.faults or chaos.differences else 0


if __name__ == "__main__":
    sys.exit(main())
