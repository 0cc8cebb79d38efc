"""The Tune trainable: one actor that trains one trial after another on what Ray gave it, one epoch a step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tune_ablation import data
from tune_ablation.data.batches import Batches
from tune_ablation.experiment import parse
from tune_ablation.plan import Trial
from tune_ablation.storage import open_storage
from tune_ablation.trial import begin


@dataclass(frozen=True)
class Session:
    """What all trials of one run share; travels to every worker.

    Attributes:
        experiment: the experiment, resolved.
        storage: path or URI of the experiment's results folder.
        data: the data set's path on every node, None for drawn images.
        cache: folder of the decoded images on every node.
        fingerprint: what the data must be.
        precision: ``fp32`` or ``bf16``.
        threads: CPU threads a trial.
        use_gpu: whether trials train on a GPU.
        keep_checkpoints: keep the weights of finished trials.
    """

    experiment: dict[str, Any]
    storage: str
    data: str | None
    cache: str
    fingerprint: str
    precision: str
    threads: int
    use_gpu: bool
    keep_checkpoints: bool


class AblationTrainable(tune.Trainable):  # type: ignore[misc]  # ray ships no types for it
    """Keeps imports, GPU context and images between trials; nothing else of a trial outlives it.

    Tune's own checkpoints are not used: the trial's folder holds everything, so a trial that Tune restarts anywhere goes on by itself.
    """

    def setup(self, config: dict[str, Any], session: Session | None = None) -> None:
        """Load what all trials share, then begin the first."""
        assert session is not None  # noqa: S101 - given by tune.with_parameters
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_num_threads(session.threads)
        self._session = session
        self._experiment = parse(session.experiment, "the run's experiment")
        self._cells = {cell.key: cell for cell in self._experiment.cells()}
        path = Path(session.data) if session.data is not None else None
        prepared = data.prepare(self._experiment.data, path, cache_dir=Path(session.cache))
        if prepared.fingerprint != session.fingerprint:
            raise RuntimeError(f"the data on {os.uname().nodename} is not the data of this run: {session.data}")
        self._batches = Batches(prepared, torch.device("cuda" if session.use_gpu else "cpu"))
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; the result is what driver and searcher need to know of it."""
        if not self._stored.training.finished:
            self._stored.step()
        row = self._stored.training.rows[-1]
        return {
            "done": self._stored.training.finished,
            "finished": self._stored.training.finished,
            "diverged": row["diverged"],
            "epoch": row["epoch"],
            "epoch_seconds": row["epoch_seconds"],
            "objective": row[self._experiment.search.objective],
            "test_acc1": row["test_acc1"],
        }

    def cleanup(self) -> None:
        """Save what an unfinished trial has done so far."""
        stored, self._stored = getattr(self, "_stored", None), None
        if stored is not None:
            stored.close()

    def _begin(self, config: dict[str, Any]) -> None:
        trial = Trial(self._cells[config["cell"]], config["stage"], config["number"], config["seed"], config["lr"])
        self._stored = begin(
            self._experiment,
            trial,
            self._batches,
            open_storage(self._session.storage),
            precision=self._session.precision,
            keep_checkpoint=self._session.keep_checkpoints,
        )
