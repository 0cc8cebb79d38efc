"""The finished searches as one Optuna storage file, for optuna-dashboard. Derived from the records, written anew at every end."""

from __future__ import annotations

import json
from typing import Any

from tune_ablation import plan
from tune_ablation.experiment import Experiment
from tune_ablation.storage import Storage

STUDIES_FILE = "optuna.journal"


def write_studies(experiment: Experiment, results: plan.Results, storage: Storage) -> None:
    """Write a study a cell, each named after it, its trials numbered as in the plan; diverged ones are marked failed."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import BaseJournalBackend

    class Journal(BaseJournalBackend):
        """Lines as in a journal file, in memory: Optuna's file flushes each to the disk, and would stay behind a killed process."""

        def __init__(self) -> None:
            self.lines: list[str] = []

        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return [json.loads(line) for line in self.lines[log_number_from:]]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self.lines += [json.dumps(log, separators=(",", ":")) for log in logs]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = experiment.search
    space: dict[str, optuna.distributions.BaseDistribution] = {"lr": plan.distribution(search.lr)}
    journal = Journal()
    backend = JournalStorage(journal)
    for cell_key, finished in plan.finished_studies(experiment, results).items():
        study = optuna.create_study(storage=backend, study_name=cell_key, direction="maximize" if search.maximise else "minimize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.COMPLETE if result.value is not None else optuna.trial.TrialState.FAIL,
                    params={"lr": result.lr},
                    distributions=space,
                    value=result.value,
                    user_attrs={"trial": plan.trial_key(cell_key, "search", number)},
                )
                for number, result in finished
            ]
        )
    storage.write(STUDIES_FILE, "".join(f"{line}\n" for line in journal.lines).encode())
