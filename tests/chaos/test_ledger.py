"""The harness's own judgement: it must see what it is there to see."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos import stub
from tests.chaos.inotify import Event, Watch
from tests.chaos.ledger import Ledger
from tune_ablation import experiment, plan, trial
from tune_ablation.records import CHECKPOINT_FILE, RECORDS_FILE
from tune_ablation.storage import LocalStorage
from tune_ablation.training import checkpoint
from tune_ablation.training.stored import StoredTraining

KEY = "resnet18_origin/search/000"


@pytest.fixture
def asked() -> experiment.Experiment:
    return experiment.parse({"name": "tiny", "grid": {"head": ["origin"]}, "recipe": {"epochs": 4}}, "here")


def begun(asked: experiment.Experiment, trials: Path) -> StoredTraining:
    """A trial in its folder, begun or gone on with."""
    first = plan.ready(asked, {})[0]
    assert first.key == KEY
    return StoredTraining(stub.StubTraining(trial.spec_of(asked, first)), LocalStorage(trials / KEY))


def test_epochs_since_the_last_checkpoint_may_be_trained_again_and_are_counted(asked: experiment.Experiment, tmp_path: Path) -> None:
    ledger, stored = Ledger(tmp_path, (KEY,)), begun(asked, tmp_path)
    stored.step()
    stored.save()
    saved = (tmp_path / KEY / CHECKPOINT_FILE).read_bytes()
    stored.step()
    (tmp_path / KEY / CHECKPOINT_FILE).write_bytes(saved)  # as if the second epoch had not been worth a checkpoint
    ledger.look()
    assert ledger.trained == 2
    stored = begun(asked, tmp_path)
    while not stored.training.finished:
        stored.step()
    ledger.look()
    assert ledger.trained == 5
    assert not ledger.faults


def test_a_saved_epoch_that_is_trained_again_is_a_fault(asked: experiment.Experiment, tmp_path: Path) -> None:
    ledger, stored = Ledger(tmp_path, (KEY,)), begun(asked, tmp_path)
    stored.step()
    stored.save()
    ledger.look()
    (tmp_path / KEY / CHECKPOINT_FILE).unlink()
    begun(asked, tmp_path).step()
    ledger.look()
    assert ledger.trained == 2
    assert "some were trained again" in ledger.faults[0]


def test_a_finished_trial_whose_records_are_written_again_is_a_fault(asked: experiment.Experiment, tmp_path: Path) -> None:
    ledger, stored = Ledger(tmp_path, (KEY,)), begun(asked, tmp_path)
    while not stored.training.finished:
        stored.step()
    ledger.look()
    path = tmp_path / KEY / RECORDS_FILE
    LocalStorage(path.parent).write(path.name, path.read_bytes())
    ledger.look()
    assert "written again" in ledger.faults[0]


@pytest.mark.parametrize("name", [RECORDS_FILE, CHECKPOINT_FILE])
def test_a_torn_file_is_a_fault(asked: experiment.Experiment, tmp_path: Path, name: str) -> None:
    ledger, stored = Ledger(tmp_path, (KEY,)), begun(asked, tmp_path)
    stored.step()
    stored.save()
    path = tmp_path / KEY / name
    path.write_bytes(path.read_bytes()[:-1])
    ledger.look()
    assert "torn" in ledger.faults[0]


def test_a_write_is_seen_from_its_first_moment_to_its_last(tmp_path: Path) -> None:
    watch = Watch([tmp_path])
    LocalStorage(tmp_path).write("records.jsonl", b"{}\n")
    seen: list[Event] = []
    end = time.monotonic() + 10
    while (not seen or seen[-1].what != "move") and time.monotonic() < end:
        seen += watch.wait(1)
    watch.close()
    assert [event.what for event in seen] == ["create", "modify", "move"]
    assert seen[0].name.startswith(".records.jsonl.")
    assert seen[-1].name == "records.jsonl"


def test_the_checkpoint_of_a_stub_is_a_real_one(asked: experiment.Experiment, tmp_path: Path) -> None:
    stored = begun(asked, tmp_path)
    stored.step()
    stored.save()
    assert checkpoint.load((tmp_path / KEY / CHECKPOINT_FILE).read_bytes())["rows"] == stored.training.rows
