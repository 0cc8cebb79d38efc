"""The plan as a Ray Tune searcher: hands out the trials that are ready, learns what came of them, keeps no state of its own."""

from __future__ import annotations

import threading
from collections import Counter
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

    A trial whose worker died is handed out again, as another trial of Tune's: Tune's own retries take one death that hits a worker
    between two trials for two failures, and give up on the second. A trial that failed for good blocks what needs its result, in its own
    cell only, until the command is run again.

    Attributes:
        results: finished trials.
        running: by Tune's id.
        failures: how often a trial has failed in this run.
        failed: trials that have failed too often.

    Args:
        experiment: the question.
        results: trials finished before this run.
        parallel: at most so many trials at once; None leaves it to the resources.
        retries: how often a failed trial is handed out again.
    """

    def __init__(self, experiment: Experiment, results: dict[str, plan.Result], parallel: int | None = None, retries: int = 0) -> None:
        super().__init__()
        self.results = dict(results)
        self.running: dict[str, plan.Trial] = {}
        self.failures: Counter[str] = Counter()
        self.failed: dict[str, plan.Trial] = {}
        self._experiment = experiment
        self._parallel = parallel
        self._retries = retries
        self._cells = experiment.cells()
        self._order = {cell.key: order for order, cell in enumerate(self._cells)}
        self._waiting: list[list[tuple[plan.Turn, plan.Trial]]] = [[] for _ in self._cells]
        self._outdated = set(range(len(self._cells)))  # cells whose results have changed since their list was made
        self.listener: Listener | None = None
        self.halted: str | None = None  # why no trial can go on
        self.stop: threading.Event | None = None  # set when that comes to be known

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers into its own files; the results stay out of them, and a listener could not go in."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is a string, which Tune's own annotation forgets
        """The next trial's config, None while all that is left waits for results, ``FINISHED`` when nothing is left."""
        if self.halted is not None:
            return None
        if self._parallel is not None and len(self.running) >= self._parallel:
            return None
        trial = self._next()
        if trial is None:
            return None if self.running else str(Searcher.FINISHED)
        self.running[trial_id] = trial
        return {
            "key": trial.key,
            "cell": trial.cell.key,
            "stage": trial.stage,
            "number": trial.number,
            "seed": trial.seed,
            "lr": trial.lr,
            "failures": self.failures[trial.key],
        }

    def _next(self) -> plan.Trial | None:
        """The first trial of ``plan.ready`` that neither runs nor failed; only cells that changed are asked, so thousands stay cheap."""
        taken = {trial.key for trial in (*self.running.values(), *self.failed.values())}
        for order in sorted(self._outdated):
            ready = plan.ready_in_cell(self._experiment, self._cells[order], self.results)
            self._waiting[order] = [(turn, trial) for turn, trial in ready if trial.key not in taken]
        self._outdated.clear()
        first = min(((waiting[0][0], order) for order, waiting in enumerate(self._waiting) if waiting), default=None)
        return self._waiting[first[1]].pop(0)[1] if first is not None else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Take in how a trial ended; one that was stopped halfway simply has not run."""
        trial = self.running.pop(trial_id, None)
        if trial is None:
            return
        self._outdated.add(self._order[trial.cell.key])
        if result is not None and "halted" in result:
            self.halted = self.halted or str(result["halted"])
            if self.stop is not None:
                self.stop.set()
        elif error:
            self.failures[trial.key] += 1
            if self.failures[trial.key] > self._retries:
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
