"""The plan as a Ray Tune searcher: hands out the trials that are ready, learns what came of them, keeps no state of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ray.tune.search import Searcher

from tune_ablation import plan
from tune_ablation.experiment import Experiment


class Listener(Protocol):
    """Who wants to know of every epoch and every end."""

    def on_epoch(self, trial: plan.Trial, result: Mapping[str, Any]) -> None:
        """An epoch of a running trial is done."""

    def on_end(self, trial: plan.Trial, result: Mapping[str, Any]) -> None:
        """A trial is finished."""


class PlanSearcher(Searcher):
    """One Optuna study a cell behind one Tune run.

    A trial that failed for want of a machine blocks what needs its result, in its own cell only, until the command is run again.

    Args:
        experiment: the question.
        results: trials finished before this run.
        parallel: at most so many trials at once; None leaves it to the resources.
    """

    def __init__(self, experiment: Experiment, results: dict[str, plan.Result], parallel: int | None = None) -> None:
        super().__init__()
        self.results = dict(results)
        self.running: dict[str, plan.Trial] = {}
        self.failed: dict[str, plan.Trial] = {}
        self._experiment = experiment
        self._parallel = parallel
        self._queue: list[plan.Trial] | None = None
        self.listener: Listener | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers into its own files; the results stay out of them, and a listener could not go in."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string, which Tune's own annotation forgets
        """The next trial's config, None while all that is left waits for results, ``FINISHED`` when nothing is left."""
        if self._parallel is not None and len(self.running) >= self._parallel:
            return None
        if self._queue is None:
            taken = {trial.key for trial in self.running.values()} | set(self.failed)
            self._queue = [trial for trial in plan.ready(self._experiment, self.results) if trial.key not in taken]
        if not self._queue:
            return None if self.running else str(Searcher.FINISHED)
        trial = self._queue.pop(0)
        self.running[trial_id] = trial
        return {
            "key": trial.key,
            "cell": trial.cell.key,
            "stage": trial.stage,
            "number": trial.number,
            "seed": trial.seed,
            "lr": trial.lr,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take in how a trial ended; one that was stopped halfway simply has not run."""
        trial = self.running.pop(trial_id, None)
        if trial is None:
            return
        self._queue = None
        if error:
            self.failed[trial.key] = trial
        elif result is not None and result.get("finished"):
            self.results[trial.key] = plan.Result(trial.lr, result["objective"])
            if self.listener is not None:
                self.listener.on_end(trial, result)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass it on: the plan itself looks at last epochs only."""
        if self.listener is not None and trial_id in self.running:
            self.listener.on_epoch(self.running[trial_id], result)

    def save(self, checkpoint_path: str) -> None:
        """An empty file, since Tune wants one: the records are the only state."""
        Path(checkpoint_path).write_bytes(b"")

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to take in."""
