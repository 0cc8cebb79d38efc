"""The results folder as the runner sees it: the run header, and which trials are finished. The records are the only truth."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_ablation import plan
from tune_ablation.errors import UserError
from tune_ablation.experiment import Experiment, differences
from tune_ablation.records import (
    CHECKPOINT_FILE,
    FAILURE_FILE,
    HEADER_FILE,
    RECORDS_FILE,
    SCHEMA,
    TRIALS_FOLDER,
    NewerError,
    RecordsError,
    is_finished,
    load_rows,
)
from tune_ablation.storage import Storage, redacted

if TYPE_CHECKING:
    from tune_ablation.data import PreparedData

BACKUP_FILE = "run.copy.json"
"""Written with the header: it alone says how the records were made, so it is kept twice."""

HEADER_KEYS = {"schema", "name", "digest", "experiment", "cells", "data", "precision", "sessions"}

PACKAGES = ("tune-ablation", "torch", "torchvision", "ray", "optuna", "numpy", "pillow", "polars")
READERS = 16
"""Files read at once: remote storage answers slowly and in parallel."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What earlier sessions left.

    Attributes:
        header: the run header; None where there was none.
        rows: the last record of every finished trial, by the trial's key.
    """

    header: dict[str, Any] | None
    rows: dict[str, dict[str, Any]]


def take_up(storage: Storage, experiment: Experiment, data: dict[str, Any], *, keep_checkpoints: bool) -> Found:
    """See what an experiment's results folder holds, and put it in order: for the one driver that holds it.

    What is damaged or gone is named in a warning that says what becomes of its trial.

    Raises:
        UserError: the folder is another experiment's, or a newer version's, or holds records that nothing tells the settings of.
    """
    names = set(storage.names(sweep=True))
    header = read_header(storage)
    if header is not None:
        check_continues(header, experiment, data, storage.where(""))
    elif any(name.startswith(f"{TRIALS_FOLDER}/") and name.endswith(f"/{RECORDS_FILE}") for name in names):
        raise UserError(
            f"{storage.where(HEADER_FILE)}: missing, and {BACKUP_FILE} too: without it nothing says how the records beside it were "
            "made; put it back, or move the folder away"
        )
    keys = plan.all_keys(experiment)
    rows = _finished_rows(storage, keys, names)
    if not keep_checkpoints:  # what a process that died right after its trial's last record left behind
        for name in (f"{TRIALS_FOLDER}/{key}/{CHECKPOINT_FILE}" for key in rows):
            if name in names:
                storage.delete(name)
    return Found(header, rows)


def _finished_rows(storage: Storage, keys: Iterable[str], names: set[str]) -> dict[str, dict[str, Any]]:
    folders = {name.rpartition("/")[0] for name in names}
    begun = [key for key in keys if f"{TRIALS_FOLDER}/{key}" in folders]
    wanted = [key for key in begun if f"{TRIALS_FOLDER}/{key}/{RECORDS_FILE}" in names]
    with ThreadPoolExecutor(READERS) as pool:
        rows = dict(zip(wanted, pool.map(lambda key: _rows(storage, key, names), wanted), strict=True))
    without = [key for key in begun if key not in rows and f"{TRIALS_FOLDER}/{key}/{FAILURE_FILE}" not in names]
    if without:
        logger.warning("begun before, and no records there: %s; going on from a checkpoint, or beginning again", ", ".join(without))
    return {key: trial[-1] for key, trial in rows.items() if is_finished(trial)}


def _rows(storage: Storage, key: str, names: set[str]) -> list[dict[str, Any]]:
    """A trial's records; none where they are damaged, which a warning says."""
    name = f"{TRIALS_FOLDER}/{key}/{RECORDS_FILE}"
    where = storage.where(name)
    has_checkpoint = f"{TRIALS_FOLDER}/{key}/{CHECKPOINT_FILE}" in names
    begins_again = "the trial goes on from its checkpoint" if has_checkpoint else "the trial is run again"
    try:
        rows = load_rows(storage.read(name) or b"", where)
    except NewerError as error:
        raise UserError(f"{error}; a newer version of tune-ablation wrote it") from None
    except RecordsError as error:
        logger.warning("%s; %s", error, begins_again)
        return []
    if rows[-1]["trial"] != key:
        logger.warning("%s: records of %s; %s", where, rows[-1]["trial"], begins_again)
        return []
    if not is_finished(rows) and not has_checkpoint:
        logger.warning("%s: %d of %d epochs and no checkpoint; %s", where, len(rows), rows[-1]["epochs"], begins_again)
    return rows


def write_failure(storage: Storage, key: str, reason: str, attempts: int) -> None:
    """Note beside a trial's records that it failed for a reason other than its configuration."""
    note = {"schema": SCHEMA, "trial": key, "reason": reason, "attempts": attempts}
    storage.write(f"{TRIALS_FOLDER}/{key}/{FAILURE_FILE}", _json(note))


def read_header(storage: Storage) -> dict[str, Any] | None:
    """The run header; None where no run has begun. One that is damaged or gone is put back from its copy.

    Raises:
        UserError: neither can be understood, or a newer version wrote them.
    """
    header, problem = _parse_header(storage, HEADER_FILE)
    if header is not None:
        return header
    copy, _ = _parse_header(storage, BACKUP_FILE)
    if copy is not None:
        logger.warning("%s: %s; put back from its copy, %s", storage.where(HEADER_FILE), problem or "gone", BACKUP_FILE)
        storage.write(HEADER_FILE, storage.read(BACKUP_FILE) or b"")
    elif problem is not None:
        raise UserError(f"{storage.where(HEADER_FILE)}: {problem}; put it back, or move the folder away to begin a new one")
    return copy


def _parse_header(storage: Storage, name: str) -> tuple[dict[str, Any] | None, str | None]:
    """The header in a file, or what is wrong with it; neither where there is none."""
    content = storage.read(name)
    if content is None:
        return None, None
    try:
        header = dict(json.loads(content))
        schema, check = header["schema"], header.pop("check", None)
    except (ValueError, KeyError, TypeError) as error:
        return None, f"damaged, not a run header ({error})"
    if check != _check(header) and (check is not None or header.keys() - HEADER_KEYS):  # the first headers had no check value
        return None, "damaged (its check value does not match)"
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"{storage.where(name)}: written in schema {schema} by a newer version of tune-ablation, this one reads {SCHEMA}")
    if schema != SCHEMA or not header.keys() >= HEADER_KEYS:
        return None, f"damaged, not a run header (schema {schema!r})"
    return header, None


def _check(header: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def check_continues(header: dict[str, Any], experiment: Experiment, data: dict[str, Any], where: str) -> None:
    """Refuse to mix results of different questions.

    Raises:
        UserError: the experiment or the data is another than the results were made from; the differences are shown.
    """
    found = differences(header["experiment"], experiment.resolved())
    if header["data"]["fingerprint"] != data["fingerprint"]:
        found.append(f"data: was {header['data']['fingerprint'][:12]}, now {data['fingerprint'][:12]} (other images)")
    if found:
        raise UserError(
            f"{where} holds results of another experiment of the same name ({'; '.join(found)}); "
            "give this one another name (--set name=...) or another --storage-path"
        )


def write_session(
    storage: Storage,
    experiment: Experiment,
    before: dict[str, Any] | None,
    cells: list[dict[str, Any]],
    data: dict[str, Any],
    precision: str,
    gpus: list[str],
) -> None:
    """Write the run header with this session at its end, and a copy of it; see ``README.md`` for its form.

    Args:
        storage: the experiment's results folder.
        experiment: what is run.
        before: the header as it was.
        cells: see ``describe_cells``.
        data: see ``describe_data``.
        precision: ``fp32`` or ``bf16``.
        gpus: their names.
    """
    header = {
        "schema": SCHEMA,
        "name": experiment.name,
        "digest": experiment.digest(),
        "experiment": experiment.resolved(),
        "cells": cells,
        "data": data,
        "precision": precision,
        "sessions": [*(before["sessions"] if before is not None else []), this_session(gpus)],
    }
    content = _json(header | {"check": _check(header)})
    storage.write(BACKUP_FILE, content)
    storage.write(HEADER_FILE, content)


def describe_data(experiment: Experiment, prepared: PreparedData) -> dict[str, Any]:
    """The data as the run header has it."""
    return {
        "fingerprint": prepared.fingerprint,
        "dataset": experiment.data.dataset,
        "classes": len(prepared.class_names),
        **{name: len(index) for name, index in prepared.splits.items()},
        "image_size": int(prepared.images.shape[1]),
    }


def describe_cells(experiment: Experiment, classes: int, image_size: int) -> list[dict[str, Any]]:
    """Every cell with its static profile, as the run header has it."""
    from tune_ablation.models.profile import profile_cell

    return [
        {
            "key": cell.key,
            "levels": dict(cell.levels),
            "profile": dataclasses.asdict(profile_cell(cell.model, classes, image_size)),
        }
        for cell in experiment.cells()
    ]


def check_batch_size(experiment: Experiment, prepared: PreparedData) -> None:
    """Refuse a batch larger than the training split.

    Raises:
        UserError: it is.
    """
    images = len(prepared.splits["train"])
    for cell in experiment.cells():
        if cell.recipe.batch_size > images:
            raise UserError(f"recipe.batch_size: given {cell.recipe.batch_size}, allowed: up to {images}, the number of training images")


def this_session(gpus: list[str]) -> dict[str, Any]:
    """What was started when, where and with which versions."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [redacted(argument) for argument in sys.argv],
        "host": platform.node(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "hardware": {"cpu": _cpu_name(), "cpus": os.cpu_count(), "gpus": gpus},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout this package runs from, ``+`` behind it where files were changed; None when installed."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
