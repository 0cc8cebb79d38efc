"""The results folder as the runner sees it: the run header, and which trials are finished. The records are the only truth."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_ablation.errors import UserError
from tune_ablation.experiment import Experiment, differences
from tune_ablation.records import (
    CHECKPOINT_FILE,
    FAILURE_FILE,
    HEADER_FILE,
    RECORDS_FILE,
    SCHEMA,
    TRIALS_FOLDER,
    RecordsError,
    is_finished,
    load_rows,
)
from tune_ablation.storage import Storage

if TYPE_CHECKING:
    from tune_ablation.data import PreparedData

PACKAGES = ("tune-ablation", "torch", "torchvision", "ray", "optuna", "numpy", "pillow", "polars")
READERS = 16
"""Files read at once: remote storage answers slowly and in parallel."""

logger = logging.getLogger(__name__)


def finished_rows(storage: Storage, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The last record of every finished trial among ``keys``.

    A damaged file is named in a warning and counts as unfinished: its trial goes on from its checkpoint, or begins again.
    """
    present = set(storage.names(TRIALS_FOLDER))
    wanted = [key for key in keys if f"{TRIALS_FOLDER}/{key}/{RECORDS_FILE}" in present]
    with ThreadPoolExecutor(READERS) as pool:
        rows = pool.map(lambda key: _last_if_finished(storage, key), wanted)
    return {key: row for key, row in zip(wanted, rows, strict=True) if row is not None}


def _last_if_finished(storage: Storage, key: str) -> dict[str, Any] | None:
    name = f"{TRIALS_FOLDER}/{key}/{RECORDS_FILE}"
    content = storage.read(name)
    try:
        rows = load_rows(content or b"", storage.where(name))
    except RecordsError as error:
        logger.warning("%s; the trial is run again", error)
        return None
    return rows[-1] if is_finished(rows) and rows[-1]["trial"] == key else None


def remove_checkpoints(storage: Storage, finished: Iterable[str]) -> None:
    """Remove what a process that died right after its trial's last record left behind."""
    present = set(storage.names(TRIALS_FOLDER))
    for name in (f"{TRIALS_FOLDER}/{key}/{CHECKPOINT_FILE}" for key in finished):
        if name in present:
            storage.delete(name)


def write_failure(storage: Storage, key: str, reason: str, attempts: int) -> None:
    """Note beside a trial's records that it failed for a reason other than its configuration."""
    note = {"schema": SCHEMA, "trial": key, "reason": reason, "attempts": attempts}
    storage.write(f"{TRIALS_FOLDER}/{key}/{FAILURE_FILE}", _json(note))


def read_header(storage: Storage) -> dict[str, Any] | None:
    """The run header, or None where no run has begun.

    Raises:
        UserError: there is one that cannot be understood, or that a newer version wrote.
    """
    content = storage.read(HEADER_FILE)
    if content is None:
        return None
    where = storage.where(HEADER_FILE)
    try:
        header = json.loads(content)
        schema = header["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: damaged, not a run header ({error}); move it away to begin a new one") from None
    if schema != SCHEMA:
        raise UserError(f"{where}: written in schema {schema!r}, this version reads {SCHEMA}")
    return dict(header)


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


def write_header(
    storage: Storage,
    experiment: Experiment,
    cells: list[dict[str, Any]],
    data: dict[str, Any],
    precision: str,
    sessions: list[dict[str, Any]],
) -> None:
    """Write the run header; see ``README.md`` for its form."""
    header = {
        "schema": SCHEMA,
        "name": experiment.name,
        "digest": experiment.digest(),
        "experiment": experiment.resolved(),
        "cells": cells,
        "data": data,
        "precision": precision,
        "sessions": sessions,
    }
    storage.write(HEADER_FILE, _json(header))


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
        "command": sys.argv,
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
