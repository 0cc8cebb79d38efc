"""The download survives broken lines and lying servers; unpacking is whole or not at all and stays inside its folder."""

from __future__ import annotations

import hashlib
import re
import stat
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tune_ablation.data import download as download_module
from tune_ablation.data import prepare
from tune_ablation.data.download import download, unpack
from tune_ablation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tune_ablation.data import DataSpec

BODY = np.random.default_rng(0).bytes(3_000_000)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()


@dataclass
class Server:
    """A file server on the loopback interface that can be told to misbehave."""

    url: str = ""
    body: bytes = BODY
    status: int = 200
    knows_ranges: bool = True
    breaks_after: list[int] = field(default_factory=list)
    """Bytes after which to break off, for each request in turn; none left: serve to the end."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.asked.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.knows_ranges else 0
                if server.status != 200 or (start and start >= len(server.body)):
                    self.send_error(server.status if server.status != 200 else 416)
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
                self.send_header("Content-Length", str(len(server.body) - start))
                self.end_headers()
                end = start + server.breaks_after.pop(0) if server.breaks_after else len(server.body)
                self.wfile.write(server.body[start:end])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    told = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), told.handler()) as http:
        told.url = f"http://127.0.0.1:{http.server_address[1]}/data/tiny.zip?version=1"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield told
        http.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    return download(folder, url=server.url, size=len(BODY), md5=MD5, progress=progress)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_the_file_arrives_whole_under_its_name(server: Server, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    path = fetch(server, tmp_path / "new" / "folder", lambda done, total: calls.append((done, total)))
    assert path == tmp_path / "new" / "folder" / "tiny.zip"
    assert path.read_bytes() == BODY
    assert left(path.parent) == {"tiny.zip"}
    assert calls[-1] == (3_000_000, 3_000_000)
    assert calls == sorted(calls)


def test_a_file_that_is_there_and_right_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.asked) == 1


def test_another_file_of_that_name_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.zip").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"tiny\.zip exists but is not the file expected"):
        fetch(server, tmp_path)
    assert (tmp_path / "tiny.zip").read_bytes() == b"mine"


def test_a_connection_that_breaks_is_taken_up_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [1_200_000, 700_000]
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=1200000-", "bytes=1900000-"]


def test_the_next_call_goes_on_from_what_an_earlier_one_left(server: Server, tmp_path: Path) -> None:
    server.breaks_after = [1_200_000, 0]
    with pytest.raises(UserError, match="1,200,000 of 3,000,000 bytes are here, the same command goes on"):
        fetch(server, tmp_path)
    assert left(tmp_path) == {"tiny.zip.part"}
    assert fetch(server, tmp_path).read_bytes() == BODY
    assert server.asked[-1] == "bytes=1200000-"


def test_a_server_that_knows_no_ranges_starts_over_cleanly(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.zip.part").write_bytes(BODY[:1_000_000])
    server.knows_ranges = False
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_a_server_that_knows_no_ranges_and_always_breaks_off_is_given_up(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    server.breaks_after = [1_000_000] * 100
    with pytest.raises(UserError, match="cannot download"):
        fetch(server, tmp_path)
    assert len(server.asked) < 5


@pytest.mark.parametrize("body", [BODY[:-1] + bytes([BODY[-1] ^ 1]), BODY + b"more", b"short"], ids=["flipped", "longer", "shorter"])
def test_wrong_bytes_are_never_used(body: bytes, server: Server, tmp_path: Path) -> None:
    server.body = body
    with pytest.raises(UserError, match=re.escape(server.url)):
        fetch(server, tmp_path)
    assert not (tmp_path / "tiny.zip").exists()
    server.body = BODY
    assert fetch(server, tmp_path).read_bytes() == BODY, "and stand in no later download's way"


def test_a_wrong_digest_deletes_what_arrived(server: Server, tmp_path: Path) -> None:
    server.body = bytes(len(BODY))
    with pytest.raises(UserError, match=r"3,000,000 bytes that are not the 3,000,000 expected .*; they were deleted"):
        fetch(server, tmp_path)
    assert left(tmp_path) == set()


def test_remains_of_a_longer_file_are_replaced(server: Server, tmp_path: Path) -> None:
    server.body = BODY[:2_000_000]
    (tmp_path / "tiny.zip.part").write_bytes(bytes(2_500_000))
    md5 = hashlib.md5(server.body, usedforsecurity=False).hexdigest()
    with pytest.raises(UserError, match="deleted"):
        download(tmp_path, url=server.url, size=2_000_000, md5=md5)
    assert download(tmp_path, url=server.url, size=2_000_000, md5=md5).read_bytes() == server.body


def test_remains_beyond_the_servers_end_are_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "tiny.zip.part").write_bytes(bytes(2_500_000))
    server.body = BODY[:2_000_000]
    with pytest.raises(UserError, match="the server answers 416"):
        fetch(server, tmp_path)
    assert server.asked[:2] == ["bytes=2500000-", None]
    server.body = BODY
    assert fetch(server, tmp_path).read_bytes() == BODY


def test_what_the_server_answers_is_told(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(UserError, match="the server answers 404 Not Found"):
        fetch(server, tmp_path)


def test_no_server_is_told(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        port = http.server_address[1]
    with pytest.raises(UserError, match=f"cannot download http://127.0.0.1:{port}/x.zip: Connection refused"):
        download(tmp_path, url=f"http://127.0.0.1:{port}/x.zip")


def test_only_the_web_is_downloaded_from(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="allowed: an http:// or https:// address"):
        download(tmp_path, url="file:///etc/hostname")


def test_a_folder_that_cannot_be_written_is_told(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*file/tiny\.zip\.part: .*it needs 3,000,000 bytes"):
        fetch(server, tmp_path / "file")


def test_unpacked_data_is_the_zip_files_data(tiny_zip: Path, make_spec: Callable[..., DataSpec], tmp_path: Path) -> None:
    folder = unpack(tiny_zip, tmp_path / "to")
    assert folder == tmp_path / "to" / "tiny-imagenet-200"
    prepared = [prepare(make_spec(), path, cache_dir=tmp_path / "cache") for path in (folder, tiny_zip)]
    assert prepared[0].fingerprint == prepared[1].fingerprint
    assert left(tmp_path / "to") == {"tiny-imagenet-200"}


def test_unpacking_again_changes_nothing(tiny_zip: Path, tmp_path: Path) -> None:
    folder = unpack(tiny_zip, tmp_path)
    (folder / "notes.txt").write_text("mine")
    assert unpack(tiny_zip, tmp_path) == folder
    assert (folder / "notes.txt").read_text() == "mine"
    (folder / "wnids.txt").unlink()
    with pytest.raises(UserError, match="exists but does not hold all of"):
        unpack(tiny_zip, tmp_path)
    assert (folder / "notes.txt").read_text() == "mine"


def test_remains_of_a_killed_unpacking_are_replaced(tiny_zip: Path, tmp_path: Path) -> None:
    remains = tmp_path / "tiny-imagenet-200.tmp"
    remains.mkdir()
    (remains / "wnids.txt").write_text("half")
    folder = unpack(tiny_zip, tmp_path)
    assert not remains.exists()
    assert (folder / "wnids.txt").read_text() != "half"


@pytest.mark.parametrize(
    "name", ["../out.txt", "top/../../out.txt", "/out.txt", "C:/out.txt", "top/C:out.txt", "top\\..\\out.txt", "./top/out.txt", "//out"]
)
def test_a_member_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("top/fine.txt", "fine")
        archive.writestr(zipfile.ZipInfo(name), "out")
    with pytest.raises(UserError, match="would be written outside"):
        unpack(path, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_links_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    link = zipfile.ZipInfo("top/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(UserError, match="'top/link' is a link"):
        unpack(path, tmp_path / "to")


def test_implausibly_large_archives_are_refused(tmp_path: Path, tiny_zip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_MOST_MEMBERS", 10)
    with pytest.raises(UserError, match=r"refused: it holds 75 members .*allowed: 10 members"):
        unpack(tiny_zip, tmp_path / "to")
    monkeypatch.undo()
    monkeypatch.setattr(download_module, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match="allowed: 200,000 members, 1,000 bytes"):
        unpack(tiny_zip, tmp_path / "to")


def test_an_archive_without_one_top_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flat.zip"
    for names in (("a.txt",), ("one/a.txt", "two/b.txt"), ()):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "text")
        with pytest.raises(UserError, match="must all lie in one folder"):
            unpack(path, tmp_path / "to")


def test_a_damaged_archive_leaves_nothing(tiny_zip: Path, tmp_path: Path) -> None:
    whole = tiny_zip.read_bytes()
    cut, flipped = tmp_path / "cut.zip", tmp_path / "flipped.zip"
    cut.write_bytes(whole[:-500])
    with zipfile.ZipFile(tiny_zip) as archive:
        info = archive.getinfo("tiny-imagenet-200/words.txt")
    damaged = bytearray(whole)
    damaged[info.header_offset + 30 + len(info.filename) + 5] ^= 0xFF
    flipped.write_bytes(damaged)
    for path in (cut, flipped):
        with pytest.raises(UserError, match="is not a whole zip file"):
            unpack(path, tmp_path / "to")
    assert not (tmp_path / "to").exists() or left(tmp_path / "to") == set()
