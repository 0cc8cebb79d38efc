"""Linux's inotify, straight from the C library: to know within microseconds that a file is being written."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from pathlib import Path
from typing import NamedTuple

EVENTS = {0x2: "modify", 0x100: "create", 0x80: "move", 0x200: "delete"}
"""Bit -> what happened to a file: written to, begun, put in place under its final name, removed."""

_HEADER = struct.Struct("iIII")
_OVERFLOW = 0x4000


class Event(NamedTuple):
    """Something that happened to a file.

    Attributes:
        folder: the watched folder.
        name: the file in it.
        what: one of ``EVENTS``.
    """

    folder: Path
    name: str
    what: str


class Watch:
    """Events of the files in some folders, in the order in which they happened.

    Args:
        folders: to watch; not those below them.
    """

    def __init__(self, folders: list[Path]) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._folders: dict[int, Path] = {}
        for folder in folders:
            number = library.inotify_add_watch(self._descriptor, os.fsencode(folder), sum(EVENTS))
            if number < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
            self._folders[number] = folder

    def wait(self, seconds: float) -> list[Event]:
        """What has happened since the last call; if nothing has, what happens first within so many seconds."""
        end = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return []
            if events := self._parse(os.read(self._descriptor, 1 << 16)):
                return events

    def _parse(self, content: bytes) -> list[Event]:
        events, place = [], 0
        while place < len(content):
            number, mask, _, length = _HEADER.unpack_from(content, place)
            name = content[place + _HEADER.size : place + _HEADER.size + length].rstrip(b"\0")
            place += _HEADER.size + length
            if mask & _OVERFLOW:
                continue
            what = next((word for bit, word in EVENTS.items() if mask & bit), None)
            if what is not None and number in self._folders:
                events.append(Event(self._folders[number], os.fsdecode(name), what))
        return events

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
