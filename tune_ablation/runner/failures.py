"""What Tune is told about stopping, and what it tells about failing. Both hold live objects, so they pickle as empty ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.stopper import Stopper

WHY_A_WORKER_DIED = ("The actor is dead because", "killed due to the node running low on memory")
"""Words of Ray's: what follows them goes on for many lines of advice."""


class Interruption(Stopper):
    """Stops the whole run once an event is set.

    Args:
        event: set by whoever wants the run to end.
    """

    def __init__(self, event: threading.Event | None = None) -> None:
        self._event = event or threading.Event()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is ever stopped."""
        del trial_id, result
        return False

    def stop_all(self) -> bool:
        """Whether the run is to end."""
        return self._event.is_set()


class FailureCallback(TrialProgressCallback):
    """Passes on what befell a trial, after the searcher has heard of it.

    It stands in the place of Tune's own progress callback, which is put in wherever there is none and remembers every trial for ever.

    Args:
        note: called with (trial key, reason).
    """

    def __init__(self, note: Callable[[str, str], None] | None = None) -> None:
        super().__init__()
        self._note = note

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def on_trial_result(self, *_: Any, **__: Any) -> None:
        """The searcher tells of epochs."""

    def on_trial_complete(self, *_: Any, **__: Any) -> None:
        """And of ends."""

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's signature
        """See ``tune.Callback``."""
        if self._note is not None:
            self._note(trial.config["key"], reason_of(_account(trial)))


def _account(trial: Any) -> str:
    """What Tune has written of a trial's failures so far, straight from where it writes: it copies that to the results at leisure."""
    try:
        return Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError):  # no such file, or Tune has no place for one
        return ""


def reason_of(text: str) -> str:
    """The telling line of Tune's account of its latest failure: why the worker died, or else the exception's own line, its last."""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].splitlines()[1:] if line.strip()]
    dead = [line for line in lines if any(words in line for words in WHY_A_WORKER_DIED)]
    return (dead or lines or ["the worker died"])[-1]
