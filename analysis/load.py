"""From results folders to frames: the run header, one row per trial and epoch, and a list of what could not be read."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis import foreign
from analysis.design import of_experiment
from analysis.epochs import read_epochs
from analysis.files import try_read
from analysis.run import Failure, Problem, Results, Run
from tune_ablation.errors import UserError
from tune_ablation.records import (
    FAILURE_FILE,
    HEADER_FILE,
    RECORDS_FILE,
    SCHEMA,
    STAGES,
    TRIALS_FOLDER,
    RecordsError,
)
from tune_ablation.storage import LocalStorage, Storage, open_storage

if TYPE_CHECKING:
    from tune_ablation.experiment import Experiment


def load(sources: Iterable[str | Storage], columns: foreign.Columns | None = None) -> Results:
    """Read results.

    Args:
        sources: each the results folder of one experiment, a storage path with several, a Ray Tune folder of anyone's, or a log of
            imagenet/main.py or a folder of such; a path, a URI or a storage.
        columns: how to read a Ray Tune folder; left out, as it seems fit.

    Raises:
        UserError: a source holds no results, or none of its experiments can be read.
    """
    runs: dict[str, Run] = {}
    unreadable: list[str] = []
    for source in sources:
        found, reasons = _load_source(source, columns or foreign.Columns())
        if not found:
            raise UserError(reasons[0])
        runs |= {run.where: run for run in found}
        unreadable += reasons
    return Results(tuple(runs.values()), tuple(dict.fromkeys(unreadable)))


def _load_source(source: str | Storage, columns: foreign.Columns) -> tuple[list[Run], list[str]]:
    if isinstance(source, str) and Path(source).is_file():
        path = Path(source)
        return [foreign.load_logs(LocalStorage(path.parent), [path.name])], []
    storage = open_storage(source) if isinstance(source, str) else source
    try:
        names = _names(storage)
    except OSError as error:
        raise UserError(f"{storage.root}: cannot be listed ({error})") from None
    if not names and storage.folder is None and storage.root.endswith(foreign.LOG_ENDINGS):
        address, mark, options = storage.address.partition("?")
        folder, _, name = address.rpartition("/")
        return [foreign.load_logs(open_storage(folder + mark + options), [name])], []
    if _is_results(names):
        folders = {"": names}
    else:
        inside_of: dict[str, list[str]] = {}
        for name in names:
            folder, _, rest = name.partition("/")
            inside_of.setdefault(folder, []).append(rest)
        folders = {folder: inside for folder, inside in inside_of.items() if _is_results(inside)}
    if not folders:
        return [_load_foreign(storage, names, columns)], []
    runs, reasons = [], []
    for folder, inside in folders.items():
        try:
            runs.append(load_run(storage.child(folder) if folder else storage, inside))
        except UserError as error:
            reasons.append(str(error))
    return runs, reasons


def _load_foreign(storage: Storage, names: list[str], columns: foreign.Columns) -> Run:
    if any(name.rpartition("/")[2] == foreign.RESULT_FILE for name in names):
        return foreign.load_ray(storage, names, columns)
    logs = [name for name in names if name.endswith(foreign.LOG_ENDINGS)]
    if logs:
        return foreign.load_logs(storage, logs)
    raise UserError(
        f"{storage.root}: no results here: neither it nor a folder in it holds {HEADER_FILE} and {TRIALS_FOLDER}/, "
        f"it is no Ray Tune folder (no {foreign.RESULT_FILE}), and there is no log in it ({', '.join(foreign.LOG_ENDINGS)})"
    )


def _names(storage: Storage) -> list[str]:
    """The names of all files; on this machine's disk without a path object for each, which ten thousand trials would feel.

    Of an experiment folder of Ray Tune (known by its ``experiment_state-...json``) only the results that its trial folders should hold.
    """
    if storage.folder is None:
        return storage.names()
    root = str(storage.folder)
    try:
        with os.scandir(root) as entries:
            inside = {entry.name: entry.is_dir() for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return []
    if HEADER_FILE not in inside and any(name.startswith(foreign.STATE_PREFIX) for name in inside):
        return [f"{name}/{foreign.RESULT_FILE}" for name, is_folder in inside.items() if is_folder]
    return sorted(f"{folder[len(root) + 1 :]}/{file}".lstrip("/") for folder, _, files in os.walk(root) for file in files)


def _is_results(names: Iterable[str]) -> bool:
    return any(name == HEADER_FILE or _trial_of(name, RECORDS_FILE) for name in names)


def _trial_of(name: str, file: str) -> str | None:
    """The trial's key where ``name`` is that file of a trial."""
    prefix, suffix = f"{TRIALS_FOLDER}/", f"/{file}"
    return name[len(prefix) : -len(suffix)] if name.startswith(prefix) and name.endswith(suffix) else None


def load_run(storage: Storage, names: Iterable[str]) -> Run:
    """Read the results folder of one experiment.

    Args:
        storage: the folder.
        names: the files in it.

    Raises:
        UserError: its run header cannot be used, or it holds no file of any trial.
    """
    names = list(names)
    header, experiment = _header(storage)
    planned = _plan(experiment)
    record_files = {name: key for name in names if (key := _trial_of(name, RECORDS_FILE)) is not None}
    failure_files = {name: key for name in names if (key := _trial_of(name, FAILURE_FILE)) is not None}
    if not record_files and not failure_files:
        raise UserError(f"{storage.root}: no records in it: no trial has finished an epoch yet")
    common = {"experiment": experiment.name, "epochs": experiment.recipe.epochs}
    every_epoch = planned.with_columns(pl.lit(value).alias(name) for name, value in common.items())
    epochs, problems = read_epochs(storage, record_files, every_epoch)
    failures: list[Failure] = []
    trials = set(planned["trial"])
    for name, key in failure_files.items():
        try:
            failures.append(_failure(storage, name, key, trials))
        except RecordsError as error:
            problems.append(Problem(name, str(error)))
    return Run(storage.root, of_experiment(experiment), header, experiment, planned, epochs, tuple(failures), tuple(problems))


def _header(storage: Storage) -> tuple[dict[str, Any], Experiment]:
    from tune_ablation.experiment import parse  # and pydantic with it, which a folder that is not ours can do without

    where = storage.where(HEADER_FILE)
    try:
        content = storage.read(HEADER_FILE)
        if content is None:
            raise UserError(f"{where}: missing; without the run header the records' plan is not known")
        header = json.loads(content)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        given = header.get("schema") if isinstance(header, dict) else header
        raise UserError(f"{where}: not a run header of schema {SCHEMA}, but {json.dumps(given)[:60]}")
    content_of = {name: header.get(name) for name in ("experiment", "data")}
    for name, table in content_of.items():
        if not isinstance(table, dict):
            raise UserError(f"{where}: {name}: given {json.dumps(table)[:60]}, must be a table")
    classes = header["data"].get("classes")
    if not isinstance(classes, int) or classes < 1:
        raise UserError(f"{where}: data.classes: given {json.dumps(classes)[:60]}, must be a whole number above 0")
    return header, parse(header["experiment"], where)


def _plan(experiment: Experiment) -> pl.DataFrame:
    from tune_ablation import plan

    numbers = {"search": range(experiment.search.trials_per_cell), "confirm": experiment.confirm.seeds}
    rows = [
        {
            "trial": plan.trial_key(cell.key, stage, number),
            "cell": cell.key,
            **cell.levels,
            "stage": stage,
            "number": number,
        }
        for cell in experiment.cells()
        for stage in STAGES
        for number in numbers[stage]
    ]
    return pl.DataFrame(rows, infer_schema_length=None)


def _failure(storage: Storage, name: str, key: str, trials: Collection[str]) -> Failure:
    if key not in trials:
        raise RecordsError("foreign: its folder is no trial of this experiment's plan")
    text = try_read(storage, name)
    if isinstance(text, str):
        raise RecordsError(text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordsError(f"not JSON ({error})") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or content.get("trial") != key:
        raise RecordsError(f"foreign: not the failure of {key}, schema {SCHEMA}")
    reason, attempts = content.get("reason"), content.get("attempts")
    if not isinstance(reason, str) or not isinstance(attempts, int):
        raise RecordsError("foreign: must hold a reason in words and a number of attempts")
    return Failure(key, reason, attempts)
