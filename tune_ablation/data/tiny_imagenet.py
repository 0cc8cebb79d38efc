"""Tiny-ImageNet in its original layout, read in place from a folder or straight from the zip file."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from tune_ablation.data.cache import remembered
from tune_ablation.data.decode import BLOCK, BadImageError, decode_blocks, usable_workers
from tune_ablation.data.source import DataSpec, Part, Pixels, Source
from tune_ablation.errors import UserError

SIDE = 64
FOLDER = "tiny-imagenet-200"
_CLASSES, _WORDS, _ANNOTATIONS, _VAL_IMAGES = "wnids.txt", "words.txt", "val/val_annotations.txt", "val/images"
_SUFFIX = ".JPEG"
_HOW_TO_GET = "`tune-ablation data download` fetches it"
_READERS = 16  # threads that wait for a disk, not for a core
_INLINE = 1024  # fewer images than this are decoded sooner than decoder processes start


class _Files(Protocol):
    """The files below the layout's root, named by their path from there, with "/" between folders."""

    where: Path

    def names_in(self, folder: str) -> list[str]:
        """Base names of the files directly in a folder; none where there is no such folder."""

    def read(self, name: str) -> bytes:
        """A file's bytes; OSError and its like where it cannot be read."""

    def checksums(self, names: list[str], cache_dir: Path) -> str:
        """One line per file: name, size and CRC-32."""


def open_tiny_imagenet(spec: DataSpec, path: Path | None, cache_dir: Path) -> Source:
    """Finds all images, their classes and parts, and the content's fingerprint. Official `val/` images are the test part.

    Raises:
        UserError: No path, or nothing there that is a whole Tiny-ImageNet.
    """
    if path is None:
        raise UserError(f"dataset = {spec.dataset!r} needs the path of Tiny-ImageNet's folder or zip file; {_HOW_TO_GET}")
    with _opened(path) as files:
        wnids = sorted(set(_text(files, _CLASSES).split()))
        if not wnids:
            raise UserError(f"{files.where}: {_CLASSES} names no class")
        position = {wnid: number for number, wnid in enumerate(wnids)}
        train = [(name, label) for label, wnid in enumerate(wnids) for name in _train_images(files, wnid)]
        test = [(f"{_VAL_IMAGES}/{image}", position[wnid]) for image, wnid in _annotations(files, position)]
        names = [name for name, _ in train + test]
        lists = [_CLASSES, _ANNOTATIONS]
        words = _words(files)
        if words is not None:
            lists.append(_WORDS)
        fingerprint = hashlib.sha256(files.checksums(sorted(names + lists), cache_dir).encode()).hexdigest()

    def blocks() -> Iterator[Pixels]:
        return _decoded(path, names)

    return Source(
        name="tiny-imagenet",
        where=str(path),
        fingerprint=fingerprint,
        class_names=tuple((words or {}).get(wnid, wnid) for wnid in wnids),
        labels=np.array([label for _, label in train + test], dtype=np.int64),
        parts=np.repeat(np.array([Part.TRAIN, Part.TEST], dtype=np.int8), [len(train), len(test)]),
        image_size=SIDE,
        blocks=blocks,
    )


class _Folder:
    def __init__(self, root: Path) -> None:
        self.where = root

    def names_in(self, folder: str) -> list[str]:
        path = self.where / folder
        return [entry.name for entry in os.scandir(path) if entry.is_file()] if path.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self.where / name).read_bytes()

    def checksums(self, names: list[str], cache_dir: Path) -> str:
        """Reads every file, unless this cache remembers this folder's with the same sizes and times."""
        signature = hashlib.sha256(str(self.where.resolve()).encode())
        for name in names:
            status = (self.where / name).stat()
            signature.update(f"\n{name}\t{status.st_size}\t{status.st_mtime_ns}".encode())
        return remembered(cache_dir, signature.hexdigest(), lambda: self._read_checksums(names))

    def _read_checksums(self, names: list[str]) -> str:
        def of_share(start: int) -> list[str]:
            lines = []
            for name in names[start::_READERS]:
                content = _content(self, name)
                lines.append(_checksum_line(name, len(content), zlib.crc32(content)))
            return lines

        with ThreadPoolExecutor(_READERS) as pool:
            return "\n".join(sorted(line for lines in pool.map(of_share, range(_READERS)) for line in lines))


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile, root: str) -> None:
        self.where = path
        self._archive = archive
        self._root = root
        self._entries = {i.filename.removeprefix(root): i for i in archive.infolist() if i.filename.startswith(root)}
        self._folders: dict[str, list[str]] = {}
        for name in self._entries:
            folder, _, base = name.rpartition("/")
            if base:
                self._folders.setdefault(folder, []).append(base)

    def names_in(self, folder: str) -> list[str]:
        return self._folders.get(folder, [])

    def read(self, name: str) -> bytes:
        entry = self._entries.get(name)
        if entry is None:
            raise FileNotFoundError(2, "No such file in the archive")
        return self._archive.read(entry)  # checks the CRC-32 that the fingerprint was made from

    def checksums(self, names: list[str], cache_dir: Path) -> str:
        """Reads no file: the archive's directory holds their sizes and CRC-32s."""
        del cache_dir  # nothing here is dear enough to be remembered
        entries = ((name, self._entries[name]) for name in names)
        return "\n".join(sorted(_checksum_line(name, entry.file_size, entry.CRC) for name, entry in entries))


def _checksum_line(name: str, size: int, crc: int) -> str:
    return f"{name}\t{size}\t{crc:08x}"


@contextmanager
def _opened(path: Path) -> Iterator[_Files]:
    if path.is_dir():
        yield _Folder(_root_of_folder(path))
        return
    if not path.exists():
        raise UserError(f"{path} does not exist; expected Tiny-ImageNet's folder or zip file; {_HOW_TO_GET}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty; expected Tiny-ImageNet's folder or zip file; {_HOW_TO_GET}")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{path} is not a whole zip file ({error}); it may be cut short; {_HOW_TO_GET}") from error
    with archive:
        # The outermost class list shows where the layout begins: at the top or one folder down.
        lists = [name for name in archive.namelist() if name.rpartition("/")[2] == _CLASSES]
        if not lists:
            raise UserError(f"{path} holds no Tiny-ImageNet: no {FOLDER}/{_CLASSES} in it; {_HOW_TO_GET}")
        yield _Zip(path, archive, min(lists, key=len).removesuffix(_CLASSES))


def _root_of_folder(path: Path) -> Path:
    for root in (path, path / FOLDER):
        if (root / _CLASSES).is_file():
            return root
    found = "is an empty folder" if not any(path.iterdir()) else f"holds neither {_CLASSES} nor {FOLDER}/{_CLASSES}"
    raise UserError(f"{path} {found}; expected Tiny-ImageNet's folder or zip file; {_HOW_TO_GET}")


def _content(files: _Files, name: str) -> bytes:
    try:
        return files.read(name)
    # What zipfile raises on damage: a wrong CRC, a bad stream, an unknown compression, an encrypted member.
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{files.where}: {name} cannot be read: {reason}") from error


def _text(files: _Files, name: str) -> str:
    try:
        return _content(files, name).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{files.where}: {name} is not text: {error}") from error


def _train_images(files: _Files, wnid: str) -> list[str]:
    folder = f"train/{wnid}/images"
    images = sorted(name for name in files.names_in(folder) if name.endswith(_SUFFIX))
    if not images:
        raise UserError(f"{files.where}: {folder} holds no {_SUFFIX} file, but {_CLASSES} names class {wnid}")
    return [f"{folder}/{name}" for name in images]


def _annotations(files: _Files, known: dict[str, int]) -> list[tuple[str, str]]:
    """The (image, class) pairs of the official val part, by image; refuses annotations and images that do not match."""
    pairs: dict[str, str] = {}
    for number, line in enumerate(_text(files, _ANNOTATIONS).splitlines(), start=1):
        image, wnid, *_ = [*line.split("\t"), "", ""]
        if wnid not in known or image in pairs:
            what = f"{image!r} twice" if image in pairs else f"class {wnid!r}, which is not in {_CLASSES}"
            raise UserError(f"{files.where}: {_ANNOTATIONS} line {number} names {what}")
        pairs[image] = wnid
    present = {name for name in files.names_in(_VAL_IMAGES) if name.endswith(_SUFFIX)}
    for odd, what in (
        (pairs.keys() - present, f"named in {_ANNOTATIONS} but missing from {_VAL_IMAGES}"),
        (present - pairs.keys(), f"in {_VAL_IMAGES} but not named in {_ANNOTATIONS}"),
    ):
        if odd:
            raise UserError(f"{files.where}: {min(odd)} is {what} ({len(odd)} such of {len(pairs | dict.fromkeys(present))})")
    return sorted(pairs.items())


def _words(files: _Files) -> dict[str, str] | None:
    """WordNet id -> its words; None where the list, which no image depends on, was left out."""
    if _WORDS not in files.names_in(""):
        return None
    pairs = (line.partition("\t") for line in _text(files, _WORDS).splitlines())
    return {wnid: words.strip() or wnid for wnid, _, words in pairs}


def _decoded(path: Path, names: list[str]) -> Iterator[Pixels]:
    with _opened(path) as files:
        jpegs = ([_content(files, name) for name in names[start : start + BLOCK]] for start in range(0, len(names), BLOCK))
        try:
            yield from decode_blocks(jpegs, SIDE, usable_workers() if len(names) >= _INLINE else 1)
        except BadImageError as bad:
            raise UserError(f"{files.where}: {names[bad.position]} {bad.why}") from bad
