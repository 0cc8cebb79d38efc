"""A trial that sleeps instead of training; everything around the network is the product's own."""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tune_ablation import plan, trial
from tune_ablation.data.batches import Batches
from tune_ablation.experiment import Experiment
from tune_ablation.records import METRICS, EpochRecord
from tune_ablation.training.loop import Training, TrialSpec

SLEEP = float(os.environ.get("STUB_EPOCH_SECONDS", "0.005"))
"""Seconds an epoch; from the environment, since trials run in processes of their own."""

HUNGRY, DEVICE = os.environ.get("STUB_HUNGRY", ""), os.environ.get("STUB_DEVICE", "cpu")
"""A cell whose trials ask for more memory than there is, and which memory they ask for."""

LEAST = """
[data]
classes = 2
train_per_class = 4
val_per_class = 2
test_per_class = 2
image_size = 32

[model]
width = 1
"""
"""Data and network for an experiment file, as small as may be: the stub looks at neither."""

PROGRAM = (sys.executable, "-c", "from tests.chaos.stub import main; main()")
"""The command line program with this trial in the place of the real one."""


class StubTraining(Training):
    """An epoch is a short sleep; its metrics are a pure function of trial, seed, learning rate and epoch.

    Args:
        spec: the trial.
        batches: as for ``Training``; not looked at.
        precision: goes into the record.
    """

    def __init__(self, spec: TrialSpec, batches: Batches | None = None, precision: str = "fp32") -> None:
        del batches
        self.spec = spec
        self.rows: list[dict[str, Any]] = []
        self.model = nn.Conv2d(3, 1, 1)  # type: ignore[assignment]  # something to draw the graph of
        self._precision = precision

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return 32

    def run_epoch(self) -> EpochRecord:
        """Sleep, and make a record up."""
        start = time.perf_counter()
        time.sleep(SLEEP)
        spec, epoch = self.spec, len(self.rows) + 1
        if spec.cell == HUNGRY:
            torch.empty(1 << 50, device=DEVICE)
        draw = random.Random(f"{spec.cell} {spec.seed} {spec.lr!r} {epoch}")  # noqa: S311 - numbers, not secrets
        quality = 90.0 - 20.0 * abs(math.log10(spec.lr) + 1.5)
        record = spec.record(
            epoch,
            {name: quality + 5.0 * draw.random() if higher else draw.random() for name, higher in METRICS.items()},
            epoch_seconds=time.perf_counter() - start,
            train_images_per_second=1000.0,
            diverged=False,
            device="cpu",
            precision=self._precision,
        )
        self.rows.append(record.to_row())
        return record

    def state_dict(self) -> dict[str, Any]:
        """As ``Training.state_dict``, without a network."""
        return {"trial": self.spec.trial, "lr": self.spec.lr, "seed": self.spec.seed, "rows": list(self.rows)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same trial."""
        if state["trial"] != self.spec.trial or state["lr"] != self.spec.lr:
            raise ValueError("a state of another trial")
        self.rows = list(state["rows"])


def expected(experiment: Experiment) -> dict[str, list[dict[str, Any]]]:
    """All records by trial, worked out from the plan without Ray, storage or search threads: what any run must end with."""
    found: dict[str, list[dict[str, Any]]] = {}
    results: dict[str, plan.Result] = {}
    while trials := plan.ready(experiment, results):
        for next_trial in trials:
            training = StubTraining(trial.spec_of(experiment, next_trial))
            while not training.finished:
                training.run_epoch()
            found[next_trial.key] = training.rows
            results |= plan.results_of(experiment, [training.rows[-1]])
    return found


def main() -> None:
    """The command line with the stub in the place of a trial."""
    from tune_ablation import cli
    from tune_ablation.runner import run

    fit = run._fit

    def fit_stubs(*arguments: Any, **named: Any) -> None:
        # Only now: Ray reads its token when it is imported, and the run makes one just before.
        from tests.chaos.stub_trainable import StubTrainable
        from tune_ablation.runner import trainable

        setattr(trainable, "AblationTrainable", StubTrainable)  # noqa: B010 - typed as if nobody did this
        fit(*arguments, **named)

    setattr(run, "_fit", fit_stubs)  # noqa: B010 - as above
    sys.exit(cli.main())
