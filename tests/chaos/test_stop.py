"""Asked to stop in the middle of long epochs, a run waits for them: nothing is trained twice."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

from tests.chaos import processes, stub
from tests.chaos.study import PATIENCE, Study

EXPERIMENT = (
    'name = "long"'
    + stub.LEAST
    + """
[grid]
head = ["origin"]

[recipe]
epochs = 3
batch_size = 2
lr = 0.01

[search]
trials_per_cell = 0

[confirm]
seeds = [0, 1]
"""
)
LONG = 25.0
"""Seconds an epoch: longer than Tune by itself leaves a worker to end."""


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_epochs_that_run_are_ended_and_saved(monkeypatch: pytest.MonkeyPatch, signum: signal.Signals) -> None:
    folder = Path(tempfile.mkdtemp(prefix="stop-"))
    file = folder / "long.toml"
    file.write_text(EXPERIMENT, encoding="utf-8")
    study = Study(folder / "study", file, stub.PROGRAM, ("--parallel", "2"))
    ledger = study.ledger()
    monkeypatch.setenv("STUB_EPOCH_SECONDS", str(LONG))
    run = study.start()
    try:
        while len(training := [process.pid for process in run.members() if ".train" in process.command]) < 2:
            assert run.driver.poll() is None, run.output()
            time.sleep(0.1)
        time.sleep(2)
        assert not study.records()
        asked = time.monotonic()
        if signum == signal.SIGINT:
            os.killpg(run.driver.pid, signum)  # as a terminal does
        else:
            run.driver.send_signal(signum)
        assert run.await_end(PATIENCE) == 130, run.output()
        waited = time.monotonic() - asked
        assert 10 < waited < LONG + 10
        assert not run.await_nobody(10)
        assert all(processes.is_gone(pid) for pid in training)
    finally:
        run.kill_all()
    ledger.look()
    assert {key: len(state.saved) for key, state in ledger.states.items()} == dict.fromkeys(study.keys, 1), run.output()
    assert "Traceback" not in run.output()
    monkeypatch.delenv("STUB_EPOCH_SECONDS")
    again = study.start()
    assert again.await_end(PATIENCE) == 0, again.output()
    ledger.look()
    assert ledger.faults == []
    assert ledger.trained == len(study.keys) * study.experiment.recipe.epochs == len(study.records())
    shutil.rmtree(folder)
