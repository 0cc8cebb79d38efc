"""How fast this machine trains and evaluates a cell, measured in a few seconds: what `plan` bases its estimate on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Protocol

import numpy as np
import torch

from tune_ablation.data.batches import Batches
from tune_ablation.data.splits import PreparedData
from tune_ablation.models import Cell
from tune_ablation.training.loop import RecipeSpec, Training, TrialSpec, resolve_precision

STEPS = 4
"""Training steps measured, after one to warm up."""


class PrecisionSpec(RecipeSpec, Protocol):
    """The recipe, with the precision it asks for."""

    @property
    def precision(self) -> str:
        """``auto``, ``fp32`` or ``bf16``."""


@dataclass(frozen=True)
class Throughput:
    """Images a second, on one GPU or one CPU thread."""

    train: float
    evaluation: float


def measure(cell: Cell, recipe: PrecisionSpec, classes: int, image_size: int) -> Throughput:
    """Train and evaluate a cell on blank images for a moment.

    Args:
        cell: the network.
        recipe: its batch size, augmentation and precision count.
        classes: number of classes.
        image_size: side of the images in pixels.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = recipe.batch_size
    while batch * STEPS > 1024 and batch > 32:  # a large batch on a slow machine would measure for minutes
        batch //= 2
    images = np.zeros((batch * STEPS, image_size, image_size, 3), np.uint8)
    index = np.arange(len(images), dtype=np.int64)
    blank = PreparedData(
        images=images,
        labels=index % classes,
        splits={"train": index, "val": index[:1], "test": index, "train_eval": index[:1]},
        class_names=tuple(map(str, range(classes))),
        fingerprint="",
        mean=np.zeros(3, np.float32),
        std=np.ones(3, np.float32),
    )
    names = ("augment", "momentum", "weight_decay", "schedule", "warmup_epochs", "step_epochs", "step_gamma", "epochs")
    settings = SimpleNamespace(batch_size=batch, **{name: getattr(recipe, name) for name in names})
    spec = TrialSpec("", "", "", {}, "search", 0, 0, 1e-6, cell, settings)
    training = Training(spec, Batches(blank, device), resolve_precision(recipe.precision, device))
    try:
        training.run_epoch()
        record = training.run_epoch()
        start = time.perf_counter()
        training.evaluate("test")
        return Throughput(record.train_images_per_second, len(images) / (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
