"""The decoded cache: every image of a source in one uint8 .npy file, written once per machine, then only memory-mapped.

A cache entry is a folder that appears whole, by a rename under a lock, or not at all. What a killed process leaves behind is a `.tmp`
folder, which the next one to hold the lock removes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from tune_ablation.data.source import Indices, Pixels, Progress, Source
from tune_ablation.errors import UserError

_IMAGES, _SUMS, _META = "images.npy", "sums.npy", "meta.json"
_SAMPLES, _SAMPLE_BYTES = 64, 4096


def cached_images(source: Source, cache_dir: Path, progress: Progress | None) -> tuple[Pixels, Indices]:
    """The source's images, decoded first if this cache does not hold them intact.

    Returns:
        uint8 [N, H, W, 3], memory-mapped read-only, and int64 [N, 2, 3]: the sum of each image's pixel values and the sum of their
        squares by channel, from which any slice's mean and standard deviation follow exactly.

    Raises:
        UserError: The cache cannot be written (the message names the bytes needed), or an image cannot be decoded.
    """
    entry = cache_dir / f"{source.name}-{source.fingerprint[:16]}"
    if not _is_intact(entry, source):
        with _locked(entry):
            if not _is_intact(entry, source):  # another process may have written it while this one waited
                _write(entry, source, progress)
    return np.load(entry / _IMAGES, mmap_mode="r"), np.load(entry / _SUMS)


def remembered(cache_dir: Path, signature: str, compute: Callable[[], str]) -> str:
    """The text that `compute` gave for this signature, computed once per cache: by one process, while others wait."""
    entry = cache_dir / "remembered" / f"{signature}.json"
    text = _read_text(entry)
    if text is None:
        with _locked(entry):
            text = _read_text(entry)
            if text is None:
                text = compute()
                temporary = entry.with_suffix(".tmp")
                try:
                    temporary.write_text(json.dumps(text))
                    temporary.replace(entry)
                except OSError as error:
                    raise _cannot_write(cache_dir, error) from error
    return text


def _read_text(entry: Path) -> str | None:
    try:
        text = json.loads(entry.read_text())
    except (OSError, ValueError):
        return None
    return text if isinstance(text, str) else None


@contextmanager
def _locked(entry: Path) -> Iterator[None]:
    """Holds the entry's lock, which the system frees when its holder dies."""
    lock = FileLock(entry.with_name(f"{entry.name}.lock"))
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise _cannot_write(entry.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def _cannot_write(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the data cache in {folder}: {error.strerror or error}")


def _is_intact(entry: Path, source: Source) -> bool:
    """Whether the entry is all there, by sizes and a digest of samples: milliseconds, whatever the size of the data."""
    try:
        meta = json.loads((entry / _META).read_text())
        return bool(meta == _describe(entry, source))
    except (OSError, ValueError):
        return False


def _describe(entry: Path, source: Source) -> dict[str, object]:
    files = {name: {"bytes": (entry / name).stat().st_size, "sampled": _sampled_digest(entry / name)} for name in (_IMAGES, _SUMS)}
    return {"fingerprint": source.fingerprint, "shape": list(source.shape), "files": files}


def _sampled_digest(path: Path) -> str:
    """SHA-256 over the file's head and evenly spaced pieces up to its end."""
    digest = hashlib.sha256()
    last = max(path.stat().st_size - _SAMPLE_BYTES, 0)
    with path.open("rb") as file:
        for sample in range(_SAMPLES):
            file.seek(last * sample // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _write(entry: Path, source: Source, progress: Progress | None) -> None:
    """Builds the entry beside its place, then renames it there. Called with the lock held."""
    temporary = entry.with_name(f"{entry.name}.tmp")
    needed = int(np.prod(source.shape)) + 48 * len(source.labels)
    try:
        for stale in (temporary, entry):
            if stale.exists():
                shutil.rmtree(stale)
        free = shutil.disk_usage(entry.parent).free
        if free < needed:
            raise UserError(f"cannot write the data cache in {entry.parent}: it needs {needed:,} bytes, {free:,} are free")
        temporary.mkdir()
        sums = _write_images(temporary / _IMAGES, source, progress)
        with (temporary / _SUMS).open("wb") as file:
            np.save(file, sums)
            _flush(file)
        with (temporary / _META).open("w") as file:
            json.dump(_describe(temporary, source), file)
            _flush(file)
        temporary.rename(entry)
    except OSError as error:
        raise UserError(f"{_cannot_write(entry.parent, error)}; it needs {needed:,} bytes") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_images(path: Path, source: Source, progress: Progress | None) -> Indices:
    """Streams the blocks to an .npy file. Plain writes, since a full disk under a memory map is a SIGBUS, not an error."""
    total, done = len(source.labels), 0
    sums = np.empty((total, 2, 3), dtype=np.int64)
    report = progress or (lambda _done, _total: None)
    report(0, total)
    with path.open("wb") as file:
        header = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": source.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for block in source.blocks():
            file.write(np.ascontiguousarray(block).data)
            sums[done : done + len(block)] = _channel_sums(block)
            done += len(block)
            report(done, total)
        _flush(file)
    return sums


def _channel_sums(block: Pixels) -> Indices:
    """uint8 [n, H, W, 3] -> int64 [n, 2, 3]."""
    planes = np.ascontiguousarray(block.reshape(len(block), -1, 3).transpose(2, 0, 1))
    squares = np.multiply(planes, planes, dtype=np.uint16)  # 255² fits
    both = np.stack([planes.sum(axis=2, dtype=np.uint64), squares.sum(axis=2, dtype=np.uint64)])
    return both.astype(np.int64).transpose(2, 0, 1)


def _flush(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
