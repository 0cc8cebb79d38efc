"""Results folders as the first version of each schema wrote them, a trial broken off in each: read whole and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from analysis import load
from tune_ablation import data, experiment, plan, results
from tune_ablation.data.batches import Batches
from tune_ablation.records import SCHEMA, load_rows
from tune_ablation.storage import LocalStorage
from tune_ablation.trial import begin

KEPT = Path(__file__).parent / "schemas"
BROKEN_OFF = "resnet18_maxpool/confirm/seed-1"


def test_a_folder_of_every_schema_is_kept() -> None:
    assert {path.name for path in KEPT.iterdir()} == {str(schema) for schema in range(1, SCHEMA + 1)}


@pytest.fixture(params=sorted(path.name for path in KEPT.iterdir()))
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one."""
    return Path(shutil.copytree(KEPT / request.param, tmp_path / "kept"))


def test_what_is_finished_is_taken_up_and_what_was_broken_off_goes_on_from_its_checkpoint(
    kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = experiment.read(str(kept / "written.toml"))
    prepared = data.prepare(asked.data, None, cache_dir=tmp_path / "cache")
    storage = LocalStorage(kept / "written")
    found = results.take_up(storage, asked, results.describe_data(asked, prepared), keep_checkpoints=False)
    assert caplog.text == ""
    assert set(plan.all_keys(asked)) - found.rows.keys() == {BROKEN_OFF}

    (trial,) = plan.ready(asked, plan.results_of(asked, found.rows.values()))
    assert trial.key == BROKEN_OFF
    name = f"trials/{BROKEN_OFF}/records.jsonl"
    first = load_rows(storage.read(name) or b"", name)
    stored = begin(asked, trial, Batches(prepared, torch.device("cpu")), storage, precision="fp32", keep_checkpoint=False)
    assert stored.training.rows == first
    assert len(first) == 1
    stored.step()
    assert stored.training.finished
    assert load_rows(storage.read(name) or b"", name)[:1] == first
    assert caplog.text == ""


def test_a_header_of_the_time_before_check_values_is_read(kept: Path) -> None:
    storage = LocalStorage(kept / "written")
    header = results.read_header(storage)
    storage.write("run.json", json.dumps(header).encode())
    storage.delete("run.copy.json")
    assert results.read_header(storage) == header


def test_the_analysis_reads_it(kept: Path) -> None:
    (run,) = load.load([str(kept)]).runs
    assert run.problems == ()
    assert run.epochs.height == 2 * 7 + 1
