"""A trial against its folder: killed at any moment and gone on with, its records are those of an undisturbed run."""

# ruff: noqa: S311 - seeded draws decide what is tried, nothing secret

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.chaos import stub
from tests.chaos.stub import StubTraining
from tune_ablation.data import PreparedData
from tune_ablation.data.batches import Batches
from tune_ablation.errors import UserError
from tune_ablation.experiment import Experiment
from tune_ablation.models import HEADS
from tune_ablation.records import CHECKPOINT_FILE, FAILURE_FILE, METRICS, RECORDS_FILE, TIMES, EpochRecord, is_finished, load_rows
from tune_ablation.storage import LocalStorage, RemoteStorage, Storage, StorageError
from tune_ablation.training.events import EVENTS_PREFIX, SCALARS
from tune_ablation.training.loop import Training, TrialSpec
from tune_ablation.training.stored import StoredTraining
from tune_ablation.trial import train_alone

MakeSpec = Callable[..., TrialSpec]
MakeExperiment = Callable[..., Experiment]


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def rows_in(folder: Storage) -> list[dict[str, Any]]:
    content = folder.read(RECORDS_FILE)
    return [] if content is None else load_rows(content, RECORDS_FILE)


def event_files(folder: Storage) -> list[str]:
    return [name for name in folder.names() if name.startswith(EVENTS_PREFIX)]


def finish(spec: TrialSpec, batches: Batches, folder: Storage, **options: bool) -> list[dict[str, Any]]:
    """What a runner does with one trial: begin or go on, step to the end, close."""
    if is_finished(rows_in(folder)):
        return rows_in(folder)
    stored = StoredTraining(Training(spec, batches), folder, **options)
    while not stored.training.finished:
        stored.step()
    stored.close()
    return rows_in(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path / "trial")


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING, "tune_ablation"):
        yield caplog


def test_records_are_there_after_every_epoch_and_the_checkpoint_goes_with_the_last(
    make_spec: MakeSpec, batches: Batches, folder: Storage
) -> None:
    stored = StoredTraining(Training(make_spec(), batches), folder)
    for epoch in (1, 2, 3):
        assert stored.step().epoch == epoch
        assert [row["epoch"] for row in rows_in(folder)] == list(range(1, epoch + 1))
        assert (folder.read(CHECKPOINT_FILE) is not None) == (epoch < 3)
    assert folder.names() == [*event_files(folder), RECORDS_FILE]
    assert len(event_files(folder)) == 1


def test_closed_half_way_it_goes_on_where_it_was(make_spec: MakeSpec, batches: Batches, folder: Storage, tmp_path: Path) -> None:
    undisturbed = finish(make_spec("dropout"), batches, LocalStorage(tmp_path / "other"))
    for epoch in (1, 2, 3):
        stored = StoredTraining(Training(make_spec("dropout"), batches), folder)
        assert len(stored.training.rows) == epoch - 1
        stored.step()
        stored.close()
        stored.close()
    assert timeless(rows_in(folder)) == timeless(undisturbed)


class Dead(BaseException):
    """The process is gone: nothing catches this."""


class Dying(LocalStorage):
    """A local folder whose process dies just before, or just after, its n-th change to the disk."""

    left = 0
    after = False

    def _live(self, change: Callable[[], None]) -> None:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Dead
        change()
        if self.left == 0:
            raise Dead

    def write(self, name: str, content: bytes) -> None:
        super_write = super().write
        self._live(lambda: super_write(name, content))

    def delete(self, name: str) -> None:
        super_delete = super().delete
        self._live(lambda: super_delete(name))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_death_before_or_after_any_change_to_the_disk(
    keep: bool, after: bool, make_spec: MakeSpec, batches: Batches, tmp_path: Path
) -> None:
    spec = make_spec("dropout", epochs=2)
    undisturbed = finish(spec, batches, LocalStorage(tmp_path / "whole"), keep_checkpoint=keep)
    for moment in range(1, 100):
        folder = Dying(tmp_path / str(moment))
        folder.left, folder.after = moment, after
        try:
            finish(spec, batches, folder, keep_checkpoint=keep)
        except Dead:
            died = True
        else:
            died = False
        before = rows_in(folder)
        assert timeless(before) == timeless(undisturbed[: len(before)]), "what is there is never wrong"
        if is_finished(before):  # its worker died before the driver heard of the end, and the driver has it begun again
            again = StoredTraining(Training(spec, batches), LocalStorage(tmp_path / str(moment)), keep_checkpoint=keep)
            assert again.training.finished
            again.close()
            assert rows_in(folder) == before, "it was trained again"
            assert (folder.read(CHECKPOINT_FILE) is not None) == keep
        rows = finish(spec, batches, LocalStorage(tmp_path / str(moment)), keep_checkpoint=keep)
        assert timeless(rows) == timeless(undisturbed), f"died at change {moment}"
        if not died:
            break
    assert 4 < moment < 12


def test_killed_at_random_moments_a_real_process_goes_on_to_the_same_records(
    make_experiment: MakeExperiment, prepared: PreparedData, tmp_path: Path
) -> None:
    experiment = make_experiment(head=("origin", "dropout"), epochs=8, augment="flip-crop")
    # A process with torch loaded and nothing run yet: its children start in no time.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tune_ablation.trial", "tune_ablation.models.profile", "tune_ablation.models.resnet"])
    rng, kills = random.Random(0), 0

    def start(storage: Storage) -> Any:
        options = {"threads": 1, "keep_checkpoint": False, "on_epoch": print, "say": print}
        process = processes.Process(target=train_alone, args=(experiment, prepared, storage), kwargs=options)
        process.start()
        return process

    whole, broken = LocalStorage(tmp_path / "whole"), LocalStorage(tmp_path / "broken")
    start(whole).join()  # loads everything: what the next one takes is what one takes
    begun = time.monotonic()
    start(LocalStorage(tmp_path / "timed")).join()
    seconds = time.monotonic() - begun
    trials = sorted(name for name in whole.names("trials") if name.endswith(RECORDS_FILE))
    assert len(trials) == 2
    for _ in range(40):
        process = start(broken)
        process.join(seconds * (0.1 + 0.04 * kills + rng.uniform(0.0, 0.5)))  # later each time, so that the end comes
        process.kill()
        process.join()
        for name in trials:
            content = broken.read(name)
            rows = [] if content is None else load_rows(content, name)
            reference = load_rows(whole.read(name) or b"", name)
            assert timeless(rows) == timeless(reference[: len(rows)])
        if process.exitcode == 0:
            break
        kills += 1
    assert process.exitcode == 0
    assert kills >= 2
    for name in trials:
        assert timeless(load_rows(broken.read(name) or b"", name)) == timeless(load_rows(whole.read(name) or b"", name))
    assert not [name for name in broken.names() if name.endswith(CHECKPOINT_FILE)]


def test_a_kept_checkpoint_holds_the_finished_trial(make_spec: MakeSpec, batches: Batches, folder: Storage) -> None:
    rows = finish(make_spec(), batches, folder, keep_checkpoint=True)
    assert folder.read(CHECKPOINT_FILE) is not None
    again = StoredTraining(Training(make_spec(), batches), folder, keep_checkpoint=True)
    assert again.training.finished
    assert again.training.rows == rows
    again.close()
    assert folder.read(CHECKPOINT_FILE) is not None


@pytest.mark.parametrize("damage", ["flip", "half", "empty", "another trial's", "another network's"])
def test_a_damaged_checkpoint_begins_the_trial_again_and_says_so(
    damage: str, make_spec: MakeSpec, batches: Batches, folder: Storage, tmp_path: Path, quiet: pytest.LogCaptureFixture
) -> None:
    spec = make_spec()
    undisturbed = finish(spec, batches, LocalStorage(tmp_path / "other"))
    stored = StoredTraining(Training(spec, batches), folder)
    stored.step()
    stored.close()
    content = folder.read(CHECKPOINT_FILE)
    assert content is not None
    foreign = {"another trial's": make_spec(seed=4), "another network's": make_spec(width=8)}
    if damage in foreign:
        elsewhere = LocalStorage(tmp_path / "elsewhere")
        stored = StoredTraining(Training(foreign[damage], batches), elsewhere)
        stored.step()
        stored.close()
        content = elsewhere.read(CHECKPOINT_FILE)
        assert content is not None
    middle = len(content) // 2
    changed = {"flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], "half": content[:middle], "empty": b""}
    folder.write(CHECKPOINT_FILE, changed.get(damage, content))
    assert timeless(finish(spec, batches, folder)) == timeless(undisturbed)
    assert f"{folder.where(CHECKPOINT_FILE)}: " in quiet.text
    assert "the trial begins again" in quiet.text


def test_beginning_removes_the_note_of_an_earlier_failure(make_spec: MakeSpec, batches: Batches, folder: Storage) -> None:
    folder.write(FAILURE_FILE, json.dumps({"schema": 1}).encode())
    StoredTraining(Training(make_spec(), batches), folder).close()
    assert folder.read(FAILURE_FILE) is None


def test_a_diverged_trial_is_finished_and_leaves_no_checkpoint(make_spec: MakeSpec, batches: Batches, folder: Storage) -> None:
    rows = finish(make_spec(lr=1e4, epochs=20), batches, folder)
    assert rows[-1]["diverged"]
    assert len(rows) < 20
    assert folder.read(CHECKPOINT_FILE) is None
    events = tensorboard(folder)
    assert [event.step for event in events.Scalars(SCALARS["epoch_seconds"])] == [row["epoch"] for row in rows]
    charted = [event.step for tag in events.Tags()["scalars"] if tag.startswith("acc1/") for event in events.Scalars(tag)]
    assert rows[-1]["epoch"] not in charted


def test_storage_that_cannot_be_written_stops_the_trial_with_its_name(make_spec: MakeSpec, batches: Batches, tmp_path: Path) -> None:
    folder = LocalStorage(tmp_path / "trial")
    stored = StoredTraining(Training(make_spec(), batches), folder)
    (tmp_path / "trial" / RECORDS_FILE).mkdir()  # what cannot be replaced by a file
    with pytest.raises(UserError, match=r"trial/records\.jsonl: cannot be written"):
        stored.step()
    (tmp_path / "trial" / RECORDS_FILE).rmdir()
    stored.close()
    assert len(finish(make_spec(), batches, folder)) == 3


@pytest.mark.parametrize(("epoch", "save"), [(1.0, 0.001), (1.0, 0.019), (1.0, 0.5), (0.01, 3.0), (400.0, 0.5)])
def test_checkpoints_cost_two_percent_of_the_training_time_at_most(
    make_spec: MakeSpec, folder: Storage, monkeypatch: pytest.MonkeyPatch, epoch: float, save: float
) -> None:
    """Seconds are those of a clock that moves by what an epoch and a checkpoint are said to take."""
    now, saved_after = 0.0, []

    class Timed(StubTraining):
        def run_epoch(self) -> EpochRecord:
            nonlocal now
            record = dataclasses.replace(super().run_epoch(), epoch_seconds=epoch)
            now += epoch
            return record

    def dump(state: dict[str, Any]) -> bytes:
        nonlocal now
        saved_after.append(len(state["rows"]))
        now += save
        return b""

    monkeypatch.setattr(stub, "SLEEP", 0.0)
    monkeypatch.setattr("tune_ablation.training.stored.time.perf_counter", lambda: now)
    monkeypatch.setattr("tune_ablation.training.checkpoint.dump", dump)
    epochs = 150
    stored = StoredTraining(Timed(make_spec(epochs=epochs)), folder)
    for _ in range(epochs - 1):
        stored.step()
    assert saved_after[0] == 1
    assert len(saved_after) * save <= max(save, 0.02 * (epochs - 1) * epoch)
    assert (len(saved_after) + 1) * save > min(0.02 * (epochs - 2) * epoch, (epochs - 1) * save), "and as often as that allows"
    for number, place in enumerate(saved_after[1:], 2):
        assert number * save <= 0.02 * place * epoch


class Away(RemoteStorage):
    """A folder on storage that stops answering; asking it takes minutes then."""

    is_away = False
    asked = 0

    def _patiently(self, request: Callable[[], Any], failed: str) -> Any:
        if self.is_away:
            self.asked += 1
            raise StorageError(f"{failed}: away")
        return super()._patiently(request, failed)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_storage_that_is_gone_is_asked_once(make_spec: MakeSpec, batches: Batches, tmp_path: Path, epoch: int) -> None:
    folder = Away(f"file://{tmp_path}/remote")
    stored = StoredTraining(Training(make_spec(), batches), folder)
    for _ in range(epoch - 1):
        stored.step()
    folder.is_away = True
    with pytest.raises(StorageError, match="away"):
        stored.step()
    stored.close()
    assert folder.asked == 1
    folder.is_away = False
    assert timeless(finish(make_spec(), batches, folder)) == timeless(finish(make_spec(), batches, LocalStorage(tmp_path / "other")))


def tensorboard(folder: Storage) -> EventAccumulator:
    """The trial's events as TensorBoard reads them, nothing purged or sampled away."""
    assert isinstance(folder, LocalStorage)
    events = EventAccumulator(str(folder.folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    events.Reload()
    return events


def each_scalar_is_the_records(folder: Storage, rows: list[dict[str, Any]]) -> None:
    events = tensorboard(folder)
    for column, tag in SCALARS.items():
        drawn = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in drawn] == [row["epoch"] for row in rows], "each epoch once"
        assert [value for _, value in drawn] == pytest.approx([row[column] for row in rows], rel=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_tensorboard_shows_every_epoch_once_after_a_restart(head: str, make_spec: MakeSpec, batches: Batches, folder: Storage) -> None:
    stored = StoredTraining(Training(make_spec(head), batches), folder, graph=True)
    stored.step()
    stored.step()
    del stored  # gone without a word, its event file left as it was
    rows = finish(make_spec(head), batches, folder, graph=True)
    assert len(event_files(folder)) == 1
    each_scalar_is_the_records(folder, rows)
    events = tensorboard(folder)
    assert events.Tags()["graph"]
    assert len({node.name for node in events.Graph().node}) > 50
    kinds = {"experiment", "session_start_info", "session_end_info"}
    assert {f"_hparams_/{kind}" for kind in kinds} == set(events.PluginTagToContent("hparams"))
    assert events.Scalars("hparam/test_acc1")[0].value == pytest.approx(rows[-1]["test_acc1"], rel=1e-6)


def test_a_graph_is_written_only_when_asked_for_and_changes_nothing(
    make_spec: MakeSpec, batches: Batches, folder: Storage, tmp_path: Path
) -> None:
    plain = finish(make_spec("dropout"), batches, folder)
    assert not tensorboard(folder).Tags()["graph"]
    drawn = finish(make_spec("dropout"), batches, LocalStorage(tmp_path / "drawn"), graph=True)
    assert timeless(plain) == timeless(drawn)


def test_every_metric_has_a_chart() -> None:
    assert set(SCALARS) == {*METRICS, *TIMES}
    assert len(set(SCALARS.values())) == len(SCALARS)


def test_remote_storage_gets_records_and_one_event_file(make_spec: MakeSpec, batches: Batches, tmp_path: Path) -> None:
    undisturbed = finish(make_spec(), batches, LocalStorage(tmp_path / "other"))
    folder = RemoteStorage(f"file://{tmp_path}/remote")
    stored = StoredTraining(Training(make_spec(), batches), folder)
    stored.step()
    stored.close()
    (events,) = event_files(folder)
    (tmp_path / "remote" / events).rename(tmp_path / "remote" / f"{EVENTS_PREFIX}.1700000000.another-machine")
    assert timeless(finish(make_spec(), batches, folder)) == timeless(undisturbed)
    assert len(event_files(folder)) == 1
    assert folder.names() == [*event_files(folder), RECORDS_FILE]
    each_scalar_is_the_records(LocalStorage(tmp_path / "remote"), rows_in(folder))
