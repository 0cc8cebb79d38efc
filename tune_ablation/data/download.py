"""Fetching Tiny-ImageNet: a download that resumes and is checked before use, and an unpacking that leaves nothing half done."""

import hashlib
import http.client
import re
import shutil
import stat
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

from filelock import FileLock

from tune_ablation.data.source import Progress
from tune_ablation.errors import UserError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
SIZE = 248_100_043
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_TIMEOUT = 60.0  # seconds without a byte
_PIECE = 1 << 20
_MOST_BYTES = 2 << 30  # eight times what the real archive unpacks to
_MOST_MEMBERS = 200_000


def download(folder: Path, *, url: str = URL, size: int = SIZE, md5: str = MD5, progress: Progress | None = None) -> Path:
    """Fetches the file into `folder`, going on where an earlier attempt broke off.

    What has arrived lies in a `.part` file, which takes the final name only when size and digest are right. A file already there under
    the final name is used if it is right, and never overwritten.

    Args:
        folder: Made if need be.
        url: Where from; the last part of its path becomes the file's name.
        size: Bytes that must arrive.
        md5: Digest that they must have, in hexadecimal.
        progress: Called as progress(bytes here, size).

    Raises:
        UserError: The server cannot be reached or breaks off, sends something else, or the disk is full.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"cannot download {url}: allowed: an http:// or https:// address")
    target = folder / (PurePosixPath(urlsplit(url).path).name or "download")
    part = target.with_name(f"{target.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if target.exists():
                if not _is_right(target, size, md5):
                    raise UserError(f"{target} exists but is not the file expected from {url}: move it away, then download again")
                return target
            _fetch(url, part, size, progress)
            if not _is_right(part, size, md5):
                found = part.stat().st_size
                part.unlink()
                raise UserError(f"{url} sent {found:,} bytes that are not the {size:,} expected (MD5 {md5}); they were deleted")
            part.replace(target)
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror or error}; it needs {size:,} bytes in all") from error
    return target


def unpack(archive: Path, folder: Path, *, progress: Progress | None = None) -> Path:
    """Unpacks a zip file whose members all lie in one top folder; that folder appears in `folder` whole or not at all.

    An existing folder is never changed: it is returned if it holds every member in its size, and refused otherwise.

    Raises:
        UserError: The archive is damaged, is not of this form, names a place outside, holds a link, or is implausibly large.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked_members(archive, opened)
            target = folder / members[0].filename.split("/")[0]
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{target.name}.lock"):
                if not target.exists():
                    _unpack_whole(opened, members, target, progress)
                elif not all(_is_there(folder, member) for member in members):
                    raise UserError(f"{target} exists but does not hold all of {archive}: move it away, then unpack again")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive} is not a whole zip file ({error})") from error
    except OSError as error:
        raise UserError(f"cannot unpack {archive} into {folder}: {error.strerror or error}") from error
    return target


def _fetch(url: str, part: Path, size: int, progress: Progress | None) -> None:
    """Downloads until `part` has `size` bytes, asking again after a break as long as every attempt brings something."""
    report = progress or (lambda _done, _total: None)
    may_start_over = True
    while (start := part.stat().st_size if part.exists() else 0) < size:
        free = shutil.disk_usage(part.parent).free
        if free < size - start:
            raise UserError(f"cannot write {part}: it needs {size - start:,} more bytes, {free:,} are free")
        reason = _attempt(url, part, start, size, report)
        arrived = part.stat().st_size if part.exists() else 0
        if start and not arrived and may_start_over:  # the old bytes turned out to be another file's
            may_start_over = False
        elif arrived < size and arrived <= start:
            raise UserError(f"cannot download {url}: {reason}; {arrived:,} of {size:,} bytes are here, the same command goes on from there")


def _attempt(url: str, part: Path, start: int, size: int, report: Progress) -> str:
    """One request. Returns why it ended; what came is in `part`."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        # `download` lets only http and https through.
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as answer:  # noqa: S310
            sent_from = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", "")) if answer.status == 206 else None
            resumes = sent_from is not None and int(sent_from[1]) == start
            done = start if resumes else 0
            with part.open("ab" if resumes else "wb") as file:
                for piece in _pieces(answer):
                    file.write(piece)
                    done += len(piece)
                    report(min(done, size), size)
                    if done > size:  # one piece too many is enough to see that it is wrong
                        break
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:  # the server's file ends before ours: not the same file
                part.unlink()
            return f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (_BrokenOffError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return f"the connection broke ({error})"
    return "the server broke off"


class _Readable(Protocol):
    def read(self, amount: int, /) -> bytes: ...


class _BrokenOffError(Exception):
    """Reading failed; told apart from a failure to write, which is also an OSError."""


def _pieces(answer: _Readable) -> Iterator[bytes]:
    try:
        while piece := answer.read(_PIECE):
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(str(error)) from error


def _is_right(path: Path, size: int, md5: str) -> bool:
    if path.stat().st_size != size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def _checked_members(archive: Path, opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = opened.infolist()
    for member in members:
        name = member.filename
        kind = stat.S_IFMT(member.external_attr >> 16)
        steps = name.removesuffix("/").split("/")
        if "\\" in name or ":" in name or not {"", ".", ".."}.isdisjoint(steps):
            raise UserError(f"{archive} is refused: its member {name!r} would be written outside the target folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive} is refused: its member {name!r} is a link or a special file; allowed: files and folders")
    total = sum(member.file_size for member in members)
    if len(members) > _MOST_MEMBERS or total > _MOST_BYTES:
        allowed = f"allowed: {_MOST_MEMBERS:,} members, {_MOST_BYTES:,} bytes"
        raise UserError(f"{archive} is refused: it holds {len(members):,} members of {total:,} bytes; {allowed}")
    tops = {member.filename.split("/")[0] for member in members if "/" in member.filename}
    if len(tops) != 1 or not all("/" in member.filename for member in members):
        raise UserError(f"{archive} is refused: its members must all lie in one folder, as in tiny-imagenet-200/")
    return members


def _is_there(folder: Path, member: zipfile.ZipInfo) -> bool:
    path = folder / member.filename
    return path.is_dir() if member.is_dir() else path.is_file() and path.stat().st_size == member.file_size


def _unpack_whole(opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], target: Path, progress: Progress | None) -> None:
    """Unpacks beside the target, then renames. Called with the lock held; a killed process's remains are removed first."""
    needed = sum(member.file_size for member in members)
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise UserError(f"cannot unpack into {target}: it needs {needed:,} bytes, {free:,} are free")
    temporary = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        for done, member in enumerate(members, start=1):
            path = temporary / member.filename.partition("/")[2]
            if member.is_dir():
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, path.open("xb") as file:
                    shutil.copyfileobj(source, file)
            if progress and (done % 1000 == 0 or done == len(members)):
                progress(done, len(members))
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
