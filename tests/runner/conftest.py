"""A tiny experiment, run for real through the command line in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tune_ablation.records import TIMES, load_rows

TINY = """
name = "tiny"

[data]
classes = 3
train_per_class = 16
val_per_class = 4
test_per_class = 4
image_size = 32

[model]
width = 4

[grid]
depth = [18]
head = ["origin", "dropout"]

[recipe]
epochs = 4
batch_size = 8

[search]
trials_per_cell = 3
lr = { low = 1e-3, high = 1e-1 }

[confirm]
seeds = [0, 1]
"""
TRIALS = 2 * (3 + 2)


class Study:
    """One storage folder and the command that works on it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.file = folder / "tiny.toml"
        self.file.write_text(TINY)
        self.storage = folder / "results"
        self.storage_path = str(self.storage)
        self.results = self.storage / "tiny"
        self._cache = cache
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command in a session of its own."""
        command = [sys.executable, "-m", "tune_ablation", "run", str(self.file), "--storage-path", self.storage_path]
        process = subprocess.Popen(
            [*command, "--cache-dir", str(self._cache), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of the command."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=240)
        return process.returncode, output, errors

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """All records by file, times aside."""
        found = {}
        for path in sorted(self.results.glob("trials/*/*/*/records.jsonl")):
            rows = load_rows(path.read_bytes(), str(path))
            found[path.parent.relative_to(self.results / "trials").as_posix()] = [
                {column: value for column, value in row.items() if column not in TIMES} for row in rows
            ]
        return found

    def finished(self) -> dict[str, int]:
        """Inode of the records file of every finished trial: a file that is written anew gets another."""
        return {
            key: (self.results / "trials" / key / "records.jsonl").stat().st_ino
            for key, rows in self.records().items()
            if rows and rows[-1]["epoch"] == rows[-1]["epochs"]
        }

    def assert_not_trained_again(self, before: dict[str, int]) -> None:
        """Every trial finished before still has the file it had."""
        after = self.finished()
        assert {key: after[key] for key in before} == before, "a finished trial was trained again"

    def wait_until(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Poll until something is so."""
        end = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < end, "it did not come about in time"
            time.sleep(0.05)

    def wait_for_records(self, trials: int) -> None:
        """Poll until so many trials have begun to write records."""
        self.wait_until(lambda: len(list(self.results.glob("trials/*/*/*/records.jsonl"))) >= trials)

    def clean_up(self) -> None:
        """Leave no process behind."""
        for process in self._processes:
            if process.poll() is None:
                kill_tree(process.pid)
            process.communicate()


def descendants(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found, queue = [], [pid]
    while queue:
        current = queue.pop(0)
        found.append(current)
        queue += parents.get(current, [])
    return found


def workers(pid: int) -> list[int]:
    """The trial workers among a driver's descendants, by the names that Ray gives them between and during epochs."""
    names = ("ray::AblationTrainable", "ray::ResourceTrainable")  # Tune wraps a trainable that was given resources
    return [child for child in descendants(pid) if _command_line(child).startswith(names)]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process is more than an entry that its parent has yet to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_tree(pid: int) -> None:
    """SIGKILL for a process and everything that it started."""
    for victim in descendants(pid):
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def study(tmp_path: Path, cache: Path) -> Iterator[Study]:
    study = Study(tmp_path, cache)
    yield study
    study.clean_up()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Study]:
    """The tiny experiment run to its end, one trial at a time; not to be changed."""
    study = Study(tmp_path_factory.mktemp("undisturbed"), cache)
    code, output, errors = study.run("--parallel", "1")
    assert code == 0, output + errors
    yield study
    study.clean_up()


def header(study: Study) -> dict[str, Any]:
    """The run header."""
    content: dict[str, Any] = json.loads((study.results / "run.json").read_text())
    return content
