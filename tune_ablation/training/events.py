"""TensorBoard events of one trial, written from its records: scalars, hyperparameters and, on request, the network's graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tensorboardX import SummaryWriter

from tune_ablation.records import EVALUATED, HIGHER_IS_BETTER

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

    Args:
        folder: where the file is to stand; made if need be.
        rows: records that the trial already has.
    """

    def __init__(self, folder: Path, rows: list[dict[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{EVENTS_PREFIX}*"):
            old.unlink()
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write one epoch's scalars; a diverged epoch has none but its times."""
        for column, tag in SCALARS.items():
            if row[column] is not None:
                self._writer.add_scalar(tag, row[column], row["epoch"])

    def add_hparams(self, row: Mapping[str, Any], factors: Mapping[str, int | float | str]) -> None:
        """Write what the trial was set to and, from its last record, what came of it."""
        from tensorboardX.summary import hparams

        settings = {**factors, "lr": row["lr"], "seed": row["seed"], "stage": row["stage"]}
        results = {f"hparam/{name}": row[name] for name in ("val_acc1", "test_acc1") if row[name] is not None}
        for summary in hparams(settings, results):
            self._writer.file_writer.add_summary(summary)
        for name, value in results.items():
            self._writer.add_scalar(name, value, row["epoch"])

    def add_graph(self, model: nn.Module, image_size: int) -> None:
        """Write the network's graph, traced on one blank image in eval mode."""
        write_graph(self._writer, model, image_size)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def write_graph(writer: SummaryWriter, model: nn.Module, image_size: int) -> None:
    """Trace a model on one blank [1, 3, H, W] image and write its graph; the model's mode and weights stay as they are."""
    import torch

    training = model.training
    device = next(model.parameters()).device
    model.eval()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer's advice to its callers, tensorboardX here
            writer.add_graph(model, torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        logging.disable(level)
        model.train(training)


def write_graph_alone(folder: Path, model: nn.Module, image_size: int) -> None:
    """Write an event file that holds a network's graph and nothing else; an earlier one in the folder is replaced."""
    events = Events(folder, [])
    events.add_graph(model, image_size)
    events.close()
