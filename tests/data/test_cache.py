"""The decoded cache: written once by one of many, whole or not at all, and rebuilt when it was damaged."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tune_ablation.data import prepare
from tune_ablation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tune_ablation.data import DataSpec

    MakeSpec = Callable[..., DataSpec]

# A process that prepares, says what it is doing, and waits for a line on standard input at each step of the decoding.
PREPARE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from tune_ablation.data import prepare
from tune_ablation.errors import UserError

spec = SimpleNamespace(
    dataset="tiny-imagenet", classes=None, train_per_class=None, val_per_class=3, test_per_class=None, image_size=64, seed=0
)

def progress(done, total):
    print("decoding", done, flush=True)
    sys.stdin.readline()

try:
    data = prepare(spec, Path(sys.argv[1]), cache_dir=Path(sys.argv[2]), progress=progress)
except UserError as error:
    print("refused:", error, flush=True)
else:
    print("prepared", data.fingerprint, data.images.sum(), flush=True)
"""


class Preparing:
    def __init__(self, path: Path, cache: Path) -> None:
        command = [sys.executable, "-c", PREPARE, str(path), str(cache)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def finish(self) -> list[str]:
        """Lets it run to its end; returns the rest of what it says."""
        output, _ = self.process.communicate("")
        return output.splitlines()

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path], Preparing]]:
    started: list[Preparing] = []

    def begin(path: Path) -> Preparing:
        started.append(Preparing(path, tmp_path / "cache"))
        return started[-1]

    yield begin
    for preparing in started:
        preparing.process.kill()
        preparing.process.communicate()


def entry_of(cache: Path) -> Path:
    (entry,) = (path for path in cache.glob("tiny-imagenet-*") if path.is_dir())
    return entry


def test_of_two_processes_one_decodes_and_the_other_waits(tiny_zip: Path, start: Callable[[Path], Preparing]) -> None:
    first = start(tiny_zip)
    assert first.line() == "decoding 0"
    second = start(tiny_zip)
    time.sleep(1.0)  # time enough to open the data and find the lock taken
    assert second.process.poll() is None
    told = first.finish()
    assert told[-1].startswith("prepared")
    assert second.finish() == [told[-1]], "the second decoded nothing and has the same images"


def test_after_a_kill_while_writing_the_next_process_starts_afresh(
    tiny_zip: Path, start: Callable[[Path], Preparing], tmp_path: Path
) -> None:
    first = start(tiny_zip)
    assert first.line() == "decoding 0"
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    (remains,) = (tmp_path / "cache").glob("*.tmp")
    (remains / "images.npy").write_bytes(b"half an image")
    told = start(tiny_zip).finish()
    assert told[0] == "decoding 0"
    assert told[-1].startswith("prepared")
    assert not remains.exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the decoder processes in /proc")
def test_decoder_processes_end_with_a_killed_parent(big_zip: Path, start: Callable[[Path], Preparing]) -> None:
    if len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one core: no decoder processes are started")
    preparing = start(big_zip)
    assert preparing.line() == "decoding 0"
    assert preparing.process.stdin is not None
    preparing.process.stdin.write("\n")
    preparing.process.stdin.flush()
    assert preparing.line().startswith("decoding ")
    decoders = preparing.children()
    assert decoders
    preparing.process.send_signal(signal.SIGKILL)
    preparing.process.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in decoders):
        assert time.monotonic() < deadline, "a decoder outlives its parent"
        time.sleep(0.02)
    assert start(big_zip).finish()[-1].startswith("prepared")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def truncate(entry: Path) -> None:
    with (entry / "images.npy").open("r+b") as file:
        file.truncate(1000)


def lengthen(entry: Path) -> None:
    with (entry / "images.npy").open("ab") as file:
        file.write(b"\0")


def wipe_in_place(entry: Path) -> None:
    size = (entry / "images.npy").stat().st_size
    (entry / "images.npy").write_bytes(bytes(size))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "images cut short": truncate,
    "images too long": lengthen,
    "images wiped, size kept": wipe_in_place,
    "no images": lambda entry: (entry / "images.npy").unlink(),
    "no sums": lambda entry: (entry / "sums.npy").unlink(),
    "no meta": lambda entry: (entry / "meta.json").unlink(),
    "torn meta": lambda entry: (entry / "meta.json").write_text('{"shape": ['),
    "another's meta": lambda entry: (entry / "meta.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_rebuilt(damage: str, tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    images = np.array(prepare(make_spec(), tiny_zip, cache_dir=cache).images)
    DAMAGES[damage](entry_of(cache))
    calls: list[int] = []
    again = prepare(make_spec(), tiny_zip, cache_dir=cache, progress=lambda done, _: calls.append(done))
    assert calls, "decoded again"
    np.testing.assert_array_equal(again.images, images)


def test_images_mapped_before_a_rebuild_stay_readable(tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = prepare(make_spec(), tiny_zip, cache_dir=cache).images
    (entry_of(cache) / "meta.json").unlink()
    after = prepare(make_spec(), tiny_zip, cache_dir=cache).images
    np.testing.assert_array_equal(before, after)


def test_one_decoding_serves_every_slice(tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepare(make_spec(), tiny_zip, cache_dir=cache)
    calls: list[int] = []
    for change in ({"classes": 2}, {"seed": 3}, {"train_per_class": 2}):
        prepare(make_spec(**change), tiny_zip, cache_dir=cache, progress=lambda done, _: calls.append(done))
    assert not calls
    assert entry_of(cache)


def test_what_cannot_be_had_is_said_before_decoding(tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train_per_class = 10 .* 1 to 9"):
        prepare(make_spec(train_per_class=10), tiny_zip, cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_is_ready_needs_no_right_to_write(tiny_folder: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepare(make_spec(), tiny_folder, cache_dir=cache)
    for lock in cache.rglob("*.lock"):
        lock.unlink()
    prepare(make_spec(), tiny_folder, cache_dir=cache)
    assert not list(cache.rglob("*.lock")), "no lock was taken"


def test_a_cache_folder_that_cannot_be_made_is_refused(tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write the data cache in .*file"):
        prepare(make_spec(), tiny_zip, cache_dir=tmp_path / "file" / "cache")


def test_a_write_that_fails_midway_names_the_folder_and_the_bytes_needed(tiny_zip: Path, tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    run = subprocess.run(
        [sys.executable, "-c", PREPARE, str(tiny_zip), str(tmp_path / "cache")],
        input="",
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=no_large_files,  # no thread of this test is at work while it forks
    )
    assert "refused: cannot write the data cache in" in run.stdout
    assert str(tmp_path / "cache") in run.stdout
    assert "it needs 838,8" in run.stdout, "68 images of 12,288 bytes and their sums"
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"], "nothing half done stays"


def test_a_full_disk_is_refused_before_decoding(tiny_zip: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=200k tmpfs {disk}"
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode
    ):
        pytest.skip("a small file system of its own cannot be mounted here")
    prepare_there = f'{mount} && exec "$0" -c "$1" "$2" {disk}/cache'
    command = ["unshare", "-rm", "sh", "-c", prepare_there, sys.executable, PREPARE, str(tiny_zip)]
    run = subprocess.run(command, input="", capture_output=True, text=True, check=True)
    assert run.stdout.startswith(f"refused: cannot write the data cache in {disk}/cache: it needs 838,8"), run.stdout
    assert "are free" in run.stdout
