"""The Tune trainable: one actor that trains one trial after another on what Ray gave it, one epoch a step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from ray import tune

from tune_ablation import data
from tune_ablation.data.batches import Batches
from tune_ablation.experiment import parse
from tune_ablation.plan import Trial
from tune_ablation.runner.processes import die_with_parent
from tune_ablation.runner.session import Session
from tune_ablation.storage import StorageError, open_storage
from tune_ablation.training.stored import StoredTraining
from tune_ablation.trial import begin


class AblationTrainable(tune.Trainable):
    """Keeps imports, GPU context and images between trials; nothing else of a trial outlives it.

    Tune's own checkpoints are not used: the trial's folder holds everything, so a trial that Tune restarts anywhere goes on by itself.
    """

    def setup(self, config: dict[str, Any], session: Session | None = None) -> None:
        """Load what all trials share; the first begins with its first step."""
        assert session is not None  # noqa: S101 - given by tune.with_parameters
        die_with_parent(int(os.environ["RAY_RAYLET_PID"]))
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_num_threads(session.threads)
        self._session = session
        self._stored: StoredTraining | None = None
        self._experiment = parse(session.experiment, "the run's experiment")
        self._cells = {cell.key: cell for cell in self._experiment.cells()}
        path = Path(session.data) if session.data is not None else None
        prepared = data.prepare(self._experiment.data, path, cache_dir=Path(session.cache))
        if prepared.fingerprint != session.fingerprint:
            raise RuntimeError(f"the data on {os.uname().nodename} is not the data of this run: {session.data}")
        self._batches = Batches(prepared, torch.device("cuda" if session.use_gpu else "cpu"))
        self._next: dict[str, Any] | None = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process."""
        self.cleanup()
        self._next = new_config
        return True

    def step(self) -> dict[str, Any]:
        """One epoch; the result is what driver and searcher need to know of it."""
        try:
            return self._step()
        except StorageError as error:  # no trial could go on: for the driver to say once, not for Tune to try again
            return {"done": True, "halted": str(error)}

    def _step(self) -> dict[str, Any]:
        if self._next is not None:
            config, self._next = self._next, None
            self._begin(config)
        stored = self._stored
        assert stored is not None  # noqa: S101 - it has just begun, or did so earlier
        if not stored.training.finished:
            stored.step()
        row = stored.training.rows[-1]
        notes, stored.notes = stored.notes, []
        return {
            "notes": notes,
            "done": stored.training.finished,
            "finished": stored.training.finished,
            "diverged": row["diverged"],
            "epoch": row["epoch"],
            "epoch_seconds": row["epoch_seconds"],
            "objective": row[self._experiment.search.objective],
            "test_acc1": row["test_acc1"],
        }

    def cleanup(self) -> None:
        """Save what an unfinished trial has done so far."""
        stored, self._stored = self._stored, None
        if stored is not None:
            stored.close()

    def _begin(self, config: dict[str, Any]) -> None:
        trial = Trial(self._cells[config["cell"]], config["stage"], config["number"], config["seed"], config["lr"])
        self._stored = begin(
            self._experiment,
            trial,
            self._batches,
            open_storage(self._session.storage).fenced(self._session.claim),
            precision=self._session.precision,
            keep_checkpoint=self._session.keep_checkpoints,
        )
