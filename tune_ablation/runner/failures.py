"""What Tune is told about stopping, and what it tells about failing. Both hold live objects, so they pickle as empty ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.stopper import Stopper


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


class FailureCallback(tune.Callback):
    """Passes on a trial whose retries are used up.

    Args:
        note: called with (trial key, reason, attempts).
    """

    def __init__(self, note: Callable[[str, str, int], None] | None = None) -> None:
        self._note = note

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002 - Tune's signature
        """See ``tune.Callback``."""
        if self._note is not None:
            self._note(trial.config["key"], reason_of(str(trial.get_error() or "")), trial.num_failures)


def reason_of(text: str) -> str:
    """The telling line of Ray's account of a failure: why the worker died, or else the exception's own line, its last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    dead = [line for line in lines if line.startswith("The actor is dead because")]
    return (dead or lines or ["the worker died"])[-1]
