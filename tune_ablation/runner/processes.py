"""Sees to it that no process of a run outlives its driver. Run as a program by its path, it is the run's keeper; standard library only.

The keeper waits for the end of its standard input, which the driver holds open and the kernel closes however the driver ends. It then
clears the run's folder away with everything that is still at work in it, and speaks for a driver that could not.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
RAY_PROGRAMS = ("raylet", "gcs_server")
RAY_TITLE = b"ray::"
ROUNDS = 50


DONE = "done"
"""What a driver tells its keeper that needs no one to speak for it."""


def start_keeper(folder: Path, lock: int) -> subprocess.Popen[str]:
    """Start a run's keeper.

    Args:
        folder: the run's own.
        lock: an open file that the keeper holds for as long as it lives.
    """
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        pass_fds=[lock],
        text=True,
        start_new_session=True,  # it must outlive what is sent to the driver's process group
    )


def tell(keeper: subprocess.Popen[str], words: str) -> None:
    """Give the keeper what it is to say when this process is gone."""
    assert keeper.stdin is not None  # noqa: S101 - it is a pipe
    keeper.stdin.write(words)
    keeper.stdin.flush()


def keep(folder: Path) -> None:
    """Wait for the driver's end, and see it off."""
    words = sys.stdin.read()
    clear(folder)
    if words != DONE:
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live view hides it
        print(f"{show_cursor}{words or 'Cut off'}. Everything done so far is kept; the same command goes on from here.", file=sys.stderr)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Without it a Ray worker whose raylet was killed would train on, unseen.

    Args:
        parent: the parent's process id; if it is another one by now, this process ends here.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:  # not Linux
        return
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def dead_children() -> list[str]:
    """The names of this process's children that have died and were not asked about yet; none without /proc."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for child in _text(children).split():
            name, _, state = _text(Path(f"/proc/{child}/stat")).partition("(")[2].rpartition(") ")
            if state.startswith("Z"):
                found.append(name)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # its thread or process is gone
        return ""


def clear(folder: Path) -> None:
    """Kill what a run's Ray left at work in its folder, then remove the folder.

    Args:
        folder: the run's own; its processes are told by the log files they hold open there.
    """
    for _ in range(ROUNDS):
        found = at_work_in(folder)
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if not found:
            break
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def at_work_in(folder: Path) -> list[int]:
    """The processes of Ray below a folder, this one and its parent aside; none without /proc.

    They hold a file in it open, are Ray's programs or this Python, and were given the folder or have put Ray's title in the place of
    what they were given: so whoever reads a log in it is left alone.
    """
    here = str(folder.resolve()) + os.sep
    python = os.path.realpath(sys.executable)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        process = int(entry.name)
        if process in (os.getpid(), os.getppid()):
            continue
        program = _target(entry / "exe").removesuffix(" (deleted)")
        if program != python and program.rpartition(os.sep)[2] not in RAY_PROGRAMS:
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            files = list((entry / "fd").iterdir())
        except OSError:  # it has ended meanwhile
            continue
        if (command.startswith(RAY_TITLE) or os.fsencode(here) in command) and any(_target(file).startswith(here) for file in files):
            found.append(process)
    return found


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # closed meanwhile, or another user's
        return ""


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
