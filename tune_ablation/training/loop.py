"""One trial's training: an epoch at a time, resumable after each, with no host synchronisation inside one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional

from tune_ablation.data.batches import Batches
from tune_ablation.models import Cell as CellSpec
from tune_ablation.models import build_model
from tune_ablation.records import EVALUATED, METRICS, EpochRecord, Stage, is_finished
from tune_ablation.seeds import derived_seed
from tune_ablation.training.metrics import Meter
from tune_ablation.training.schedules import ScheduleSpec, learning_rate_factor

EXPLODED = 100.0
"""A mean training loss above this many times that of uniform guessing, ln(classes), counts as diverged."""


class RecipeSpec(ScheduleSpec, Protocol):
    """What the loop reads from the recipe besides its schedule."""

    @property
    def batch_size(self) -> int:
        """Images a step."""

    @property
    def augment(self) -> str:
        """A key of ``AUGMENTATIONS``."""

    @property
    def momentum(self) -> float:
        """SGD's."""

    @property
    def weight_decay(self) -> float:
        """SGD's, on every parameter."""


@dataclass(frozen=True)
class TrialSpec:
    """All that tells one trial from another.

    Attributes:
        experiment: the experiment's name.
        trial: the trial's key.
        cell: the cell's key.
        factors: level of every factor.
        stage: ``search`` or ``confirm``.
        number: see ``EpochRecord``.
        seed: initialisation, data order, augmentation and dropout are drawn from it.
        lr: peak learning rate.
        model: depth, head, width and stem.
        recipe: epochs, batch size, schedule, augmentation, momentum, weight decay.
    """

    experiment: str
    trial: str
    cell: str
    factors: Mapping[str, int | float | str]
    stage: Stage
    number: int
    seed: int
    lr: float
    model: CellSpec
    recipe: RecipeSpec

    def record(
        self,
        epoch: int,
        metrics: Mapping[str, float | None],
        *,
        epoch_seconds: float,
        train_images_per_second: float,
        diverged: bool,
        device: str,
        precision: str,
    ) -> EpochRecord:
        """The record of one of its epochs, from 1; for the arguments see ``EpochRecord``."""
        return EpochRecord(
            experiment=self.experiment,
            trial=self.trial,
            cell=self.cell,
            factors=self.factors,
            stage=self.stage,
            number=self.number,
            seed=self.seed,
            lr=self.lr,
            epoch=epoch,
            epochs=self.recipe.epochs,
            metrics=metrics,
            epoch_seconds=epoch_seconds,
            train_images_per_second=train_images_per_second,
            diverged=diverged,
            device=device,
            precision=precision,
        )


def resolve_precision(requested: str, device: torch.device) -> str:
    """``auto`` is bf16 on a GPU that has it and fp32 elsewhere; the record says which it was."""
    if requested != "auto":
        return requested
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def device_name(device: torch.device) -> str:
    """``cpu``, or the GPU's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


class Training:
    """One trial: ``run_epoch`` until ``finished``.

    All randomness of an epoch is drawn from (seed, epoch), so the state at the end of an epoch is weights, optimiser and records:
    there is no generator state to save, and none that a resumed run could get wrong. The data order and the augmentation depend
    on the seed alone, so every cell sees the same images in the same order.

    Args:
        spec: the trial.
        batches: its images, on the device to train on.
        precision: ``fp32`` or ``bf16`` (autocast; weights and their update stay fp32).
    """

    def __init__(self, spec: TrialSpec, batches: Batches, precision: str = "fp32") -> None:
        self.spec = spec
        self.rows: list[dict[str, Any]] = []
        self._batches = batches
        self._precision = precision
        device = batches.device
        torch.backends.cudnn.deterministic = True
        torch.manual_seed(spec.seed)
        model = build_model(spec.model, batches.classes, image_size=batches.image_size)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=spec.lr,
            momentum=spec.recipe.momentum,
            weight_decay=spec.recipe.weight_decay,
            fused=True,
        )

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self._batches.image_size

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done, or training diverged."""
        return is_finished(self.rows)

    def run_epoch(self) -> EpochRecord:
        """Train one epoch, evaluate every split in eval mode, and return (and keep) the record."""
        epoch, device = len(self.rows) + 1, self._batches.device
        start = time.perf_counter()
        trained = self._train_epoch(epoch)
        train_seconds = time.perf_counter() - start
        guess = math.log(self._batches.classes)
        diverged = not math.isfinite(trained["loss"]) or trained["loss"] > EXPLODED * guess
        metrics: dict[str, float | None] = dict.fromkeys(METRICS)
        if not diverged:
            for split in EVALUATED:
                measures = self.evaluate(split)
                diverged = diverged or not math.isfinite(measures["loss"])
                metrics |= {f"{split}_{measure}": value for measure, value in measures.items()}
            metrics |= {"train_loss": trained["loss"], "train_acc1": trained["acc1"]}
        if diverged:
            metrics = dict.fromkeys(METRICS)
        batch_size = self.spec.recipe.batch_size
        images = self._batches.steps(batch_size) * min(batch_size, self._batches.count("train"))
        record = self.spec.record(
            epoch,
            metrics,
            epoch_seconds=time.perf_counter() - start,
            train_images_per_second=images / train_seconds,
            diverged=diverged,
            device=device_name(device),
            precision=self._precision,
        )
        self.rows.append(record.to_row())
        return record

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and records as one: tensors and plain values only."""
        return {
            "trial": self.spec.trial,
            "lr": self.spec.lr,
            "seed": self.spec.seed,
            "rows": list(self.rows),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same trial.

        Raises:
            ValueError: the state is another trial's, or another network's; nothing has been changed.
        """
        for name in ("trial", "lr", "seed"):
            if state.get(name) != getattr(self.spec, name):
                raise ValueError(f"a state with {name} {state.get(name)!r}, expected {getattr(self.spec, name)!r}")
        own = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        if {name: tensor.shape for name, tensor in state.get("model", {}).items()} != own or not {"optimizer", "rows"} <= state.keys():
            raise ValueError("a state of another network")
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.rows = list(state["rows"])

    def _train_epoch(self, epoch: int) -> dict[str, float]:
        recipe, seed, batches = self.spec.recipe, self.spec.seed, self._batches
        order = torch.Generator().manual_seed(derived_seed(seed, "order", epoch))
        augmentation = torch.Generator().manual_seed(derived_seed(seed, "augmentation", epoch))
        torch.manual_seed(derived_seed(seed, "dropout", epoch))
        meter = Meter(batches.classes, batches.device)
        steps = batches.steps(recipe.batch_size)
        self.model.train()
        for step, (images, labels) in enumerate(batches.train(recipe.batch_size, recipe.augment, order, augmentation)):
            for group in self._optimizer.param_groups:
                group["lr"] = self.spec.lr * learning_rate_factor(recipe, epoch, step, steps)
            with self._autocast():
                logits = self.model(images)
            loss = functional.cross_entropy(logits.float(), labels)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own lacks annotations
            self._optimizer.step()
            meter.add(logits, labels)
        return meter.measures()

    @torch.no_grad()
    def evaluate(self, split: str) -> dict[str, float]:
        """The measures of one split in eval mode, as ``Meter.measures`` gives them."""
        meter = Meter(self._batches.classes, self._batches.device)
        self.model.eval()
        for images, labels in self._batches.evaluation(split):
            with self._autocast():
                logits = self.model(images)
            meter.add(logits, labels)
        return meter.measures()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._batches.device.type, torch.bfloat16, enabled=self._precision == "bf16")
