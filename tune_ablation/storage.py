"""Where results live: one small interface over a local folder and every file system that pyarrow knows (S3, GCS, HDFS, ...).

A write replaces a file whole: readers, and whoever comes after a crash, see the old content or the new, never a part.
"""

from __future__ import annotations

import os
import re
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from tune_ablation.errors import UserError


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
        """A file's content, or None where there is no such file."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Replace or create a file as a whole, folders included.

        Raises:
            UserError: it cannot be written; what was there before still is.
        """

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all it holds; nothing happens where there is none."""

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

    def write(self, name: str, content: bytes) -> None:
        """See ``Storage.write``: temporary file, flush to disk, rename."""
        path = self._folder / name
        temporary = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
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
        for file in sorted(path.rglob("*"), reverse=True) if path.is_dir() else []:
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)

    def names(self, below: str = "") -> list[str]:
        """See ``Storage.names``."""
        return sorted(
            (Path(folder) / file).relative_to(self._folder).as_posix()
            for folder, _, files in os.walk(self._folder / below)
            for file in files
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
        except (OSError, ValueError) as error:
            raise UserError(f"storage path {uri!r}: {error}") from error

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
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See ``Storage.write``: object stores put an object whole; elsewhere a temporary file is moved into place."""
        path = self._full(name)
        whole = self._system.type_name in {"s3", "gcs", "abfs"}
        target = path if whole else f"{path}.tmp"
        try:
            if not whole:
                self._system.create_dir(path.rpartition("/")[0], recursive=True)
            with self._system.open_output_stream(target) as stream:
                stream.write(content)
            if not whole:
                self._system.move(target, path)
        except OSError as error:
            raise UserError(f"{self.where(name)}: cannot be written, {len(content):,} bytes: {error}") from error

    def delete(self, name: str) -> None:
        """See ``Storage.delete``."""
        for file in self.names(name):
            self._system.delete_file(self._full(file))
        if self._info(name).is_file:
            self._system.delete_file(self._full(name))

    def names(self, below: str = "") -> list[str]:
        """See ``Storage.names``."""
        from pyarrow import fs

        selector = fs.FileSelector(self._full(below), allow_not_found=True, recursive=True)
        prefix = len(self._path.rstrip("/")) + 1
        return sorted(info.path[prefix:] for info in self._system.get_file_info(selector) if info.is_file)

    def _info(self, name: str) -> Any:
        return self._system.get_file_info(self._full(name))

    def child(self, name: str) -> RemoteStorage:
        """See ``Storage.child``."""
        return RemoteStorage(f"{self.where(name)}?{self._options}" if self._options else self.where(name))


def open_storage(path_or_uri: str) -> Storage:
    """Storage for a local path or a URI.

    Raises:
        UserError: the URI is of no file system that pyarrow knows.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", path_or_uri) and not path_or_uri.startswith("file://"):
        return RemoteStorage(path_or_uri)
    return LocalStorage(Path(path_or_uri.removeprefix("file://")).expanduser())
