"""A full disk, a real one: a small tmpfs under the cache, the results, or both of a run. One clear line, nothing lost, and it goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tune_ablation import plan
from tune_ablation.data import PreparedData, prepare
from tune_ablation.data.batches import Batches
from tune_ablation.errors import UserError
from tune_ablation.experiment import Experiment, parse
from tune_ablation.records import TIMES, is_finished, load_rows
from tune_ablation.storage import LocalStorage, StorageError
from tune_ablation.trial import begin

if TYPE_CHECKING:
    from tests.runner.conftest import Study


class Disk:
    """A disk of so many bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)

    def resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)

    def files(self) -> dict[str, bytes]:
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}


MakeDisk = Callable[[int], Disk]


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[MakeDisk]:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux may mount a small disk")
    folder = tmp_path / "disk"

    def make(size: int) -> Disk:
        try:
            return Disk(folder, size)
        except subprocess.CalledProcessError:
            pytest.skip("mounting a tmpfs is not allowed here")

    yield make
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


SMALL = {
    "name": "small",
    "data": {"classes": 3, "train_per_class": 8, "val_per_class": 3, "test_per_class": 3, "image_size": 32},
    "model": {"width": 2},
    "grid": {"depth": [18], "head": ["origin"]},
    "recipe": {"epochs": 3, "batch_size": 8, "lr": 0.05},
    "search": {"trials_per_cell": 0},
    "confirm": {"seeds": [3]},
}
PAGE = 4096


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return parse(SMALL, "the test's experiment")


@pytest.fixture(scope="module")
def prepared(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(experiment.data, None, cache_dir=tmp_path_factory.mktemp("cache"))


def train(experiment: Experiment, prepared: PreparedData, folder: Path) -> list[dict[str, Any]]:
    """The one trial's records, times aside."""
    torch.set_num_threads(1)
    (trial,) = plan.ready(experiment, {})
    storage = LocalStorage(folder)
    stored = begin(experiment, trial, Batches(prepared, torch.device("cpu")), storage, precision="fp32", keep_checkpoint=False)
    try:
        while not stored.training.finished:
            stored.step()
    finally:
        stored.close()
    rows = load_rows(storage.read(f"trials/{trial.key}/records.jsonl") or b"", "records")
    assert is_finished(rows)
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def test_wherever_in_a_trial_the_disk_is_full_it_says_so_and_goes_on_once_there_is_room(
    experiment: Experiment, prepared: PreparedData, make_disk: MakeDisk, tmp_path: Path
) -> None:
    undisturbed = train(experiment, prepared, tmp_path / "undisturbed")
    disk = make_disk(1 << 22)
    full: set[str] = set()
    pages = 1
    for _ in range(20):
        disk.resize(1 << 22)
        shutil.rmtree(disk.folder / "results", ignore_errors=True)
        (disk.folder / "filler").write_bytes(bytes((1 << 22) - pages * PAGE))
        try:
            train(experiment, prepared, disk.folder / "results")
        except StorageError as error:
            says = str(error)
        else:
            break
        assert "No space left on device" in says
        assert "\n" not in says
        match = re.search(rf"^{disk.folder}/results/trials/resnet18_origin/confirm/seed-3/([a-z.]+)", says)
        assert match is not None, says
        full.add(match[1])
        sizes = re.search(r"cannot be written, ([\d,]+) bytes: .*\(([\d,]+) bytes free\)$", says)
        if match[1].startswith("events"):
            pages *= 2
        else:  # just enough for this file: the next one is the next to fail
            assert sizes is not None, says
            needed, free = (int(text.replace(",", "")) for text in sizes.groups())
            assert needed > free
            pages += -(-(needed - free) // PAGE)
        left = disk.files()
        assert not [name for name in left if name.endswith(".tmp")]
        for name, content in left.items():
            if name.endswith("records.jsonl"):
                rows = load_rows(content, name)
                assert [{key: row[key] for key in undisturbed[0]} for row in rows] == undisturbed[: len(rows)], "what was there still is"
        (disk.folder / "filler").unlink()
        assert train(experiment, prepared, disk.folder / "results") == undisturbed
    else:
        pytest.fail("there never was room enough")
    assert {"checkpoint.pt", "records.jsonl"} < full
    assert any(name.startswith("events") for name in full)


def test_a_cache_without_room_is_refused_with_the_bytes_it_needs(experiment: Experiment, make_disk: MakeDisk) -> None:
    disk = make_disk(16 * PAGE)
    with pytest.raises(UserError) as caught:
        prepare(experiment.data, None, cache_dir=disk.folder / "cache")
    match = re.search(r"needs ([\d,]+) bytes, ([\d,]+) are free$", str(caught.value))
    assert match is not None, caught.value
    assert str(disk.folder) in str(caught.value)
    assert int(match[1].replace(",", "")) > 3 * 14 * 3 * 32 * 32 > int(match[2].replace(",", "")) - PAGE
    assert not [name for name in disk.files() if not name.endswith(".lock")]
    disk.resize(1 << 22)
    assert prepare(experiment.data, None, cache_dir=disk.folder / "cache").images.shape[0] == 3 * 14


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_with_one_line_and_goes_on(undisturbed: Study, study: Study, make_disk: MakeDisk) -> None:
    disk = make_disk(200 << 10)
    study.storage_path, study.results = str(disk.folder / "results"), disk.folder / "results" / "tiny"
    code, output, errors = study.run("--parallel", "2")
    assert code == 2, output + errors
    assert errors.count("\n") == 1, errors
    assert re.match(rf"error: {study.results}/trials/\S+: cannot be written, [\d,]+ bytes: No space left on device", errors)
    assert errors.endswith("the same command goes on from here\n")
    assert "failed" not in output
    assert not [name for name in disk.files() if name.endswith((".tmp", "failure.json"))]
    disk.resize(8 << 20)
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert study.records() == undisturbed.records()


@pytest.mark.slow
@pytest.mark.parametrize("size", [PAGE, 8 * PAGE])
def test_a_run_that_cannot_even_begin_says_so(undisturbed: Study, study: Study, make_disk: MakeDisk, size: int) -> None:
    disk = make_disk(size)
    study.storage_path, study.results = str(disk.folder / "results"), disk.folder / "results" / "tiny"
    code, output, errors = study.run("--parallel", "2")
    assert code == 2, output + errors
    assert errors.count("\n") == 1, errors
    assert str(disk.folder) in errors
    assert "No space left on device" in errors
    disk.resize(8 << 20)
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert study.records() == undisturbed.records()
