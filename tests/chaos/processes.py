"""The processes of one run as the kernel sees them: who belongs to it, who plays which part, and who is left."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "TUNE_ABLATION_CHAOS"
"""Environment variable that every process of a run inherits; its value names the run."""

PARTS: dict[str, Callable[[str], bool]] = {
    "gcs_server": lambda command: command.partition(" ")[0].endswith("gcs_server"),
    "raylet": lambda command: command.partition(" ")[0].endswith("/raylet"),
    "worker": lambda command: command.startswith("ray::") and "Trainable" in command,
}
"""Part -> how its command line looks; Tune runs a trainable under its class's name."""


@dataclass(frozen=True)
class Process:
    """One process at one moment.

    Attributes:
        pid: its number.
        session: the kernel's session that it is in.
        command: its command line, or the title that it gave itself.
    """

    pid: int
    session: int
    command: str


def members(mark: str, sessions: set[int]) -> list[Process]:
    """The living processes of a run: those in its kernel sessions or with its mark, whose sessions join ``sessions``.

    A process that rewrites its title may overwrite its environment too, so neither sign is enough alone.
    """
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        process = _look(folder)
        if process is None:
            continue
        if process.session not in sessions:
            if f"{MARK}={mark}".encode() not in _read(folder / "environ").split(b"\0"):
                continue
            sessions.add(process.session)
        found.append(process)
    return found


def _look(folder: Path) -> Process | None:
    fields = _read(folder / "stat").rpartition(b")")[2].split()
    if not fields or fields[0] in {b"Z", b"X"}:
        return None
    command = _read(folder / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    return Process(int(folder.name), int(fields[3]), command)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # gone meanwhile, or not ours to read
        return b""


def send(pid: int, signum: signal.Signals) -> bool:
    """Signal a process; False where it is no more."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has asked for its exit code yet has."""
    return _look(Path("/proc", str(pid))) is None


def await_end(pid: int, seconds: float) -> bool:
    """Wait for a process to end."""
    end = time.monotonic() + seconds
    while not is_gone(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def holds_open(pid: int, matches: Callable[[str], bool]) -> bool:
    """Whether a process has a file open whose path matches."""
    with contextlib.suppress(OSError):
        for link in Path("/proc", str(pid), "fd").iterdir():
            with contextlib.suppress(OSError):
                if matches(str(link.readlink())):
                    return True
    return False


def memory(pid: int) -> int:
    """Resident memory of a process in bytes, 0 where it is no more."""
    for line in _read(Path("/proc", str(pid), "status")).splitlines():
        if line.startswith(b"VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu(pid: int) -> float:
    """Processor time that a process has used, seconds; 0 where it is no more."""
    fields = _read(Path("/proc", str(pid), "stat")).rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0
