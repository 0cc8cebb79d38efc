"""The command line of the analysis: ``python -m analysis RESULTS...``."""

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from analysis import report
from analysis.analyse import Analysis, analyse, quantity_of
from analysis.as_json import as_json
from analysis.curves import quantities
from analysis.foreign import Columns
from analysis.load import load
from analysis.run import Run
from tune_ablation.errors import Parser, UserError
from tune_ablation.storage import open_storage


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 where what was given is wrong."""
    try:
        _run(_parser().parse_args(argv))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read our output has stopped; Python would complain once more when it flushes on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="tune-ablation-analysis", description="Say what the results of experiments mean.")
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS",
        help="an experiment's results folder, a storage path that holds several, any Ray Tune folder, or a log of pytorch/examples "
        "imagenet/main.py or a folder of such; a path or a URI (s3://bucket/results)",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="write the report there too: report.html (one file, opens offline), report.md, its figures as PNG and SVG, epochs.parquet, "
        "trials.parquet, cells.csv; a path or a URI",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="what cells are contrasted on (default: final test acc@1); of a Ray Tune folder the columns that were measured, the one "
        "to contrast first, NAME:min or NAME:max where the name does not tell which is better; may be given several times",
    )
    parser.add_argument("--all-pairs", action="store_true", help="contrast every pair of cells, not only each with its baseline")
    ray = parser.add_argument_group("for a Ray Tune folder", "A column is a key of its results or parameters; a/b is b in table a.")
    ray.add_argument("--cells", type=_names, default=(), metavar="A,B", help="the parameters whose combinations are the cells")
    ray.add_argument("--baseline", type=_names, default=(), metavar="A=LEVEL", help="the level that makes a cell the baseline")
    ray.add_argument("--seed-column", metavar="NAME", help="tells repetitions of a cell apart; without it trials count as a search")
    ray.add_argument("--epoch-column", default=Columns.epoch, metavar="NAME", help="counts a trial's rows (default: %(default)s)")
    ray.add_argument("--lr-column", default=Columns.lr, metavar="NAME", help="the learning rate (default: %(default)s)")
    ray.add_argument("--seconds-column", default=Columns.seconds, metavar="NAME", help="time an epoch took (default: %(default)s)")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _columns(arguments: argparse.Namespace) -> Columns:
    return Columns(
        metrics=tuple(arguments.metric),
        cells=arguments.cells,
        baseline=arguments.baseline,
        epoch=arguments.epoch_column,
        lr=arguments.lr_column,
        seed=arguments.seed_column,
        seconds=arguments.seconds_column,
    )


def _run(arguments: argparse.Namespace) -> None:
    results = load(arguments.results, _columns(arguments))
    ours_alone = all(run.experiment is not None for run in results.runs)
    found = [analyse(run, _metric(run, arguments.metric, ours_alone=ours_alone), every_pair=arguments.all_pairs) for run in results.runs]
    written = _write(found, results.unreadable, arguments.out) if arguments.out is not None else ""
    if arguments.json:
        print(json.dumps(as_json(found, results.unreadable), indent=2, allow_nan=False))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a sign shows "?" rather than failing
    console = Console()
    with console.capture() as captured:  # rich would leave with an exit code of its own where the reader has gone
        report.show_all(found, results.unreadable, console)
    sys.stdout.write(captured.get() + written)


def _metric(run: Run, given: Sequence[str], *, ours_alone: bool) -> str | None:
    """What to contrast a run on: the metric given, unless it names a column of a Ray Tune folder read beside it."""
    if not given or run.experiment is None:  # a foreign run's design has its own metrics already
        return None
    return given[0] if ours_alone or quantity_of(given[0], quantities(run.design)) else None


def _write(found: Sequence[Analysis], unreadable: Sequence[str], out: str) -> str:
    from analysis import export  # drawing takes a second to load: only who asks for it waits

    storage = open_storage(out)
    files = export.write(found, unreadable, storage)
    return f"Report: {storage.where('report.html')} and {len(files) - 1} files beside it.\n"
