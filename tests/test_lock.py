"""One driver at a time, with real processes: on a disk, on another of pyarrow's file systems, and on S3."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import BUCKET
from tune_ablation import lock
from tune_ablation.errors import UserError
from tune_ablation.lock import BEAT, CLAIM, CLAIMS_FOLDER, HOLDER_FILE, Driver, only_driver
from tune_ablation.storage import RemoteStorage, Storage, StorageError, open_storage

DRIVER = """
import sys, threading, time
from tune_ablation import lock
from tune_ablation.errors import UserError
from tune_ablation.storage import open_storage
uri, machine, wait = sys.argv[1:]
lock.BEAT_SECONDS, lock.DEAD_SECONDS, lock.POLL_SECONDS = 0.1, 1.0, 0.05
if machine:
    lock._machine = lambda: machine
stop = threading.Event()
def leave_when_told():
    sys.stdin.readline()
    stop.set()
threading.Thread(target=leave_when_told, daemon=True).start()
try:
    with lock.only_driver(open_storage(uri), stop, wait=bool(wait), say=lambda line: print(line, flush=True)):
        print("at work", flush=True)
        stop.wait()
except UserError as error:
    sys.exit(str(error))
"""


class Process(subprocess.Popen[str]):
    """A driver in a process of its own."""

    def line(self) -> str:
        assert self.stdout is not None
        return self.stdout.readline().strip()

    def end(self, told: str = "\n") -> tuple[str, str]:
        output, errors = self.communicate(told, timeout=30)
        return output, errors


Start = Callable[..., Process]


@pytest.fixture(params=["local", "pyarrow", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"s3://{BUCKET}/{tmp_path.name}?{request.getfixturevalue('s3_options')}"
    return str(tmp_path / "results") if request.param == "local" else f"remote{tmp_path}/results"


@pytest.fixture
def start(uri: str) -> Iterator[Start]:
    """Starts drivers, each on a machine of that name; ``wait`` as on the command line."""
    started = []

    def begin(machine: str = "", wait: bool = False) -> Process:
        script, address = DRIVER, uri
        if uri.startswith("remote"):  # a file system that is neither this machine's disk nor an object store
            script = script.replace("open_storage(uri)", "RemoteStorage(uri)").replace("import open_storage", "import RemoteStorage")
            address = f"file://{uri.removeprefix('remote')}"
        command = [sys.executable, "-c", script, address, machine, "wait" if wait else ""]
        process = Process(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
            process.send_signal(signal.SIGCONT)
            process.communicate()


def test_a_second_driver_is_told_who_is_at_work_and_leaves(start: Start) -> None:
    first = start()
    assert first.line() == "at work"
    second = start()
    output, errors = second.end()
    assert second.returncode == 1
    assert output == ""
    assert f"another run of this experiment is at work on it (process {first.pid} on {os.uname().nodename}, since 20" in errors
    assert errors.endswith("--wait waits for its end\n")
    assert errors.count("\n") == 1
    first.end()
    third = start()
    assert third.line() == "at work"
    third.end()
    assert (first.returncode, third.returncode) == (0, 0)


def test_a_driver_that_was_killed_stands_in_nobodys_way(start: Start) -> None:
    first = start()
    assert first.line() == "at work"
    first.kill()
    first.communicate()
    began = time.monotonic()
    second = start()
    lines = [second.line()]
    while lines[-1] != "at work":
        assert lines[-1], second.communicate()
        lines.append(second.line())
    assert time.monotonic() - began < 10
    assert all(f"taken over from a run that ended without a word (process {first.pid} on" in line for line in lines[:-1])
    second.end()
    assert second.returncode == 0


def test_one_that_waits_begins_when_the_other_ends(start: Start) -> None:
    first = start()
    assert first.line() == "at work"
    second = start(wait=True)
    assert re.match(rf"Waiting: .*another run of this experiment is at work on it \(process {first.pid} on ", second.line())
    first.end()
    assert second.line() == "at work"
    second.end()
    assert second.returncode == 0


def test_of_those_that_start_at_once_one_works(start: Start) -> None:
    drivers = [start() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        at_work = [driver for driver, line in zip(drivers, pool.map(Process.line, drivers), strict=True) if line == "at work"]
    assert len(at_work) == 1
    for driver in drivers:
        _, errors = driver.end()
        assert driver.returncode == (0 if driver in at_work else 1)
        assert driver in at_work or f"(process {at_work[0].pid} on" in errors


@pytest.fixture
def storage(s3_options: str, tmp_path: Path) -> Storage:
    return open_storage(f"s3://{BUCKET}/{tmp_path.name}?{s3_options}")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BEAT_SECONDS", 0.1), ("DEAD_SECONDS", 1.0), ("POLL_SECONDS", 0.02)):
        monkeypatch.setattr(lock, name, seconds)


@pytest.mark.usefixtures("_quick")
def test_however_many_want_it_one_has_it(storage: Storage) -> None:
    inside: list[int] = []
    most = []

    def drive(number: int) -> None:
        for _ in range(4):
            with only_driver(storage, threading.Event(), wait=True, say=lambda _: None):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.01)
                inside.remove(number)

    with ThreadPoolExecutor(5) as pool:
        for done in [pool.submit(drive, number) for number in range(5)]:
            done.result(timeout=100)
    assert most == [1] * 20
    assert storage.names() == []


@pytest.mark.usefixtures("_quick")
def test_a_beat_that_is_late_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, beating = RemoteStorage(f"file://{tmp_path}"), threading.Event()
    write = RemoteStorage.write

    def write_late(self: RemoteStorage, name: str, content: bytes) -> None:
        if name.endswith(BEAT) and content != b"0":
            beating.set()
            time.sleep(1)
        write(self, name, content)

    monkeypatch.setattr(RemoteStorage, "write", write_late)
    with only_driver(storage, threading.Event(), wait=False, say=print):
        assert beating.wait(10)
    assert not storage.names()
    time.sleep(1.5)
    assert not storage.names()


@pytest.mark.parametrize("uri", ["s3"], indirect=True)
def test_one_that_lives_on_another_machine_is_known_by_its_beat(start: Start) -> None:
    first = start("a")
    assert first.line() == "at work"
    second = start("b")
    assert "; without a sign of life for 1 s it is taken over" in second.line()
    _, errors = second.end()
    assert second.returncode == 1
    assert f"at work on it (process {first.pid} on " in errors


@pytest.mark.parametrize("uri", ["s3"], indirect=True)
def test_one_that_died_on_another_machine_is_taken_over_after_a_while(start: Start) -> None:
    first = start("a")
    assert first.line() == "at work"
    first.kill()
    first.communicate()
    began = time.monotonic()
    second = start("b")
    assert "; without a sign of life for 1 s it is taken over" in second.line()
    assert "taken over from a run that ended without a word" in second.line()
    assert time.monotonic() - began > 1
    assert second.line() == "at work"
    second.end()
    assert second.returncode == 0


@pytest.mark.parametrize("uri", ["s3"], indirect=True)
def test_one_that_slept_and_was_taken_over_stops_by_itself(start: Start) -> None:
    first = start("a")
    assert first.line() == "at work"
    first.send_signal(signal.SIGSTOP)
    second = start("b")
    assert second.line()
    assert "taken over from" in second.line()
    assert second.line() == "at work"
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=30) == 1  # untold
    _, errors = first.communicate()
    assert "taken over by another run of this experiment while this one did not answer; this one has stopped" in errors
    assert second.poll() is None
    third = start("b")
    third.end()
    assert third.returncode == 1
    second.end()
    assert second.returncode == 0


@pytest.mark.parametrize("uri", ["pyarrow", "s3"], indirect=True)
def test_whoever_was_taken_over_changes_nothing_any_more(uri: str) -> None:
    uri = re.sub("^remote", "file://", uri)
    records = "trials/a/records.jsonl"
    with only_driver(RemoteStorage(uri), threading.Event(), wait=False, say=print) as claim:
        assert claim is not None
        worker, next_driver = RemoteStorage(uri).fenced(claim).child("trials/a"), RemoteStorage(uri)
        worker.write("records.jsonl", b"early")
        assert next_driver.read(records) == b"early"
        next_driver.delete(claim)
        next_driver.write(records, b"of the next")
        refused = r"/records\.jsonl: left as it is: another run of this experiment has taken over"
        with pytest.raises(StorageError, match=refused):
            worker.write("records.jsonl", b"late")
        with pytest.raises(StorageError, match=refused):
            worker.delete("records.jsonl")
        assert next_driver.names("trials") == [records]
        assert next_driver.read(records) == b"of the next"


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "x"}', b"[]"])
def test_a_claim_that_cannot_be_read_is_that_of_a_dead_driver(storage: Storage, content: bytes) -> None:
    storage.write(f"{CLAIMS_FOLDER}/0000{CLAIM}", content)
    said: list[str] = []
    with only_driver(storage, threading.Event(), wait=False, say=said.append):
        pass
    assert "without a sign of life" in said[0]
    assert "taken over" in said[1]
    assert storage.names() == []


def test_a_process_number_that_was_given_again_is_not_the_driver() -> None:
    me = Driver.this()
    assert Driver.parse(me.dump()) == me
    assert me.is_here
    assert me.is_alive
    assert not Driver(me.host, me.pid, me.started, me.machine, "1").is_alive
    assert not Driver(me.host, me.pid, me.started, "another", me.born).is_here


def test_a_kernel_lock_leaves_no_note_and_needs_none(tmp_path: Path) -> None:
    note = tmp_path / HOLDER_FILE
    with only_driver(open_storage(str(tmp_path)), threading.Event(), wait=False, say=print):
        assert Driver.parse(note.read_bytes()) is not None
        note.unlink()
        with (
            pytest.raises(UserError, match=r"at work on it; --wait"),
            only_driver(open_storage(str(tmp_path)), threading.Event(), wait=False, say=print),
        ):
            pass
    assert not note.exists()
