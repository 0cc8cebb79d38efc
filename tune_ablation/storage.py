"""Where results live: one small interface over a local folder and every file system that pyarrow knows (S3, GCS, HDFS, ...).

A write replaces a file whole: readers, and whoever comes after a crash, see the old content or the new, never a part.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tune_ablation.errors import UserError

PATIENCE_SECONDS = 120.0
"""For so long a request to remote storage that does not answer is made again."""

_TEMPORARY = ".tmp"
"""Ending of the files that a write in progress, or one that was killed, has beside its target; never listed."""

_CONNECT_SECONDS, _ANSWER_SECONDS = 10.0, 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0

_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT}
"""Errors of the whole disk: whatever file comes next will meet them too."""

_NETWORK = {errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH}
_FINAL = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY_ID|INVALID_CLIENT_TOKEN_ID|SIGNATURE_DOES_NOT_MATCH|UNRECOGNIZED_CLIENT"
    r"|MISSING_AUTHENTICATION_TOKEN|INVALID_SIGNATURE|VALIDATION|OPTIN_REQUIRED)\b|HTTP status (?!408|429)4\d\d"
)
"""What S3 says when asking again would not help."""

_USER = re.compile(r"(?<=://)[^@\s'\"]*:[^@\s'\"]*@")
_SECRET = re.compile(r"([?&][^=&\s]*(?:secret|token|key|password|sas)[^=&\s]*=)[^&\s'\"]*", re.IGNORECASE)

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class StorageError(UserError):
    """The storage as a whole is full or does not answer: no fault of the file at hand, and nothing that another file would escape."""


def redacted(text: str) -> str:
    """A text without the keys and passwords that addresses in it carry."""
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


class Storage(ABC):
    """A folder of files named by relative, slash-separated names.

    Attributes:
        root: its path or address, for messages: without credentials.
        patience: for so many seconds a request that gets no answer is made again; none is on a local disk.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.patience = PATIENCE_SECONDS

    def where(self, name: str) -> str:
        """The full path or address of a file, for messages."""
        return f"{self.root.rstrip('/')}/{name}"

    @property
    def folder(self) -> Path | None:
        """The folder on this machine's disk; None for remote storage."""
        return None

    @property
    def address(self) -> str:
        """What ``open_storage`` opens this very storage from, in any process."""
        return str(self.folder or self.root)

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A file's content, or None where there is no such file.

        Raises:
            UserError: it is there and cannot be read.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Replace or create a file as a whole, folders included.

        Raises:
            StorageError: no file can be written now; what was there before still is.
            UserError: this one cannot be written; what was there before still is.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all it holds; nothing happens where there is none.

        Raises:
            UserError: it cannot be removed.
        """

    @abstractmethod
    def names(self, below: str = "", *, sweep: bool = False) -> list[str]:
        """The names of all files below a folder, sorted; none where it does not exist.

        Args:
            below: the folder.
            sweep: remove on the way what killed writers left half done; for whoever is alone at work in it.
        """

    @abstractmethod
    def child(self, name: str) -> Storage:
        """The storage of a folder inside this one."""

    def fenced(self, name: str | None) -> Storage:
        """This storage and its children, which change nothing any more once a file of it is gone: whoever removes that ends their work.

        Each change looks first; one that has looked already when the file goes is still made.

        Args:
            name: the file's; None for no such condition. On a local disk there is none: its lock is the kernel's.
        """
        del name
        return self


class LocalStorage(Storage):
    """A folder on this machine, or on a disk that every node mounts."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder.absolute()

    @property
    def folder(self) -> Path:
        """The folder itself."""
        return self._folder

    def read(self, name: str) -> bytes | None:
        """See ``Storage.read``."""
        try:
            return (self._folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self._folder / name}: cannot be read: {error.strerror}") from error

    def write(self, name: str, content: bytes) -> None:
        """See ``Storage.write``: temporary file, flush to disk, rename."""
        path = self._folder / name
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise _cannot_write(path, len(content), error) from error

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        path = self._folder / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise UserError(f"{path}: cannot be removed: {error.strerror}") from error

    def names(self, below: str = "", *, sweep: bool = False) -> list[str]:
        """See ``Storage.names``."""
        found = []
        for folder, _, files in os.walk(self._folder / below):
            inside = Path(folder).relative_to(self._folder).as_posix()
            for file in files:
                if not file.endswith(_TEMPORARY):
                    found.append(file if inside == "." else f"{inside}/{file}")
                elif sweep:
                    Path(folder, file).unlink(missing_ok=True)
        return sorted(found)

    def child(self, name: str) -> LocalStorage:
        """See ``Storage.child``."""
        return LocalStorage(self._folder / name)


class RemoteStorage(Storage):
    """A folder on a file system of ``pyarrow.fs``, given by its URI, e.g. ``s3://bucket/results``.

    A request that fails for want of an answer is made again, with growing pauses, for as long as its patience lasts.

    Args:
        uri: the folder's.
        fence: path in the file system of the file without which nothing is changed, see ``fenced``.
    """

    def __init__(self, uri: str, fence: str | None = None) -> None:
        from pyarrow import fs

        self._fence = fence
        self._uri, _, self._options = uri.partition("?")
        super().__init__(redacted(self._uri))
        try:
            self._system, self._path = fs.FileSystem.from_uri(uri)
        except (OSError, ValueError, NotImplementedError) as error:
            raise UserError(f"storage path {redacted(uri)!r}: {_first_line(error)}") from None
        if self._system.type_name == "s3":
            # A URI cannot say these: the time-outs fit a slow server, and a small file is put in one request instead of three.
            rebuild, (options,) = self._system.__reduce__()
            patient = {"connect_timeout": _CONNECT_SECONDS, "request_timeout": _ANSWER_SECONDS, "allow_delayed_open": True}
            self._system = rebuild(options | patient)
        self._is_away = False

    @property
    def address(self) -> str:
        """See ``Storage.address``."""
        return f"{self._uri}?{self._options}" if self._options else self._uri

    def _full(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}".rstrip("/")

    def read(self, name: str) -> bytes | None:
        """See ``Storage.read``."""

        def read() -> bytes | None:
            try:
                with self._system.open_input_stream(self._full(name)) as stream:
                    return bytes(stream.read())
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._patiently(read, f"{self.where(name)}: cannot be read")

    def write(self, name: str, content: bytes) -> None:
        """See ``Storage.write``: object stores put an object whole; elsewhere a temporary file is moved into place."""
        path = self._full(name)

        def put(target: str) -> None:
            self._check_fence(name)
            with self._system.open_output_stream(target) as stream:
                stream.write(content)

        def put_and_move() -> None:
            self._system.create_dir(path.rpartition("/")[0], recursive=True)
            temporary = f"{path}.{secrets.token_hex(4)}{_TEMPORARY}"
            try:
                put(temporary)
                self._system.move(temporary, path)
            except BaseException:
                with suppress(OSError):
                    self._system.delete_file(temporary)
                raise

        whole = self._system.type_name in {"s3", "gcs", "abfs"}
        failed = f"{self.where(name)}: cannot be written, {len(content):,} bytes"
        self._patiently((lambda: put(path)) if whole else put_and_move, failed)

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        from pyarrow import fs

        path = self._full(name)

        def delete() -> None:
            self._check_fence(name)
            found = self._system.get_file_info(path)
            with suppress(FileNotFoundError):
                if found.type is fs.FileType.Directory:
                    self._system.delete_dir(path)
                elif found.is_file:
                    self._system.delete_file(path)

        self._patiently(delete, f"{self.where(name)}: cannot be removed")

    def names(self, below: str = "", *, sweep: bool = False) -> list[str]:
        """See ``Storage.names``."""
        from pyarrow import fs

        selector = fs.FileSelector(self._full(below), allow_not_found=True, recursive=True)
        prefix = len(self._path.rstrip("/")) + 1
        found = self._patiently(lambda: self._system.get_file_info(selector), f"{self.where(below)}: cannot be listed")
        files = sorted(info.path[prefix:] for info in found if info.is_file)
        for name in files if sweep else []:
            if name.endswith(_TEMPORARY):
                self.delete(name)
        return [name for name in files if not name.endswith(_TEMPORARY)]

    def child(self, name: str) -> RemoteStorage:
        """See ``Storage.child``."""
        uri = f"{self._uri.rstrip('/')}/{name}"
        return RemoteStorage(f"{uri}?{self._options}" if self._options else uri, self._fence)

    def fenced(self, name: str | None) -> RemoteStorage:
        """See ``Storage.fenced``; looking costs a small request a change."""
        return RemoteStorage(self.address, self._full(name) if name is not None else None)

    def _check_fence(self, name: str) -> None:
        from pyarrow import fs

        if self._fence is not None and self._system.get_file_info(self._fence).type is fs.FileType.NotFound:
            raise StorageError(f"{self.where(name)}: left as it is: another run of this experiment has taken over since")

    def _patiently(self, request: Callable[[], _T], failed: str) -> _T:
        """The request's answer, asked for again while there is none.

        Raises:
            StorageError: there was none for too long.
            UserError: the answer is no.
        """
        begin, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                answer = request()
            except OSError as error:
                reason = _first_line(error)
                if not _may_pass(error, reason):
                    raise (StorageError if error.errno in _FOR_ALL else UserError)(f"{failed}: {reason}") from None
                if time.monotonic() + pause > begin + self.patience:  # as it is now: whoever is about to leave may have shortened it
                    raise StorageError(f"{failed}, and was tried for {self.patience:.0f} s: {reason}") from None
                if not self._is_away:
                    logger.warning("%s: %s; trying again for up to %.0f s", failed, reason, self.patience)
                    self._is_away = True
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._is_away = False
                return answer


def _may_pass(error: OSError, reason: str) -> bool:
    return error.errno in _NETWORK if error.errno is not None else not _FINAL.search(reason)


def _cannot_write(path: Path, size: int, error: OSError) -> UserError:
    reason = error.strerror or str(error)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        with suppress(OSError):
            reason += f" ({shutil.disk_usage(path.parent).free:,} bytes free)"
    return (StorageError if error.errno in _FOR_ALL else UserError)(f"{path}: cannot be written, {size:,} bytes: {reason}")


def _first_line(error: Exception) -> str:
    return redacted(str(error).partition("\n")[0])


def open_storage(path_or_uri: str) -> Storage:
    """Storage for a local path or a URI.

    Raises:
        UserError: the URI is of no file system that pyarrow knows.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path_or_uri) and not path_or_uri.startswith("file://"):
        return RemoteStorage(path_or_uri)
    return LocalStorage(Path(path_or_uri.removeprefix("file://")).expanduser())
