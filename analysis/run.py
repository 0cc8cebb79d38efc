"""What results come as, ours and foreign: the frames, what could not be read, and which trials were given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis.design import Design
from tune_ablation.records import METRICS

if TYPE_CHECKING:
    from tune_ablation.experiment import Experiment  # read for its types alone: a folder that is not ours is read without loading pydantic

Schema = dict[str, type[pl.DataType]]

FIXED_TYPES: Schema = {
    "schema": pl.Int64,
    "experiment": pl.String,
    "trial": pl.String,
    "cell": pl.String,
    "stage": pl.String,
    "number": pl.Int64,
    "seed": pl.Int64,
    "lr": pl.Float64,
    "epoch": pl.Int64,
    "epochs": pl.Int64,
    **dict.fromkeys(METRICS, pl.Float64),
    "epoch_seconds": pl.Float64,
    "train_images_per_second": pl.Float64,
    "diverged": pl.Boolean,
    "device": pl.String,
    "precision": pl.String,
}
"""Type of every column of an epoch record but the factors'."""


@dataclass(frozen=True)
class Problem:
    """A file that was left out.

    Attributes:
        file: its name within the results folder.
        what: what is wrong with it.
        trial: key of the planned trial whose records are lost by it; None where no trial is.
    """

    file: str
    what: str
    trial: str | None = None


@dataclass(frozen=True)
class Failure:
    """A trial that the runner gave up for a reason other than divergence."""

    trial: str
    reason: str
    attempts: int


@dataclass(frozen=True)
class Run:
    """The results of one experiment, ours or foreign.

    Attributes:
        where: the results folder or its address.
        design: what is compared with what.
        header: the content of ``run.json``; empty where the results are not ours.
        experiment: the experiment as resolved; None where the results are not ours.
        plan: one row per planned trial, in the plan's order: ``trial``, ``cell``, ``stage``, ``number``; of foreign results
            the trials found.
        epochs: one row per trial and epoch, in the plan's order; columns ``FIXED_TYPES`` and one each factor. Of foreign results, those
            that they have, with the metrics of the design.
        failures: trials given up, whatever records they have.
        problems: files that were left out.
    """

    where: str
    design: Design
    header: Mapping[str, Any]
    experiment: Experiment | None
    plan: pl.DataFrame
    epochs: pl.DataFrame
    failures: tuple[Failure, ...]
    problems: tuple[Problem, ...]

    @property
    def classes(self) -> int | None:
        """Number of classes of the data; None where that is not known."""
        return self.header["data"]["classes"] if self.header else None

    @property
    def train_images(self) -> int | None:
        """Number of images trained on in an epoch; None where that is not known."""
        given = self.header["data"].get("train") if self.header else None
        return given if isinstance(given, int) else None


@dataclass(frozen=True)
class Results:
    """All that was asked for: the experiments that could be read, and for each of the others why it could not."""

    runs: tuple[Run, ...]
    unreadable: tuple[str, ...]
