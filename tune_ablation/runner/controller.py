"""Tune's loop as this project needs it. Tune has no hooks for any of this; Ray's version is pinned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune import tune
from ray.tune.execution import tune_controller
from ray.tune.execution.tune_controller import TuneController

KEPT_TRIALS = 64
"""Trials of Tune's that may stand about after their end; what comes in late for one of them still finds it."""

HALTED_SECONDS = 10
"""So long a worker may still take once no trial can go on: whatever it tries to save now, it could only try in vain."""


class Controller(TuneController):
    """Tune's loop over a plan of thousands of trials: nothing in it grows with those that are done.

    Tune itself remembers every trial for ever, and writes what it remembers into a file of its own every few seconds. The records are the
    only state here, so both are done without. And where Tune kills a worker 10 s after asking it to stop, this waits for its epoch to end
    and be saved: whoever cannot wait can say so, by asking twice. Only where the storage is gone there is nothing to wait for.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._actor_force_cleanup_timeout = sys.maxsize

    def step(self) -> None:
        """Handle one event, and forget trials that ended well a while ago."""
        super().step()  # type: ignore[no-untyped-call]  # Tune's
        generator: Any = self._search_alg  # around the plan's searcher
        if generator.searcher.halted is not None:
            self._actor_force_cleanup_timeout = HALTED_SECONDS
        if len(self._stopped_trials) > KEPT_TRIALS:
            ended = [trial for trial in self._trials if trial in self._stopped_trials and trial not in self._trial_to_actor]
            forgotten = set(ended[: len(ended) - KEPT_TRIALS // 2])
            self._trials[:] = [trial for trial in self._trials if trial not in forgotten]
            self._stopped_trials -= forgotten

    def _mark_trial_to_checkpoint(self, trial: Any) -> None:
        """Its state is in its records."""


class ActorManager(RayActorManager):
    """Takes every error that Ray raises for a worker for that worker's failure.

    By itself Tune knows the worker's own exceptions and its plain death, and ends the whole run on anything else: on the memory monitor's
    killing of a worker that trains, for one.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


@contextmanager
def in_place() -> Iterator[None]:
    """Have Tune use these two."""
    places = ((tune, TuneController, Controller), (tune_controller, RayActorManager, ActorManager))
    for module, theirs, ours in places:
        setattr(module, theirs.__name__, ours)
    try:
        yield
    finally:
        for module, theirs, _ in places:
            setattr(module, theirs.__name__, theirs)
