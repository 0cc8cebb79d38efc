"""Where results live: one small interface over a local folder and every file system that pyarrow knows (S3, GCS, HDFS, ...).

A write replaces a file whole: readers, and whoever comes after a crash, see the old content or the new, never a part.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

from tune_ablation.errors import UserError

_TEMPORARY = ".tmp"
"""Ending of the files that a write in progress, or one that was killed, has beside its target; never listed."""


class Storage(ABC):
    """A folder of files named by relative, slash-separated names."""

    def __init__(self, root: str) -> None:
        self.root = root

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
            UserError: it cannot be written; what was there before still is.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all it holds; nothing happens where there is none.

        Raises:
            UserError: it cannot be removed.
        """

    @abstractmethod
    def names(self, below: str = "") -> list[str]:
        """The names of all files below a folder, sorted; none where it does not exist."""

    @abstractmethod
    def child(self, name: str) -> Storage:
        """The storage of a folder inside this one."""


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
            raise UserError(f"{path}: cannot be written, {len(content):,} bytes: {error.strerror}") from error

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

    def names(self, below: str = "") -> list[str]:
        """See ``Storage.names``."""
        return sorted(
            (Path(folder) / file).relative_to(self._folder).as_posix()
            for folder, _, files in os.walk(self._folder / below)
            for file in files
            if not file.endswith(_TEMPORARY)
        )

    def child(self, name: str) -> LocalStorage:
        """See ``Storage.child``."""
        return LocalStorage(self._folder / name)


class RemoteStorage(Storage):
    """A folder on a file system of ``pyarrow.fs``, given by its URI, e.g. ``s3://bucket/results``."""

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        super().__init__(uri.partition("?")[0])
        self._options = uri.partition("?")[2]
        try:
            self._system, self._path = fs.FileSystem.from_uri(uri)
        except (OSError, ValueError, NotImplementedError) as error:
            raise UserError(f"storage path {uri!r}: {_first_line(error)}") from error

    @property
    def address(self) -> str:
        """See ``Storage.address``."""
        return f"{self.root}?{self._options}" if self._options else self.root

    def _full(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}".rstrip("/")

    def read(self, name: str) -> bytes | None:
        """See ``Storage.read``."""
        try:
            with self._system.open_input_stream(self._full(name)) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{self.where(name)}: cannot be read: {_first_line(error)}") from error

    def write(self, name: str, content: bytes) -> None:
        """See ``Storage.write``: object stores put an object whole; elsewhere a temporary file is moved into place."""
        path = self._full(name)
        whole = self._system.type_name in {"s3", "gcs", "abfs"}
        target = path if whole else f"{path}{_TEMPORARY}"
        try:
            if not whole:
                self._system.create_dir(path.rpartition("/")[0], recursive=True)
            with self._system.open_output_stream(target) as stream:
                stream.write(content)
            if not whole:
                self._system.move(target, path)
        except OSError as error:
            raise UserError(f"{self.where(name)}: cannot be written, {len(content):,} bytes: {_first_line(error)}") from error

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        from pyarrow import fs

        path = self._full(name)
        try:
            found = self._system.get_file_info(path)
            if found.type is fs.FileType.Directory:
                self._system.delete_dir(path)
            elif found.is_file:
                self._system.delete_file(path)
        except OSError as error:
            raise UserError(f"{self.where(name)}: cannot be removed: {_first_line(error)}") from error

    def names(self, below: str = "") -> list[str]:
        """See ``Storage.names``."""
        from pyarrow import fs

        selector = fs.FileSelector(self._full(below), allow_not_found=True, recursive=True)
        prefix = len(self._path.rstrip("/")) + 1
        try:
            found = self._system.get_file_info(selector)
        except OSError as error:
            raise UserError(f"{self.where(below)}: cannot be listed: {_first_line(error)}") from error
        return sorted(info.path[prefix:] for info in found if info.is_file and not info.path.endswith(_TEMPORARY))

    def child(self, name: str) -> RemoteStorage:
        """See ``Storage.child``."""
        return RemoteStorage(f"{self.where(name)}?{self._options}" if self._options else self.where(name))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def open_storage(path_or_uri: str) -> Storage:
    """Storage for a local path or a URI.

    Raises:
        UserError: the URI is of no file system that pyarrow knows.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path_or_uri) and not path_or_uri.startswith("file://"):
        return RemoteStorage(path_or_uri)
    return LocalStorage(Path(path_or_uri.removeprefix("file://")).expanduser())
