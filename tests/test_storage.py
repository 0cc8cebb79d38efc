"""Where results live: the same promises on a local disk, on another of pyarrow's file systems, and on S3."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import BUCKET
from tests.proxy import Proxy, proxy_to
from tune_ablation import storage as storages
from tune_ablation.errors import UserError
from tune_ablation.storage import LocalStorage, RemoteStorage, Storage, StorageError, open_storage, redacted


@pytest.fixture(params=["local", "pyarrow", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        options = request.getfixturevalue("s3_options")
        return open_storage(f"s3://{BUCKET}/{tmp_path.name}?{options}")
    if request.param == "pyarrow":  # the path of every file system that is no object store: HDFS, NFS through pyarrow, ...
        return RemoteStorage(f"file://{tmp_path}/results")
    return open_storage(str(tmp_path / "results"))


def test_what_is_written_is_read(storage: Storage) -> None:
    everything = bytes(range(256)) * 10
    storage.write("run.json", b"{}")
    storage.write("trials/a/records.jsonl", everything)
    storage.write("empty", b"")
    assert storage.read("run.json") == b"{}"
    assert storage.read("trials/a/records.jsonl") == everything
    assert storage.read("empty") == b""
    storage.write("run.json", b"other")
    assert storage.read("run.json") == b"other"


def test_what_is_not_there_reads_as_none(storage: Storage) -> None:
    assert storage.read("run.json") is None
    storage.write("run.json", b"{}")
    assert storage.read("run.json/below/a/file") is None
    assert storage.read("deep/down") is None


def test_names_are_all_files_below_a_folder_in_order(storage: Storage) -> None:
    assert storage.names() == []
    for name in ("b/2", "a", "b/1/x", "c.d/e"):
        storage.write(name, b"1")
    assert storage.names() == ["a", "b/1/x", "b/2", "c.d/e"]
    assert storage.names("b") == ["b/1/x", "b/2"]
    assert storage.names("no") == []


def test_a_child_is_the_folder_of_that_name(storage: Storage) -> None:
    child = storage.child("trials/resnet18_augment=flip-crop/search/003")
    child.write("records.jsonl", b"1")
    assert storage.names() == ["trials/resnet18_augment=flip-crop/search/003/records.jsonl"]
    assert child.names() == ["records.jsonl"]
    assert child.child("deeper").names() == []
    assert child.where("records.jsonl") == f"{storage.where('trials/resnet18_augment=flip-crop/search/003')}/records.jsonl"


def test_deleting_removes_a_file_or_a_folder_and_nothing_else(storage: Storage) -> None:
    for name in ("a/1", "a/b/2", "ab/3", "c"):
        storage.write(name, b"1")
    for nothing in ("no", "no/where", "c/below"):
        storage.delete(nothing)
    assert storage.names() == ["a/1", "a/b/2", "ab/3", "c"]
    storage.delete("a")
    assert storage.names() == ["ab/3", "c"]
    storage.delete("c")
    assert storage.names() == ["ab/3"]


def test_its_address_opens_the_same_storage(storage: Storage) -> None:
    storage.child("x").write("a", b"1")
    assert open_storage(storage.address).names() == ["x/a"]
    assert open_storage(storage.child("x").address).read("a") == b"1"


def test_only_a_local_storage_has_a_folder(storage: Storage) -> None:
    assert (storage.folder is not None) == isinstance(storage, LocalStorage)


def test_what_a_killed_writer_leaves_is_neither_listed_nor_in_the_way(tmp_path: Path) -> None:
    for storage in (LocalStorage(tmp_path), RemoteStorage(f"file://{tmp_path}")):
        storage.write("a/x", b"1")
        (tmp_path / "a" / ".x.k2j3h4.tmp").write_bytes(b"half")
        (tmp_path / "a" / "x.tmp").write_bytes(b"half")
        assert storage.names() == ["a/x"]
        storage.write("a/x", b"2")
        assert storage.read("a/x") == b"2"
        storage.delete("a")
        assert not (tmp_path / "a").exists()


def test_whoever_is_alone_sweeps_what_killed_writers_left(tmp_path: Path) -> None:
    for number, storage in enumerate((LocalStorage(tmp_path), RemoteStorage(f"file://{tmp_path}"))):
        storage.write("a/x", b"1")
        left = tmp_path / "a" / f"x.{number}.tmp"
        left.write_bytes(b"half")
        assert storage.names() == ["a/x"]
        assert left.exists()
        assert storage.names(sweep=True) == ["a/x"]
        assert not left.exists()


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    storage = RemoteStorage(f"file://{tmp_path}")

    def write(content: bytes) -> None:
        for _ in range(50):
            storage.write("x", content)

    writers = [threading.Thread(target=write, args=(bytes([number]) * (1000 + number),)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    content = storage.read("x") or b""
    assert len(set(content)) == 1
    assert len(content) == 1000 + content[0]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_url_of_files_is_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_storage(f"file://{tmp_path}").folder == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_storage("~/results").folder == tmp_path / "results"
    monkeypatch.chdir(tmp_path)
    relative = open_storage("results")
    assert relative.where("run.json") == "results/run.json"
    assert relative.folder == tmp_path / "results"


UNWRITABLE: dict[str, Callable[[Path], str]] = {
    "below a file": lambda folder: str(folder / "file" / "below"),
    "the kernel's": lambda _: "/proc/no/such",
    "too long": lambda folder: str(folder / ("x" * 300)),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_place_that_cannot_be_written_is_named_in_one_line(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").write_text("kept")
    place = UNWRITABLE[case](tmp_path)
    for storage in (open_storage(place), RemoteStorage(f"file://{place}")):
        with pytest.raises(UserError) as caught:
            storage.write("run.json", b"{}")
        assert f"{place}/run.json: cannot be written, 2 bytes: " in str(caught.value)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_file_where_a_folder_stands_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    storage = LocalStorage(tmp_path)
    with pytest.raises(UserError, match=r"run\.json: cannot be written"):
        storage.write("run.json", b"{}")
    with pytest.raises(UserError, match=r"run\.json: cannot be read"):
        storage.read("run.json")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_missing_bucket_is_said_in_one_line(s3_options: str) -> None:
    with pytest.raises(UserError, match=r"^s3://nobody/x/run\.json: cannot be written.*bucket") as caught:
        open_storage(f"s3://nobody/x?{s3_options}").write("run.json", b"{}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("uri", ["nosuch://place/x", "hdfs://127.0.0.1:1/x", "s3:///x"])
def test_an_address_of_no_known_file_system_is_refused_in_one_line(uri: str) -> None:
    with pytest.raises(UserError, match=uri) as caught:
        open_storage(uri)
    assert "\n" not in str(caught.value)


WRITER = """
import sys
from pathlib import Path
from tune_ablation.storage import LocalStorage, RemoteStorage
kind, folder = sys.argv[1:]
storage = LocalStorage(Path(folder)) if kind == "local" else RemoteStorage("file://" + folder)
print("ready", flush=True)
version = 0
while True:
    storage.write("records.jsonl", bytes([version % 256]) * (100_000 + version % 7))
    version += 1
"""


@pytest.mark.parametrize("kind", ["local", "pyarrow"])
def test_a_reader_sees_one_whole_version_whenever_the_writer_is_killed(tmp_path: Path, kind: str) -> None:
    storage = LocalStorage(tmp_path)
    versions = set()
    for attempt in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, kind, str(tmp_path)], stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            end = time.monotonic() + 0.1 + 0.0137 * attempt
            while time.monotonic() < end:
                content = storage.read("records.jsonl")
                if content is not None:
                    assert len(set(content)) == 1, "bytes of two versions"
                    assert len(content) >= 100_000, "a part of one"
                    versions.add(content[0])
            writer.send_signal(signal.SIGKILL)
        content = storage.read("records.jsonl")
        assert content is not None
        assert len(set(content)) == 1
        assert storage.names() == ["records.jsonl"]
    assert len(versions) > 1


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    """A file size limit stands in for the full disk: the write fails with an error half way in both."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from tune_ablation.storage import LocalStorage, UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "storage = LocalStorage(Path(sys.argv[1])); storage.write('a', b'old')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: storage.write('a', bytes(5000))\n"
        "except UserError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert f"{tmp_path}/a: cannot be written, 5,000 bytes: " in said
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_link_is_removed_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(b"1")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "link").symlink_to(tmp_path / "kept")
    LocalStorage(tmp_path / "results").delete("link")
    assert (tmp_path / "kept" / "file").exists()
    assert not (tmp_path / "results" / "link").is_symlink()


@pytest.fixture
def proxy(s3_options: str) -> Iterator[Proxy]:
    with proxy_to(s3_options) as proxy:
        yield proxy


def test_requests_that_fail_are_made_again(proxy: Proxy, tmp_path: Path) -> None:
    storage = open_storage(f"s3://{BUCKET}/{tmp_path.name}?{proxy.options}")
    proxy.rates = {"busy": 0.05, "broken": 0.05, "reset": 0.05, "lost": 0.05, "slow": 0.1}
    proxy.delay = 0.1
    for number in range(12):
        storage.write(f"trials/{number}", bytes([number]) * 10_000)
        assert storage.read(f"trials/{number}") == bytes([number]) * 10_000
    assert len(storage.names("trials")) == 12
    storage.delete("trials")
    assert storage.names() == []
    assert sum(proxy.happened[what] for what in proxy.rates) > 5


def test_a_server_that_comes_back_is_waited_for(proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = open_storage(f"s3://{BUCKET}/{tmp_path.name}?{proxy.options}")
    storage.write("a", b"1")
    proxy.rates = {"busy": 1.0}
    back = threading.Timer(8.0, proxy.rates.clear)  # longer than the client library tries again by itself
    back.start()
    with caplog.at_level(logging.WARNING, "tune_ablation"):
        assert storage.read("a") == b"1"
    said = [record.getMessage() for record in caplog.records if record.name == "tune_ablation.storage"]
    assert len(said) == 1
    assert said[0].startswith(f"{storage.where('a')}: cannot be read: ")
    assert said[0].endswith("; trying again for up to 120 s")
    back.join()


def test_a_server_that_stays_away_is_named_in_one_line(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storages, "PATIENCE_SECONDS", 1.0)
    storage = open_storage(f"s3://key:secret@{BUCKET}/{tmp_path.name}?{proxy.options}")
    proxy.stop()
    with pytest.raises(StorageError) as caught:
        storage.write("a", b"12")
    proxy.start()
    assert str(caught.value).startswith(f"s3://***@{BUCKET}/{tmp_path.name}/a: cannot be written, 2 bytes, and was tried for 1 s: ")
    assert "\n" not in str(caught.value)
    assert storage.read("a") is None
    storage.write("a", b"12")
    assert storage.read("a") == b"12"


def test_what_is_refused_is_not_asked_for_again(proxy: Proxy) -> None:
    with pytest.raises(UserError, match="NO_SUCH_BUCKET"):
        open_storage(f"s3://nobody/x?{proxy.options}").write("a", b"1")
    assert proxy.happened.total() == 1


SECRETS = {
    "s3://key:secret@bucket/x": "s3://***@bucket/x",
    "s3://key:sec/ret@bucket/x?region=y": "s3://***@bucket/x?region=y",
    "cannot open 's3://key:secret@bucket/x' or 'https://me:secret@host'": "cannot open 's3://***@bucket/x' or 'https://***@host'",
    "abfs://box@account/x?sas_token=secret&tls=1": "abfs://box@account/x?sas_token=***&tls=1",
    "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http": "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http",
    "results/a@b:c": "results/a@b:c",
}


@pytest.mark.parametrize("text", SECRETS)
def test_credentials_are_taken_out_of_texts(text: str) -> None:
    assert redacted(text) == SECRETS[text]


def test_no_message_holds_a_credential(s3_options: str) -> None:
    storage = open_storage(f"s3://testing:secret@{BUCKET}/x?{s3_options}").child("y")
    assert "secret" not in storage.root + storage.where("z")
    assert storage.where("z") == f"s3://***@{BUCKET}/x/y/z"
    storage.write("z", b"1")
    assert open_storage(storage.address).read("z") == b"1"
    for uri in ("s3://key:secret@bucket/x?unknown=1", "s3://key:sec/ret@bucket/x", "nosuch://key:secret@bucket", "s3://key:secret@/x"):
        with pytest.raises(UserError) as caught:
            open_storage(uri)
        assert "sec" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        open_storage(f"s3://key:secret@nobody/x?{s3_options}").write("a", b"1")
    assert "secret" not in str(caught.value)
