"""Many small files: read and parsed a few hundred at a time by several threads, so that neither costs more than it must."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import polars as pl

from tune_ablation.errors import UserError
from tune_ablation.storage import Storage

Batch = Sequence[tuple[int, bytes]]
"""Files by their place among all, and their content."""

BATCH_BYTES = 8_000_000
"""Text parsed at once: large enough for many files, small enough for a processor's cache and for memory that is used again."""

_LOCAL, _REMOTE = 4, 16
"""Threads: what a disk takes to answer is partly waiting, what an object store takes is little else."""

_SHARE = 256
"""Files that a thread takes at once at the most."""

_PIECE = 65_536

GONE = "gone while it was read"


def parse_files(
    storage: Storage, names: Sequence[str], parse: Callable[[Batch], pl.DataFrame], batch_bytes: int = BATCH_BYTES
) -> tuple[pl.DataFrame, dict[int, str]]:
    """Read files and parse them, many together.

    Args:
        storage: where they are.
        names: their names.
        parse: makes a frame of several files; called by several threads at once, first of all with none.
        batch_bytes: how much text it is given at once.

    Returns:
        The frames in one, in the order of the names; by its place, what is wrong with a file that could not be read.
    """
    unread: dict[int, str] = {}

    def parsed(places: range) -> list[pl.DataFrame]:
        return [parse(batch) for batch in _batches(storage, names, places, batch_bytes, unread)]

    threads = _REMOTE if storage.folder is None else _LOCAL
    share = min(_SHARE, max(1, math.ceil(len(names) / threads)))
    shares = [range(start, min(start + share, len(names))) for start in range(0, len(names), share)]
    with ThreadPoolExecutor(threads) as pool:
        return pl.concat([parse([]), *(frame for frames in pool.map(parsed, shares) for frame in frames)]), unread


def _batches(storage: Storage, names: Sequence[str], places: range, most: int, unread: dict[int, str]) -> Iterator[Batch]:
    batch: list[tuple[int, bytes]] = []
    size = 0
    for place in places:
        content = try_read(storage, names[place])
        if isinstance(content, str):
            unread[place] = content
            continue
        batch.append((place, content))
        size += len(content)
        if size > most:
            yield batch
            batch, size = [], 0
    yield batch


def try_read(storage: Storage, name: str) -> bytes | str:
    """A file's content, or what keeps it from being read."""
    try:
        content = read(storage, name)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    except UserError as error:
        return str(error)
    return GONE if content is None else content


def read(storage: Storage, name: str) -> bytes | None:
    """A file's content; on this machine's disk without a path object for each, which ten thousand trials would feel."""
    if storage.folder is None:
        return storage.read(name)
    try:
        descriptor = os.open(f"{storage.root}/{name}", os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return b"".join(iter(lambda: os.read(descriptor, _PIECE), b""))
    finally:
        os.close(descriptor)


def repeated(name: str, values: Sequence[int], times: Sequence[int]) -> pl.Series:
    """Each value so many times, as one column."""
    frame = pl.DataFrame({name: values, "times": times}, {name: pl.Int64, "times": pl.Int64}).filter(pl.col("times") > 0)
    return frame.select(pl.col(name).repeat_by("times").explode())[name]
