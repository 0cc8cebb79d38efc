"""What a driver finds in a results folder: finished trials, damage, other questions, newer versions; and how long that takes."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BUCKET
from tune_ablation import plan, results
from tune_ablation.errors import UserError
from tune_ablation.experiment import Experiment, parse
from tune_ablation.records import METRICS, SCHEMA, dump_rows
from tune_ablation.storage import LocalStorage, Storage, open_storage
from tune_ablation.trial import spec_of

DATA = {"fingerprint": "f" * 64, "dataset": "synthetic", "classes": 10, "train": 80, "val": 20, "test": 50}


def small(**changes: Any) -> Experiment:
    content = {
        "name": "small",
        "grid": {"depth": [18], "head": ["origin", "maxpool"]},
        "recipe": {"epochs": 2},
        "search": {"trials_per_cell": 2},
        "confirm": {"seeds": [0]},
    }
    return parse(content | changes, "the test's experiment")


def rows_of(experiment: Experiment, trial: plan.Trial) -> list[dict[str, Any]]:
    """Records of a finished trial; its value depends on its learning rate alone."""
    value = 50 - 10 * abs(math.log10(trial.lr / 0.05))
    return [
        spec_of(experiment, trial)
        .record(
            epoch,
            dict.fromkeys(METRICS, value),
            epoch_seconds=1.0,
            train_images_per_second=100.0,
            diverged=False,
            device="cpu",
            precision="fp32",
        )
        .to_row()
        for epoch in range(1, experiment.recipe.epochs + 1)
    ]


def fill(experiment: Experiment, storage: Storage) -> dict[str, plan.Result]:
    """Write the header and the records of every trial of the plan."""
    results.write_session(storage, experiment, None, [], DATA, "fp32", [])
    finished: dict[str, plan.Result] = {}
    while trials := plan.ready(experiment, finished):
        for trial in trials:
            rows = rows_of(experiment, trial)
            storage.write(f"trials/{trial.key}/records.jsonl", dump_rows(rows))
            finished[trial.key] = plan.Result(trial.lr, rows[-1][experiment.search.objective])
    return finished


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "results")


@pytest.fixture
def full(storage: LocalStorage) -> LocalStorage:
    fill(small(), storage)
    return storage


def take_up(storage: Storage, experiment: Experiment | None = None, *, keep: bool = False) -> results.Found:
    return results.take_up(storage, experiment or small(), DATA, keep_checkpoints=keep)


def test_an_empty_folder_has_nothing(storage: LocalStorage) -> None:
    assert take_up(storage) == results.Found(None, {})


def test_finished_trials_are_found_and_nothing_is_said(full: LocalStorage, caplog: pytest.LogCaptureFixture) -> None:
    found = take_up(full)
    assert set(found.rows) == set(plan.all_keys(small()))
    assert plan.is_complete(small(), plan.results_of(small(), found.rows.values()))
    assert caplog.text == ""


def test_what_a_dead_process_left_is_cleared_away(full: LocalStorage) -> None:
    key = plan.all_keys(small())[0]
    assert full.folder is not None
    full.write(f"trials/{key}/checkpoint.pt", b"x")
    (full.folder / "trials" / key / ".records.jsonl.x2.tmp").write_bytes(b"half")
    (full.folder / ".run.json.x1.tmp").write_bytes(b"half")
    take_up(full, keep=True)
    assert f"trials/{key}/checkpoint.pt" in full.names()
    assert not list(full.folder.rglob("*.tmp"))
    take_up(full)
    assert f"trials/{key}/checkpoint.pt" not in full.names()


def flip(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "flipped": flip,
    "truncated": lambda content: content[: len(content) // 3],
    "emptied": lambda _: b"",
    "another trial's": lambda content: dump_rows([json.loads(line) | {"trial": "x"} for line in content.splitlines()]),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_damaged_record_is_named_and_its_trial_is_not_finished(
    full: LocalStorage, caplog: pytest.LogCaptureFixture, kind: str, checkpoint: bool
) -> None:
    key = plan.all_keys(small())[1]
    name = f"trials/{key}/records.jsonl"
    full.write(name, DAMAGES[kind](full.read(name) or b""))
    if checkpoint:
        full.write(f"trials/{key}/checkpoint.pt", b"x")
    with caplog.at_level(logging.WARNING):
        found = take_up(full)
    assert set(plan.all_keys(small())) - set(found.rows) == {key}
    assert full.where(name) in caplog.text
    assert ("goes on from its checkpoint" if checkpoint else "is run again") in caplog.text


def test_records_and_checkpoints_that_are_gone_are_named(full: LocalStorage, caplog: pytest.LogCaptureFixture) -> None:
    first, second = plan.all_keys(small())[:2]
    full.delete(f"trials/{first}/records.jsonl")
    full.write(f"trials/{first}/events.out.tfevents.1.x", b"")
    rows = (full.read(f"trials/{second}/records.jsonl") or b"").splitlines(keepends=True)
    full.write(f"trials/{second}/records.jsonl", rows[0])
    found = take_up(full)
    assert not {first, second} & set(found.rows)
    assert f"no records there: {first};" in caplog.text
    assert f"{second}/records.jsonl: 1 of 2 epochs and no checkpoint" in caplog.text


@pytest.mark.parametrize("kind", ["flipped", "truncated", "emptied", "deleted"])
def test_a_damaged_header_is_put_back_from_its_copy(full: LocalStorage, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    whole = full.read("run.json") or b""
    header = results.read_header(full)
    assert header is not None
    assert "check" not in header
    if kind == "deleted":
        full.delete("run.json")
    else:
        full.write("run.json", DAMAGES[kind](whole))
    assert take_up(full).header == header
    assert "run.json: " in caplog.text
    assert "put back from its copy, run.copy.json" in caplog.text
    assert full.read("run.json") == whole
    for name in ("run.json", "run.copy.json"):
        full.write(name, b"{")
    with pytest.raises(UserError, match=r"run\.json: damaged.*put it back, or move the folder away"):
        take_up(full)
    for name in ("run.json", "run.copy.json"):
        full.delete(name)
    with pytest.raises(UserError, match=r"run\.json: missing, and run\.copy\.json too"):
        take_up(full)


def test_every_flip_in_the_header_is_noticed(full: LocalStorage) -> None:
    whole = full.read("run.json") or b""
    header = results.read_header(full)
    for place in range(0, len(whole) - 1, 13):
        full.write("run.json", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert results.read_header(full) == header


def test_what_a_newer_version_wrote_is_refused_and_left_alone(full: LocalStorage) -> None:
    key = plan.all_keys(small())[0]
    name = f"trials/{key}/records.jsonl"
    content = full.read(name) or b""
    newer = dump_rows([json.loads(line) | {"schema": SCHEMA + 1} for line in content.splitlines()])
    full.write(name, newer)
    with pytest.raises(UserError, match=rf"records\.jsonl, line 1: schema {SCHEMA + 1}, this version reads {SCHEMA}; a newer version"):
        take_up(full)
    assert full.read(name) == newer
    full.write(name, content)
    header = json.dumps({"schema": SCHEMA + 1}).encode()
    full.write("run.json", header)
    with pytest.raises(UserError, match=rf"written in schema {SCHEMA + 1} by a newer version of tune-ablation, this one reads {SCHEMA}"):
        take_up(full)
    assert full.read("run.json") == header


def test_another_question_is_refused(full: LocalStorage) -> None:
    with pytest.raises(UserError, match=r"recipe\.epochs: was 2, now 3"):
        take_up(full, small(recipe={"epochs": 3}))


def test_no_credential_reaches_the_header(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.argv", ["run", "--storage-path", "s3://key:sec/ret@bucket/x?region=r", "--storage-path=abfs://a?sas_token=sec"]
    )
    fill(small(), storage)
    content = (storage.read("run.json") or b"").decode()
    assert "sec" not in content
    assert "s3://***@bucket/x?region=r" in content


@pytest.mark.slow
@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_thousand_finished_trials_are_taken_up_in_seconds(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    content = {"grid": {"depth": [18, 34, 50, 101], "head": ["origin", "maxpool", "dropout"], "width": [32, 64]}}
    experiment = small(**content, search={"trials_per_cell": 32}, confirm={"seeds": list(range(10))})
    local = LocalStorage(tmp_path / "local")
    finished = fill(experiment, local)
    assert len(finished) == 24 * 42 > 1000
    storage: Storage = local
    if where == "s3":
        storage = open_storage(f"s3://{BUCKET}/{tmp_path.name}?{request.getfixturevalue('s3_options')}")
        for name in local.names():
            storage.write(name, local.read(name) or b"")
    shutil.rmtree(tmp_path / "local") if where == "s3" else None
    began = time.perf_counter()
    found = take_up(storage, experiment)
    assert plan.is_complete(experiment, plan.results_of(experiment, found.rows.values()))
    seconds = time.perf_counter() - began
    print(f"{len(found.rows)} finished trials taken up from {re.sub('[^a-z]', '', where)} in {seconds:.2f} s")
    assert seconds < (5 if where == "local" else 30)
