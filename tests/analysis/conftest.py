"""Results folders as the runner leaves them, written through the real records code."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.analyse import Analysis, analyse
from analysis.load import load
from tune_ablation import plan
from tune_ablation.experiment import Experiment, parse
from tune_ablation.records import METRICS, SCHEMA, EpochRecord, Stage, dump_rows

Curve = Sequence[float]
CONTENT: dict[str, Any] = {
    "name": "heads",
    "question": "Which head?",
    "grid": {"depth": [18], "head": ["origin", "maxpool"]},
    "recipe": {"epochs": 4},
    "search": {"trials_per_cell": 2},
    "confirm": {"seeds": [0, 1, 2]},
}


class Folder:
    """The results folder of one experiment, to which trials are added."""

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path = path
        self.experiment = experiment
        self.header: dict[str, Any] = {
            "schema": SCHEMA,
            "name": experiment.name,
            "digest": experiment.digest(),
            "experiment": experiment.resolved(),
            "cells": [],
            "data": {"fingerprint": "f", "dataset": "synthetic", "classes": 10, "train": 80, "val": 20, "test": 500},
            "precision": "fp32",
            "sessions": [],
        }
        self.write_header()

    def write_header(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "run.json").write_text(json.dumps(self.header))

    def file(self, trial: str) -> Path:
        return self.path / "trials" / trial / "records.jsonl"

    def rows(
        self,
        cell_key: str,
        stage: Stage,
        number: int,
        curves: Mapping[str, Curve],
        *,
        lr: float = 0.1,
        diverged: bool = False,
        **others: object,
    ) -> list[dict[str, Any]]:
        """A trial's rows: as many epochs as the curves are long, metrics without a curve 1.0, ``others`` over each."""
        (cell,) = [cell for cell in self.experiment.cells() if cell.key == cell_key]
        length = len(next(iter(curves.values())))
        return [
            EpochRecord(
                experiment=self.experiment.name,
                trial=plan.trial_key(cell_key, stage, number),
                cell=cell_key,
                factors=cell.levels,
                stage=stage,
                number=number,
                seed=number,
                lr=lr,
                epoch=epoch + 1,
                epochs=self.experiment.recipe.epochs,
                metrics={name: curves[name][epoch] if name in curves else 1.0 for name in METRICS},
                epoch_seconds=1.5,
                train_images_per_second=100.0,
                diverged=diverged and epoch == length - 1,
                device="cpu",
                precision="fp32",
            ).to_row()
            | others
            for epoch in range(length)
        ]

    def add(self, cell_key: str, stage: Stage, number: int, curves: Mapping[str, Curve], **others: Any) -> Path:
        path = self.file(plan.trial_key(cell_key, stage, number))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dump_rows(self.rows(cell_key, stage, number, curves, **others)))
        return path

    def fill(self) -> None:
        """Every planned trial, finished, cells and seeds a little apart."""
        for place, cell in enumerate(self.experiment.cells()):
            for number in range(self.experiment.search.trials_per_cell):
                self.add(cell.key, "search", number, {"val_acc1": [10.0, 20.0, 25.0, 30.0 + number]}, lr=0.1 / (number + 1))
            for seed in self.experiment.confirm.seeds:
                acc = [10.0, 20.0, 30.0, 40.0 + seed - 5 * place]
                self.add(cell.key, "confirm", seed, {"test_acc1": acc, "train_eval_acc1": [99.0] * 4}, lr=0.05)

    def add_costs(self) -> None:
        """Static figures of every cell, each cell's the first's times its place."""
        profile = {"params": 10, "madd": 20, "flops": 30, "memory_bytes": 40, "memory_rw_bytes": 50, "flop_counter": 30}
        self.header["cells"] = [
            {"key": cell.key, "levels": dict(cell.levels), "profile": {name: value * place for name, value in profile.items()}}
            for place, cell in enumerate(self.experiment.cells(), start=1)
        ]
        self.write_header()

    def analysed(self, metric: str | None = None, *, every_pair: bool = False) -> Analysis:
        """What the analysis makes of it."""
        (run,) = load([str(self.path)]).runs
        return analyse(run, metric, every_pair=every_pair)

    def confirm(self, cell_key: str, finals: Sequence[float], metric: str = "test_acc1") -> None:
        """A confirm trial for each seed, ending at these values of a metric, the first epochs being half of them."""
        for seed, final in zip(self.experiment.confirm.seeds, finals, strict=True):
            early = [final / 2] * (self.experiment.recipe.epochs - 1)
            self.add(cell_key, "confirm", seed, {metric: [*early, final]})


class RayFolder:
    """A Ray Tune folder to which trials are added."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, config: dict[str, Any], rows: list[dict[str, Any]], *, params: bool = True, repeat_config: bool = True) -> Path:
        folder = self.path / f"train_{len(list(self.path.glob('*'))):05d}"
        folder.mkdir(parents=True)
        if params:
            (folder / "params.json").write_text(json.dumps(config))
        numbered = [{"training_iteration": epoch, "time_this_iter_s": 2.0, **row} for epoch, row in enumerate(rows, 1)]
        if repeat_config:
            numbered = [{**row, "config": config} for row in numbered]
        (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in numbered))
        return folder / "result.json"


MakeFolder = Callable[..., Folder]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Make a results folder below ``tmp_path / "results"``: of the small experiment above, values given put over it."""

    def make(**changes: object) -> Folder:
        experiment = parse(CONTENT | changes, "test")
        return Folder(tmp_path / "results" / experiment.name, experiment)

    return make


@pytest.fixture
def full(make_folder: MakeFolder) -> Folder:
    """A finished experiment."""
    folder = make_folder()
    folder.fill()
    return folder


@pytest.fixture
def ray(tmp_path: Path) -> RayFolder:
    return RayFolder(tmp_path / "ray")
