"""One driver at a time: two on the same results folder would train every trial twice.

On a disk the lock is the kernel's, which goes with its process however that ends. Elsewhere, where there is no such lock and no write
that depends on what is there, every driver puts an object of its own into the results folder:

    .drivers/<token>.claim   who it is; written before it looks whether anyone else is there, never changed
    .drivers/<token>.beat    a number that grows every few seconds; only the driver at work has one

A driver may work once it has written its claim, then listed the claims and found its own alone. Of two that did, the one that listed
last would have found the other's, so there are never two, whatever their clocks say. The claim of a dead driver is removed by the
next: at once if it ran on this machine, otherwise when its beat has not changed for a minute. Should it not have been dead, it finds
its claim gone at its next beat, and stops; its workers find the claim gone at their next write, which they leave undone.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from tune_ablation.errors import UserError
from tune_ablation.storage import LocalStorage, Storage

LOCK_FILE = ".lock"
HOLDER_FILE = ".lock.json"
CLAIMS_FOLDER = ".drivers"
CLAIM, BEAT = ".claim", ".beat"

BEAT_SECONDS = 5.0
DEAD_SECONDS = 60.0
"""A driver on another machine whose beat has not changed for so long, by the watching driver's own clock, is taken for dead."""
LEAVE_SECONDS = 30.0
"""A driver that leaves waits for so long for its last beat to be written, lest that come after it has cleared up."""
POLL_SECONDS = 0.5

Say = Callable[[str], None]


@dataclass(frozen=True)
class Driver:
    """Who is at work, for a person and for the next driver.

    Attributes:
        host: the machine's name.
        pid: the process there.
        started: when it began, ISO 8601.
        machine: where process numbers mean the same: one boot of one kernel, one container; empty where that cannot be told.
        born: the process's birth by that kernel's clock, since numbers are used again.
    """

    host: str
    pid: int
    started: str
    machine: str
    born: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"

    @classmethod
    def this(cls) -> Driver:
        """This process."""
        return cls(platform.node(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"), _machine(), _born(os.getpid()))

    @classmethod
    def parse(cls, content: bytes | None) -> Driver | None:
        """Of what ``dump`` gave; None of anything else."""
        try:
            return cls(**json.loads(content or b""))
        except (ValueError, TypeError):
            return None

    def dump(self) -> bytes:
        """As bytes."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_here(self) -> bool:
        """Whether this process can see whether that one lives."""
        return self.machine == _machine() != ""

    @property
    def is_alive(self) -> bool:
        """Whether the process is there; only where ``is_here``."""
        return self.born == _born(self.pid) != ""


def _machine() -> str:
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _born(pid: int) -> str:
    """When a process began, in ticks since boot; empty where there is none, or only what its parent has not yet collected."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


@contextmanager
def only_driver(storage: Storage, stop: threading.Event, *, wait: bool, say: Say) -> Iterator[str | None]:
    """Hold an experiment's results folder.

    Gives the name of the claim to fence all writing with, None where the kernel holds the lock.

    Args:
        storage: the folder.
        stop: set if another driver has taken the folder over while this one was cut off or asleep; leave the block then.
        wait: wait for another driver to end instead of refusing.
        say: told whom or what this waits for.

    Raises:
        UserError: another driver is at work, or has taken over.
    """
    if storage.folder is not None:
        with _kernel_lock(storage.folder, wait=wait, say=say):
            yield None
        return
    folder = storage.child(CLAIMS_FOLDER)
    token = _Claims(folder, storage.root, wait=wait, say=say).take()
    holding = _Holding(folder, token, stop)
    try:
        yield f"{CLAIMS_FOLDER}/{token}{CLAIM}"
    finally:
        holding.release()
    if holding.lost:
        raise UserError(f"{storage.root}: taken over by another run of this experiment while this one did not answer; this one has stopped")


def _busy(where: object, holder: Driver | None) -> str:
    return f"{where}: another run of this experiment is at work on it" + (f" ({holder})" if holder is not None else "")


@contextmanager
def _kernel_lock(folder: Path, *, wait: bool, say: Say) -> Iterator[None]:
    storage = LocalStorage(folder)
    lock = filelock.FileLock(folder / LOCK_FILE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            busy = _busy(folder, _noted_holder(storage))
            if not wait:
                raise UserError(f"{busy}; --wait waits for its end") from None
            say(f"Waiting: {busy}")
            lock.acquire(poll_interval=POLL_SECONDS)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        with suppress(UserError):  # a full disk: the note is for others to read, the lock holds without it
            storage.write(HOLDER_FILE, Driver.this().dump())
        yield
    finally:
        with suppress(UserError):
            storage.delete(HOLDER_FILE)
        lock.release()


def _noted_holder(storage: LocalStorage) -> Driver | None:
    """Who holds the kernel's lock; the note may still be that of a dead driver for the moment it takes to write a new one."""
    for _ in range(20):
        holder = Driver.parse(storage.read(HOLDER_FILE))
        if holder is not None and (holder.is_alive or not holder.is_here):
            return holder
        time.sleep(0.05)
    return None


@dataclass
class _Watched:
    """What a driver sees of another one's beat: what it is, since when, and whether it was ever seen to change."""

    beat: bytes | None
    since: float
    changed: bool = False


class _Claims:
    """The claims on a remote folder, as one driver that wants it sees them.

    Args:
        folder: where the claims are.
        where: the results folder, for messages.
        wait: wait for another driver to end instead of refusing.
        say: told whom or what this waits for.
    """

    def __init__(self, folder: Storage, where: str, *, wait: bool, say: Say) -> None:
        self._folder = folder
        self._where = where
        self._wait = wait
        self._say = say
        self._watched: dict[str, _Watched] = {}
        self._said: set[str] = set()

    def take(self) -> str:
        """Wait until no other driver is at work, and return this one's token.

        Raises:
            UserError: another driver is at work.
        """
        while True:
            while others := self._living():
                self._refuse_or_say(others)
                time.sleep(POLL_SECONDS)
            token = secrets.token_hex(8)
            try:
                self._folder.write(token + CLAIM, Driver.this().dump())
                if self._is_left_alone(token):
                    return token
            except BaseException:
                with suppress(UserError):
                    self._folder.delete(token + CLAIM)
                raise
            self._folder.delete(token + CLAIM)

    def _is_left_alone(self, token: str) -> bool:
        """Whether this claim comes to stand alone; of several made at once the smallest waits for the others to be withdrawn."""
        while others := self._living(token):
            if min(others) < token or any(at_work for _, at_work in others.values()):
                return False
            time.sleep(POLL_SECONDS / 5)
        return self._folder.read(token + CLAIM) is not None  # gone if this process slept so long that it was taken for dead

    def _living(self, own: str = "") -> dict[str, tuple[Driver | None, bool]]:
        """Who else has a claim, and whether he has begun to work; what dead drivers left is removed."""
        names = set(self._folder.names())
        for name in names:
            if name.endswith(BEAT) and name.removesuffix(BEAT) + CLAIM not in names:
                self._folder.delete(name)
        found = {}
        for token in sorted({name.removesuffix(CLAIM) for name in names if name.endswith(CLAIM)} - {own}):
            content = self._folder.read(token + CLAIM)
            if content is None:  # withdrawn since it was listed
                continue
            driver = Driver.parse(content)
            beat = self._folder.read(token + BEAT) if token + BEAT in names else None
            if self._is_dead(token, driver, beat):
                self._say(f"{self._where}: taken over from a run that ended without a word" + (f" ({driver})" if driver else ""))
                self._folder.delete(token + CLAIM)
                self._folder.delete(token + BEAT)
            else:
                found[token] = driver, beat is not None
        return found

    def _is_dead(self, token: str, driver: Driver | None, beat: bytes | None) -> bool:
        now = time.monotonic()
        watched = self._watched.setdefault(token, _Watched(beat, now))
        if watched.beat != beat:
            watched = self._watched[token] = _Watched(beat, now, changed=True)
        if driver is not None and driver.is_here:
            return not driver.is_alive
        return now - watched.since > DEAD_SECONDS

    def _refuse_or_say(self, others: dict[str, tuple[Driver | None, bool]]) -> None:
        for token, (driver, at_work) in others.items():
            busy = _busy(self._where, driver)
            is_here = driver is not None and driver.is_here
            if at_work and not self._wait and (is_here or self._watched[token].changed):
                raise UserError(f"{busy}; --wait waits for its end")
            if token not in self._said and (at_work or not is_here):  # one that has only just come will soon be at work or gone
                self._said.add(token)
                self._say(f"Waiting: {busy}" + ("" if is_here else f"; without a sign of life for {DEAD_SECONDS:.0f} s it is taken over"))


class _Holding:
    """A claim being held: a thread shows that its driver lives, and looks whether the claim is still there.

    Args:
        folder: where the claims are.
        token: whose.
        stop: set when the claim is gone.
    """

    def __init__(self, folder: Storage, token: str, stop: threading.Event) -> None:
        self.lost = False
        self._folder = folder
        self._token = token
        self._stop = stop
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="driver-beat", daemon=True)
        self._folder.write(token + BEAT, b"0")
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        while not self._released.wait(BEAT_SECONDS):
            count += 1
            with suppress(UserError):  # the storage does not answer: the run itself will say so
                self._folder.write(self._token + BEAT, str(count).encode())
                if self._token + CLAIM not in self._folder.names():
                    self.lost = True
                    self._stop.set()
                    return

    def release(self) -> None:
        """Let the next driver in."""
        self._released.set()
        self._folder.patience = BEAT_SECONDS
        self._thread.join(LEAVE_SECONDS)
        with suppress(UserError):  # what is left of it then, the next driver takes over
            self._folder.delete(self._token + CLAIM)
            self._folder.delete(self._token + BEAT)
