"""Ray for one run: started on this machine, open to nobody else and gone with its driver, or joined where a cluster runs."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tune_ablation.errors import UserError
from tune_ablation.runner import processes

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; the old one warns at every start
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new reporter prints its banner even when told to be silent
}
"""What Ray is told unless the user has told it otherwise."""

LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # despite its name: whether any machine but this one may take part; Ray listens accordingly
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # started by `uv run`, Ray would pack the current folder, data and all
    "RAY_AUTH_MODE": "token",  # loopback is open to every user of the machine
}
"""What a local Ray is told in any case."""

VITAL = ("raylet", "gcs_server")
POLL_SECONDS = 0.2
SOCKET_PATH_BYTES = 103  # of a Unix socket: 107 on Linux, 103 on macOS
RAY_SOCKET = "/abcdefgh/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket below ``_base``: process ids end at 4194304."""


@contextmanager
def started(address: str | None, cpus: int, say: Callable[[str], None]) -> Iterator[Path]:
    """Ray, and a temporary folder of this run.

    Args:
        address: where a cluster's head is, or ``auto`` for this machine's; None starts Ray here. Then it listens on loopback only, to
            whoever holds a token made for this run, and should it die, the driver ends with one line and exit code 1.
        cpus: how many a Ray started here may give away.
        say: called from a thread with each line that a cluster has to say, of dead nodes for one.

    Raises:
        UserError: Ray does not start, no cluster answers, or there is no place for temporary files.
    """
    os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})
    with _own_folder() as (folder, keeper), _local(cpus, folder, keeper) if address is None else _joined(address, say):
        yield folder


@contextmanager
def _local(cpus: int, folder: Path, keeper: subprocess.Popen[str]) -> Iterator[None]:
    os.environ.update(LOCAL_ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})
    import ray

    try:
        with _watched(keeper), _reported(lambda _: None):  # what Ray publishes of its own end, the keeper says in one line
            try:
                with _temporary_files_in(folder):
                    ray.init(
                        address="local",  # and not RAY_ADDRESS
                        num_cpus=cpus,
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        object_store_memory=100_000_000,  # only the session's settings go through it
                        _temp_dir=str(folder),
                    )
            except Exception as error:  # Ray has no exception of its own for this
                raise UserError(f"Ray could not be started on this machine: {_first_line(error)}") from error
            yield
    finally:
        ray.shutdown()


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Have the processes that are started meanwhile put theirs into the run's folder: a killed worker could not remove its own."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before


@contextmanager
def _joined(address: str, say: Callable[[str], None]) -> Iterator[None]:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"--address {address}: no Ray cluster there: {_first_line(error)}") from None
    try:
        with _reported(say):
            yield
    finally:
        ray.shutdown()


@contextmanager
def _reported(say: Callable[[str], None]) -> Iterator[None]:
    """Pass on the first line of what Ray publishes as errors; it would print it whole, in colour, with the ends of its logs."""
    from ray._private import worker

    def pass_on(data: Any, ignore_prefix: bool = False) -> None:
        del ignore_prefix
        for text in data["lines"]:
            say("Ray: " + text.strip().partition("\n")[0])

    printed = worker.print_to_stdstream
    worker.print_to_stdstream = pass_on
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


@contextmanager
def _watched(keeper: subprocess.Popen[str]) -> Iterator[None]:
    """Look at Ray's own processes all the time: without them Tune would wait for ever for workers that nobody starts."""
    from ray._private import worker

    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            node = worker._global_node  # noqa: SLF001 - no public way to Ray's processes; Ray's version is pinned
            # Ray tells of its processes once all of them are up; while they come up, it waits for one that died until its time is over.
            dead = processes.dead_children() if node is None else [kind for kind, _ in node.dead_processes()]
            for kind in VITAL:
                if kind in dead:
                    processes.tell(keeper, f"error: Ray's {kind} died")
                    os._exit(1)  # Ray's own calls might never come back

    thread = threading.Thread(target=watch, name="ray-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _own_folder() -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A new folder and its keeper, with whom it goes however the driver ends; the folders of dead drivers are cleared away.

    A lock on each folder tells whether its run lives: the driver and its keeper hold it.
    """
    base = _base()
    try:
        with _locked(base):  # so that nobody clears a folder away between its making and its lock
            for other in base.iterdir():
                with suppress(OSError), _locked(other, wait=False):
                    processes.clear(other)
            folder = Path(tempfile.mkdtemp(dir=base, prefix=""))
            lock = _lock(folder)
    except OSError as error:
        raise UserError(f"{base}: cannot be written: {error.strerror}; TMPDIR may name another place for temporary files") from None
    keeper = processes.start_keeper(folder, lock)
    try:
        yield folder, keeper
    finally:
        keeper.communicate(processes.DONE)
        os.close(lock)


def _base() -> Path:
    """Where this user's runs have their folders; nobody else may look into it."""
    name = f"tune-ablation-{os.getuid()}"
    base = next(
        base
        for base in (Path(tempfile.gettempdir()).resolve() / name, Path("/tmp").resolve() / name)  # noqa: S108 - safe once its owner is checked
        if len(os.fsencode(f"{base}{RAY_SOCKET}")) <= SOCKET_PATH_BYTES
    )
    try:
        base.mkdir(mode=0o700, exist_ok=True)
        status = base.lstat()
    except OSError as error:
        raise UserError(f"{base}: cannot be made: {error.strerror}; TMPDIR may name another place for temporary files") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UserError(f"{base}: must be a folder that only this user may open; TMPDIR may name another place for temporary files")
    return base


def _lock(path: Path, *, wait: bool = True) -> int:
    opened = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(opened)
        raise
    return opened


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    opened = _lock(path, wait=wait)
    try:
        yield
    finally:
        os.close(opened)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
