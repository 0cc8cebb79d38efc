"""One results folder, the command that works on it, and that command at work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from tests.chaos import processes
from tests.chaos.inotify import Watch
from tests.chaos.ledger import Ledger, look, without_times
from tests.chaos.processes import MARK, PARTS, Process, await_end, send
from tune_ablation import experiment, plan
from tune_ablation.records import CHECKPOINT_FILE, FAILURE_FILE, HEADER_FILE, TRIALS_FOLDER
from tune_ablation.runner.run import TUNE_FOLDER

PATIENCE = 240.0
"""Seconds that anything may take before it counts as hanging."""


class Run:
    """The command at work, in a kernel session of its own.

    Args:
        study: what it works on.
        log: where its output goes.
    """

    def __init__(self, study: Study, log: Path) -> None:
        self._mark = uuid.uuid4().hex
        self.log = log
        self.started = time.monotonic()
        with log.open("wb") as output:
            self.driver = subprocess.Popen(
                study.command(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {MARK: self._mark, "TMPDIR": str(study.temporary), "PYTHONPATH": str(Path.cwd())},
            )
        self.temporary_before = set(study.temporary_files())
        self.seen_off = False
        self._sessions = {self.driver.pid}
        self._known: list[Process] = []

    def remember(self) -> None:
        """Look its processes up for a moment at which there is no time for it."""
        self._known = self.members()

    def trial_workers(self) -> list[int]:
        """The living workers that train, among those remembered if there are any."""
        known = [process.pid for process in self._known if PARTS["worker"](process.command)]
        return [pid for pid in known if not processes.is_gone(pid)] or self.part("worker")

    def members(self) -> list[Process]:
        """Its processes now, the driver's own among them."""
        return processes.members(self._mark, self._sessions)

    def part(self, name: str) -> list[int]:
        """The processes that play a part, by number."""
        return sorted(process.pid for process in self.members() if PARTS[name](process.command))

    def kill_all(self) -> None:
        """SIGKILL for all of them, until none is left: one may be starting another."""
        known = sorted(self._known, key=lambda process: not PARTS["worker"](process.command))
        for process in known:  # workers first, at once: looking everybody up takes longer than a write
            send(process.pid, signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while (left := self.members()) and time.monotonic() < end:
            for process in left:
                send(process.pid, signal.SIGKILL)
            if self.driver.poll() is None:
                self.driver.wait(PATIENCE)
            time.sleep(0.01)
        self.driver.wait(PATIENCE)

    def await_end(self, seconds: float) -> int | None:
        """The driver's exit code, None if it does not end in time."""
        try:
            return self.driver.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def await_nobody(self, seconds: float) -> list[Process]:
        """Wait until none of its processes is left; returns those that are."""
        end = time.monotonic() + seconds
        while (left := self.members()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def output(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")


class Study:
    """One storage folder, cache and folder for temporary files, and the command that works on them.

    Args:
        folder: for all of it; its path must be short, since Ray puts sockets below it.
        file: the experiment's.
        program: the command line program.
        arguments: more of them for it.
    """

    def __init__(
        self, folder: Path, file: Path, program: tuple[str, ...] = (sys.executable, "-m", "tune_ablation"), arguments: tuple[str, ...] = ()
    ) -> None:
        self.experiment = experiment.read(str(file))
        self.keys = plan.all_keys(self.experiment)
        self.folder = folder
        self.storage = folder / "results"
        self.results = self.storage / self.experiment.name
        self.trials = self.results / TRIALS_FOLDER
        self.temporary = folder / "tmp"
        self._program = program
        self._arguments = ("run", str(file), "--storage-path", str(self.storage), "--cache-dir", str(folder / "cache"), *arguments)
        self._runs = 0
        self.temporary.mkdir(parents=True)

    def command(self) -> list[str]:
        """The command, the same every time."""
        return [*self._program, *self._arguments]

    @property
    def log(self) -> Path:
        """Where the output of its last start is."""
        return self.folder / f"run-{self._runs:03d}.log"

    def start(self) -> Run:
        """Start it."""
        self._runs += 1
        return Run(self, self.log)

    def watch(self) -> Watch:
        """Watch the files of the results folder and of every trial; the folders are made for it."""
        folders = [self.results, *(self.trials / key for key in self.keys)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        return Watch(folders)

    def ledger(self) -> Ledger:
        """A ledger of its trials."""
        return Ledger(self.trials, self.keys)

    def is_temporary(self, path: str) -> bool:
        """Whether a path is that of a file being written into the results folder."""
        return path.startswith(str(self.results)) and path.endswith(".tmp")

    def temporary_files(self) -> list[Path]:
        """Files that a write left behind."""
        return [path for path in self.results.rglob("*") if self.is_temporary(str(path)) and f"/{TUNE_FOLDER}/" not in str(path)]

    def debris(self) -> list[str]:
        """What a finished experiment must not have: temporary files, checkpoints, notes of failures."""
        kept = [path for path in self.trials.rglob("*") if path.name in {CHECKPOINT_FILE, FAILURE_FILE}]
        return [path.relative_to(self.folder).as_posix() for path in (*self.temporary_files(), *kept)]

    def records(self) -> dict[tuple[str, int], dict[str, Any]]:
        """All records by trial and epoch, times aside."""
        return {(key, row["epoch"]): row for key in self.keys for row in without_times(look(self.trials / key).rows)}

    def files(self) -> set[str]:
        """Every file and folder of results and cache, by a name that two undisturbed runs share."""
        found = (path.relative_to(self.folder).as_posix() for name in ("results", "cache") for path in (self.folder / name).rglob("*"))
        return {re.sub(r"(tfevents)\..*", r"\1", name) for name in found if f"/{TUNE_FOLDER}/" not in name}

    def in_temporary(self) -> set[str]:
        """What stands in its folder for temporary files, two levels deep."""
        levels = (self.temporary.glob(pattern) for pattern in ("*", "*/*"))
        return {path.relative_to(self.temporary).as_posix() for level in levels for path in level}

    def header(self) -> dict[str, Any]:
        """The run header, the sessions aside."""
        content: dict[str, Any] = json.loads((self.results / HEADER_FILE).read_text(encoding="utf-8"))
        del content["sessions"], content["check"]
        return content


def kill_worker(run: Run, study: Study, ledger: Ledger, choice: float) -> bool | None:
    """Kill one trial worker, the writing one if there is one, and look at the trials before the driver can begin them again.

    Returns:
        Whether it was writing; None where there is no worker.
    """
    victims = run.trial_workers()
    held = [pid for pid in (*victims, run.driver.pid) if send(pid, signal.SIGSTOP)]
    try:
        victims = [pid for pid in victims if pid in held]
        if not victims:
            return None
        among = [pid for pid in victims if processes.holds_open(pid, study.is_temporary)] or victims
        victim = among[int(choice * len(among))]
        writing = processes.holds_open(victim, study.is_temporary)
        send(victim, signal.SIGKILL)
        if not await_end(victim, PATIENCE):
            ledger.faults.append(f"worker {victim} outlived its SIGKILL")
        ledger.look()
        return writing
    finally:
        for pid in held:
            send(pid, signal.SIGCONT)
