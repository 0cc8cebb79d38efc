"""TensorBoard events of one trial, written from its records: scalars, hyperparameters and, on request, the network's graph."""

from __future__ import annotations

import logging
import platform
import struct
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import hparams, scalar

from tune_ablation.records import EVALUATED, HIGHER_IS_BETTER
from tune_ablation.storage import StorageError

if TYPE_CHECKING:
    from torch import nn

EVENTS_PREFIX = "events.out.tfevents"
SCALARS: dict[str, str] = {
    "train_loss": "loss/train_running",
    "train_acc1": "acc1/train_running",
    **{f"{split}_{measure}": f"{measure}/{split}" for measure in HIGHER_IS_BETTER for split in EVALUATED},
    "epoch_seconds": "speed/epoch_seconds",
    "train_images_per_second": "speed/train_images_per_second",
}
"""Column of the record -> tag: one chart a measure, its splits side by side. No character that tensorboardX would replace."""


class Events:
    """The event file of one trial; earlier ones in the folder are replaced, so no epoch is ever drawn twice.

    Written as it comes and in the thread that it comes from: tensorboardX's own writer hands everything to a thread, which dies of a
    full disk and leaves whoever feeds it waiting for ever.

    Args:
        folder: where the file is to stand; made if need be.
        rows: records that the trial already has.

    Raises:
        StorageError: the file cannot be written; so do the methods.
    """

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        self._path = folder / f"{EVENTS_PREFIX}.{int(time.time())}.{platform.node()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"{EVENTS_PREFIX}*"):
                old.unlink()
        except OSError as error:
            raise self._cannot_write(error) from error
        self._append([Event(file_version="brain.Event:2"), *(event for row in rows for event in _scalars(row))])

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one epoch's scalars; a diverged epoch has none but its times."""
        self._append(_scalars(row))

    def add_hparams(self, row: Mapping[str, Any], factors: Mapping[str, int | float | str]) -> None:
        """Write what the trial was set to and, from its last record, what came of it."""
        settings = {**factors, "lr": row["lr"], "seed": row["seed"], "stage": row["stage"]}
        results = {f"hparam/{name}": row[name] for name in ("val_acc1", "test_acc1") if row[name] is not None}
        outcome = [Event(step=row["epoch"], summary=scalar(name, value)) for name, value in results.items()]
        self._append([*(Event(summary=summary) for summary in hparams(settings, results)), *outcome])

    def add_graph(self, model: nn.Module, image_size: int) -> None:
        """Write the network's graph, traced on one blank [1, 3, H, W] image in eval mode; the model is left as it was."""
        self._append([Event(graph_def=_traced(model, image_size))])

    def _append(self, events: list[Event]) -> None:
        content = b""
        for event in events:
            event.wall_time = time.time()
            body = event.SerializeToString()
            length = struct.pack("<Q", len(body))
            content += length + struct.pack("<I", masked_crc32c(length)) + body + struct.pack("<I", masked_crc32c(body))
        try:
            with self._path.open("ab") as file:
                file.write(content)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: TensorBoard's events cannot be written: {error.strerror or error}")


def _scalars(row: Mapping[str, Any]) -> list[Event]:
    return [Event(step=row["epoch"], summary=scalar(tag, row[column])) for column, tag in SCALARS.items() if row[column] is not None]


def _traced(model: nn.Module, image_size: int) -> bytes:
    import torch
    from torch.utils.tensorboard._pytorch_graph import graph  # what tensorboardX itself calls

    training = model.training
    device = next(model.parameters()).device
    model.eval()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's advice to its callers, tensorboardX here
            traced, _ = graph(model, torch.zeros(1, 3, image_size, image_size, device=device))  # type: ignore[no-untyped-call]  # torch's
            return bytes(traced.SerializeToString())
    finally:
        logging.disable(level)
        model.train(training)


def write_graph_alone(folder: Path, model: nn.Module, image_size: int) -> None:
    """Write an event file that holds a network's graph and nothing else; an earlier one in the folder is replaced."""
    events = Events(folder, [])
    events.add_graph(model, image_size)
