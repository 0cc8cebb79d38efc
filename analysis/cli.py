"""The command line of the analysis: ``python -m analysis RESULTS...``."""

import argparse
import io
import json
import os
import sys

from rich.console import Console

from analysis import report
from analysis.load import load
from tune_ablation.errors import UserError


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
    parser = argparse.ArgumentParser(
        prog="tune-ablation-analysis", description="Say what the results of experiments mean."
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS",
        help="an experiment's results folder, or a storage path that holds several; a path or a URI (s3://bucket/results)",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    results = load(arguments.results)
    found = [report.overview(run) for run in results.runs]
    if arguments.json:
        content = {"experiments": [report.as_json(one) for one in found], "unreadable": list(results.unreadable)}
        print(json.dumps(content, indent=2, allow_nan=False))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a sign shows "?" rather than failing
    console = Console()
    with console.capture() as captured:  # rich would leave with an exit code of its own where the reader has gone
        for one in found:
            report.show(one, console)
        report.show_unreadable(results.unreadable, console)
    sys.stdout.write(captured.get())
