"""The real trainable on stub trainings."""

from __future__ import annotations

from typing import Any

from tests.chaos.stub import StubTraining
from tune_ablation import trial
from tune_ablation.runner.session import Session
from tune_ablation.runner.trainable import AblationTrainable


class StubTrainable(AblationTrainable):
    """Everything of the real one but the network."""

    def setup(self, config: dict[str, Any], session: Session | None = None) -> None:
        """Put the stub in place in this worker, then as ever."""
        setattr(trial, "Training", StubTraining)  # noqa: B010 - typed as if nobody did this
        super().setup(config, session)
