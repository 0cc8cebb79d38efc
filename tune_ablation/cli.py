"""The command line: ``tune-ablation`` and ``python -m tune_ablation``. Without an argument it runs the quickstart."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from tune_ablation import __version__, plan
from tune_ablation import experiment as experiments
from tune_ablation.errors import Parser, UserError
from tune_ablation.storage import open_storage

if TYPE_CHECKING:
    from tune_ablation.data import PreparedData
    from tune_ablation.experiment import Experiment

CACHE_VARIABLE = "TUNE_ABLATION_CACHE"
DATA_FOLDER = Path("data")
"""Where ``data download`` puts Tiny-ImageNet and ``--data`` finds it by default."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command line without the program's name; ``sys.argv``'s if left out.

    Returns:
        The exit code: 0 done, 1 some trials failed, 2 something given was wrong, 130 interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser().parse_args(given or ["run", "quickstart"])
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_log_handler()])
        return int(options.command(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        print(f"error: {error.filename or 'a temporary file'}: {error.strerror}", file=sys.stderr)
        return 2


def _log_handler() -> logging.Handler:
    return RichHandler(console=Console(stderr=True), show_time=False, show_path=False, show_level=False)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="tune-ablation",
        description="Ablation studies that can be trusted: every cell of a grid tuned alike, its winner retrained on common seeds.",
        epilog=f"Experiments that come with it: {', '.join(experiments.shipped_names())}. Without a command: run quickstart.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    run = _command(commands, "run", _run, "run an experiment, or go on with it")
    _experiment_arguments(run)
    _data_arguments(run)
    _storage_argument(run)
    _cpus_argument(run)
    run.add_argument("--gpus-per-trial", type=_share, metavar="N", help="fractions allowed (default: 1 where there are GPUs)")
    run.add_argument("--parallel", type=_positive, metavar="N", help="at most N trials at once (default: as many as fit)")
    run.add_argument("--address", metavar="HOST:PORT", help="use a running Ray cluster; 'auto' for the one of this machine")
    run.add_argument("--max-retries", type=_count, default=3, metavar="N", help="restarts of a trial whose worker died (default: 3)")
    _keep_argument(run)
    _wait_argument(run)

    plan_command = _command(commands, "plan", _plan, "show what an experiment means: cells, trials, images, time")
    _experiment_arguments(plan_command)
    _data_arguments(plan_command)
    plan_command.add_argument("--no-measure", action="store_true", help="leave the time estimate out")
    _json_argument(plan_command)

    profile = _command(commands, "profile", _profile, "parameters, MAdd, Flops, memory and MemR+W of every cell")
    _experiment_arguments(profile)
    profile.add_argument("--classes", type=_positive, metavar="N", help="number of classes (default: the experiment's)")
    _json_argument(profile)

    train = _command(commands, "train", _train, "train one cell once, without Ray or a search")
    train.add_argument("-a", "--arch", required=True, metavar="CELL", help="e.g. resnet18_maxpool; resnet18 is resnet18_origin")
    train.add_argument("--epochs", type=_positive, default=30)
    train.add_argument("--lr", type=float, default=0.1)
    train.add_argument("--seed", type=_count, default=0)
    train.add_argument("--name", help="name of the results folder (default: train-CELL)")
    _settings_argument(train)
    _data_arguments(train)
    _storage_argument(train)
    _cpus_argument(train, default=os.cpu_count() or 1)
    _keep_argument(train)
    _wait_argument(train)

    graph = _command(commands, "graph", _graph, "write the network graph of every cell for TensorBoard")
    _experiment_arguments(graph)
    _storage_argument(graph)

    data = commands.add_parser("data", help="get Tiny-ImageNet, or decode it ahead").add_subparsers(
        required=True, metavar="COMMAND", parser_class=Parser
    )
    prepare = _command(data, "prepare", _data_prepare, "decode an experiment's images now instead of at the first run")
    _experiment_arguments(prepare)
    _data_arguments(prepare)
    download = _command(data, "download", _data_download, "fetch Tiny-ImageNet (237 MiB), check it and unpack it")
    download.add_argument("--to", type=Path, default=DATA_FOLDER, metavar="FOLDER", help=f"default: {DATA_FOLDER}/")
    download.add_argument("--url", help=argparse.SUPPRESS)  # mirrors; size and digest are checked all the same
    return parser


def _command(commands: argparse._SubParsersAction, name: str, function: object, help_text: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]  # argparse names this class only privately
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
    parser.set_defaults(command=function)
    return parser


def _experiment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT", help="a shipped experiment's name or the path of a TOML file")
    _settings_argument(parser)


def _settings_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="KEY=VALUE",
        help="override one value, e.g. recipe.epochs=3",
    )


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="PATH", help="Tiny-ImageNet, folder or zip (default: what `data download` fetched)")
    parser.add_argument(
        "--cache-dir",
        type=Path,
        default=_default_cache(),
        metavar="FOLDER",
        help=f"decoded images (default: ${CACHE_VARIABLE} or %(default)s)",
    )


def _storage_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage-path", default="results", metavar="PATH", help="folder or URI of all results (default: results/)")


def _cpus_argument(parser: argparse.ArgumentParser, default: int = 1) -> None:
    parser.add_argument(
        "--cpus-per-trial",
        type=_positive,
        default=default,
        metavar="N",
        help="CPU threads a trial (default: %(default)s)",
    )


def _keep_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep-checkpoints", action="store_true", help="keep the weights of finished trials")


def _wait_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait for another run of the same experiment to end, instead of refusing")


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _default_cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tune-ablation"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"given {text}, allowed: whole numbers from 1")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"given {text}, allowed: whole numbers from 0")
    return number


def _share(text: str) -> float:
    number = float(text)
    if number < 0 or (number > 1 and number != int(number)):
        raise argparse.ArgumentTypeError(f"given {text}, allowed: 0, a fraction of one GPU, or a whole number of GPUs")
    return number


def _run(options: argparse.Namespace) -> int:
    from analysis import report
    from tune_ablation.data.progress import decoding_progress
    from tune_ablation.runner.run import Options, run

    experiment = experiments.read(options.experiment, options.settings)
    console = _console()
    with decoding_progress(console) as progress:
        code = run(
            experiment,
            Options(
                storage_path=options.storage_path,
                data=_data_path(experiment, options.data),
                cache=options.cache_dir,
                cpus_per_trial=options.cpus_per_trial,
                gpus_per_trial=options.gpus_per_trial,
                parallel=options.parallel,
                address=options.address,
                max_retries=options.max_retries,
                keep_checkpoints=options.keep_checkpoints,
                wait=options.wait,
            ),
            console,
            progress,
        )
    storage = open_storage(options.storage_path).child(experiment.name)
    if code != 130:
        report.summary(storage, console)
    console.print(f"Results: {storage.root}", soft_wrap=True)
    return code


def _console() -> Console:
    """Standard output, as wide as its terminal, 80 columns where it is none."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 80, highlight=False)


def _data_path(experiment: Experiment, given: Path | None) -> Path | None:
    """What was given, or what ``data download`` left where it puts it."""
    if given is None and experiment.data.dataset == "tiny-imagenet" and (DATA_FOLDER / "tiny-imagenet-200").is_dir():
        return DATA_FOLDER / "tiny-imagenet-200"
    return given


def _prepared(experiment: Experiment, options: argparse.Namespace) -> PreparedData:
    from tune_ablation import data
    from tune_ablation.data.progress import decoding_progress

    with decoding_progress() as progress:
        return data.prepare(experiment.data, _data_path(experiment, options.data), cache_dir=options.cache_dir, progress=progress)


def _plan(options: argparse.Namespace) -> int:
    from tune_ablation.training.throughput import measure

    experiment = experiments.read(options.experiment, options.settings)
    prepared = _prepared(experiment, options)
    images = {name: len(index) for name, index in prepared.splits.items()}
    rows: list[_CellEstimate] = []
    for cell in experiment.cells():
        trials = experiment.search.trials_per_cell + len(experiment.confirm.seeds)
        batch = min(cell.recipe.batch_size, images["train"])
        trained = trials * cell.recipe.epochs * (images["train"] // batch * batch)
        evaluated = trials * cell.recipe.epochs * sum(images[name] for name in ("train_eval", "val", "test"))
        seconds = None
        if not options.no_measure:
            speed = measure(cell.model, cell.recipe, len(prepared.class_names), int(prepared.images.shape[1]))
            seconds = round(trained / speed.train + evaluated / speed.evaluation, 1)
        search_trials, confirm_trials = experiment.search.trials_per_cell, len(experiment.confirm.seeds)
        rows.append(_CellEstimate(cell.key, search_trials, confirm_trials, trained, evaluated, seconds))
    workers = _workers()
    if options.json:
        content = {
            "experiment": experiment.name,
            "digest": experiment.digest(),
            "cells": [row._asdict() for row in rows],
            "trials": list(plan.all_keys(experiment)),
            "parallel": workers,
        }
        print(json.dumps(content, indent=2))
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("cell", no_wrap=True)
    for heading in ("search", "confirm", "images trained", "one after another"):
        table.add_column(heading, justify="right")
    for row in rows:
        time = _hours(row.seconds) if row.seconds is not None else "-"
        table.add_row(row.cell, str(row.search_trials), str(row.confirm_trials), f"{row.images_trained:,}", time)
    console = _console()
    console.print(f"{experiment.name}: {len(rows)} cells, {len(plan.all_keys(experiment))} trials, {experiment.recipe.epochs} epochs each")
    console.print(table)
    if not options.no_measure:
        total = sum(row.seconds or 0.0 for row in rows)
        console.print(f"About {_hours(total / workers)} on this machine with {workers} trials at a time, as measured just now.")
    return 0


class _CellEstimate(NamedTuple):
    """What a cell's trials come to; ``seconds`` if they ran one after another."""

    cell: str
    search_trials: int
    confirm_trials: int
    images_trained: int
    images_evaluated: int
    seconds: float | None


def _workers() -> int:
    import torch

    return torch.cuda.device_count() or os.cpu_count() or 1


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _profile(options: argparse.Namespace) -> int:
    from tune_ablation.models.profile import profile_cell, to_json

    experiment = experiments.read(options.experiment, options.settings)
    classes = options.classes or _classes(experiment)
    profiles = [(cell.key, profile_cell(cell.model, classes, experiment.data.image_size)) for cell in experiment.cells()]
    if options.json:
        print(json.dumps([to_json(key, profile) for key, profile in profiles], indent=2))
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("cell", no_wrap=True)
    for heading in ("params", "MAdd", "Flops", "memory", "MemR+W", "by torch"):
        table.add_column(heading, justify="right", no_wrap=True)
    for key, profile in profiles:
        table.add_row(
            key,
            f"{profile.params:,}",
            f"{profile.madd / 1e6:.2f} M",
            f"{profile.flops / 1e6:.2f} M",
            f"{profile.memory_bytes / 2**20:.2f} MB",
            f"{profile.memory_rw_bytes / 2**20:.2f} MB",
            f"{profile.flop_counter / 1e6:.2f} M",
        )
    console = _console()
    console.print(table)
    console.print(
        f"3 x {experiment.data.image_size} x {experiment.data.image_size} pixels, batch 1, {classes} classes. MAdd counts additions and "
        "multiplications one by one, Flops counts a multiply-add once, by torchstat's rules; the last column is torch's own count of "
        "both operations of the convolutions and linear layers."
    )
    return 0


def _train(options: argparse.Namespace) -> int:
    from analysis import report
    from tune_ablation.models import parse_cell_key
    from tune_ablation.trial import train_alone

    depth, head = parse_cell_key(options.arch)
    settings = {
        "name": options.name or f"train-resnet{depth}_{head}",
        "grid": {"depth": [depth], "head": [head]},
        "data": {"dataset": "tiny-imagenet" if options.data is not None else "synthetic"},
        "recipe": {"epochs": options.epochs, "lr": options.lr, "schedule": "step"},
        "search": {"trials_per_cell": 0},
        "confirm": {"seeds": [options.seed]},
    }
    experiment = experiments.with_settings(settings, options.settings, "train")
    console = _console()
    prepared = _prepared(experiment, options)
    console.print(f"{options.arch} on {len(prepared.splits['train']):,} images of {experiment.data.dataset}")
    storage = open_storage(options.storage_path).child(experiment.name)
    train_alone(
        experiment,
        prepared,
        storage,
        threads=options.cpus_per_trial,
        keep_checkpoint=options.keep_checkpoints,
        on_epoch=lambda row: console.print(_epoch_line(row), soft_wrap=True),
        say=lambda line: console.print(line, soft_wrap=True, markup=False),
        wait=options.wait,
    )
    report.summary(storage, console)
    console.print(f"Results: {storage.root}", soft_wrap=True)
    return 0


def _epoch_line(row: dict[str, Any]) -> str:
    if row["diverged"]:
        return f"epoch {row['epoch']}/{row['epochs']}: diverged"
    return (
        f"epoch {row['epoch']}/{row['epochs']}: train loss {row['train_loss']:.3f}, test loss {row['test_loss']:.3f}, "
        f"acc@1 {row['test_acc1']:.2f}, acc@5 {row['test_acc5']:.2f} ({row['train_images_per_second']:,.0f} images/s)"
    )


def _graph(options: argparse.Namespace) -> int:
    from tune_ablation.models import build_model
    from tune_ablation.training.events import write_graph_alone

    experiment = experiments.read(options.experiment, options.settings)
    folder = Path(options.storage_path) / experiment.name / "graphs"
    for cell in experiment.cells():
        model = build_model(cell.model, _classes(experiment), image_size=experiment.data.image_size)
        write_graph_alone(folder / cell.key, model, experiment.data.image_size)
    _console().print(f"Wrote the graphs of {len(experiment.cells())} cells: tensorboard --logdir {folder}", soft_wrap=True)
    return 0


def _classes(experiment: Experiment) -> int:
    from tune_ablation.data.datasets import DEFAULT_CLASSES

    return experiment.data.classes or DEFAULT_CLASSES[experiment.data.dataset]


def _data_prepare(options: argparse.Namespace) -> int:
    experiment = experiments.read(options.experiment, options.settings)
    prepared = _prepared(experiment, options)
    sizes = ", ".join(f"{len(index):,} {name}" for name, index in prepared.splits.items())
    _console().print(f"{len(prepared.class_names)} classes: {sizes}; decoded in {options.cache_dir}", soft_wrap=True)
    return 0


def _data_download(options: argparse.Namespace) -> int:
    from tune_ablation.data import download
    from tune_ablation.data.progress import download_progress

    with download_progress() as progress:
        archive = download.download(options.to, url=options.url or download.URL, progress=progress)
        folder = download.unpack(archive, options.to)
    _console().print(f"Tiny-ImageNet is in {folder}; give it as --data {folder}", soft_wrap=True)
    return 0
