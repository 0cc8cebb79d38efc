"""Runs of the real command, killed at seeded moments and started again, until the experiment is whole; then compared."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.inotify import Event, Watch
from tests.chaos.ledger import Ledger
from tests.chaos.processes import send
from tests.chaos.schedule import FILES, KINDS, Kill, schedule
from tests.chaos.study import PATIENCE, Run, Study, kill_worker
from tune_ablation.records import RECORDS_FILE

EXPERIMENT = """
name = "chaos"

[data]
classes = 3
train_per_class = 96
val_per_class = 8
test_per_class = 8
image_size = 32

[model]
width = 4

[grid]
depth = [18]
head = ["origin", "dropout"]

[recipe]
epochs = 10
batch_size = 8

[search]
trials_per_cell = 3
lr = { low = 1e-3, high = 1e-1 }

[confirm]
seeds = [0, 1]
"""

ASKED_TO_STOP = 130
"""Exit code of a run that was asked to stop and did."""


@dataclass
class Done:
    """One kill as it went.

    Attributes:
        kill: what was meant.
        campaign: which experiment, from 1.
        within: whether it fell into a write: a temporary file was left.
        code: the driver's exit code, None for a kill that it outlived.
        seconds: until the driver and all that it had started were gone.
    """

    kill: Kill
    campaign: int
    within: bool = False
    code: int | None = None
    seconds: float = 0.0


@dataclass
class Campaign:
    """One experiment from its first start to its end.

    Attributes:
        number: from 1.
        starts: how often the command was run.
        trained: epochs trained.
        needed: epochs of the plan.
        compared: records compared.
        differences: records that are missing, too many, or not those of the undisturbed run.
        faults: anything else that must not be.
    """

    number: int
    starts: int = 0
    trained: int = 0
    needed: int = 0
    compared: int = 0
    differences: int = 0
    faults: list[str] = field(default_factory=list)


class Chaos:
    """Kills and restarts until so many kills are done, and the last experiment begun is whole.

    Args:
        folder: where the runs stand.
        seed: of the schedule.
        say: told a line about whatever happens.
        kinds: of kills.
        experiment: what is run, as TOML.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        say: Callable[[str], None],
        *,
        kinds: Collection[str] = tuple(KINDS),
        experiment: str = EXPERIMENT,
    ) -> None:
        self.done: list[Done] = []
        self.campaigns: list[Campaign] = []
        self.reference_seconds = 0.0
        self._folder = folder
        self._say = say
        self._schedule = schedule(seed, kinds)
        self._held: Kill | None = None
        self._killed: Done | None = None
        self._runs: list[Run] = []
        self._start_seconds = 0.0
        self._file = folder / "chaos.toml"
        self._file.write_text(experiment, encoding="utf-8")

    def run(self, kills: int) -> None:
        """Do it. What was found stands in ``done`` and ``campaigns``."""
        reference = Study(self._folder / "0", self._file)
        try:
            self._undisturbed(reference)
            while len(self.done) < kills:
                self._campaign(reference, kills)
        finally:
            for run in self._runs[-2:]:
                run.kill_all()

    @property
    def faults(self) -> list[str]:
        """What must not be, differing records aside."""
        return [f"experiment {campaign.number}: {fault}" for campaign in self.campaigns for fault in campaign.faults]

    @property
    def differences(self) -> int:
        """Records that are not as in the undisturbed run."""
        return sum(campaign.differences for campaign in self.campaigns)

    def _undisturbed(self, study: Study) -> None:
        watch, run = study.watch(), study.start()
        self._runs.append(run)
        self._wait(run, watch, lambda event: event.name == RECORDS_FILE, PATIENCE)
        self._start_seconds = time.monotonic() - run.started
        watch.close()
        code = run.await_end(PATIENCE)
        if code != 0:
            run.kill_all()
            raise RuntimeError(f"the undisturbed run ended with {code}:\n{run.output()}")
        self.reference_seconds = time.monotonic() - run.started
        run.await_nobody(PATIENCE)
        run.seen_off = True
        self._say(
            f"undisturbed: {len(study.keys)} trials in {self.reference_seconds:.0f} s, first record after {self._start_seconds:.0f} s"
        )

    def _campaign(self, reference: Study, kills: int) -> None:
        campaign = Campaign(len(self.campaigns) + 1)
        self.campaigns.append(campaign)
        study = Study(self._folder / str(campaign.number), self._file)
        ledger = study.ledger()
        left_alone_and_failed = 0
        code: int | None = None
        while code != 0 and left_alone_and_failed < 3:
            before = len(self.done)
            code = self._start(study, ledger, campaign, kills)
            if code != 0 and len(self.done) == before:
                left_alone_and_failed += 1
                campaign.faults.append(f"start {campaign.starts}, left alone, ended with {code}, see {study.log}")
        self._finish(campaign, study, reference, ledger)

    def _start(self, study: Study, ledger: Ledger, campaign: Campaign, kills: int) -> int | None:
        """One start of the command, to its end by a kill or by itself; returns its exit code."""
        campaign.starts += 1
        before = self._runs[-1]
        watch = study.watch()
        run = study.start()
        self._runs.append(run)
        try:
            self._see_off(before, ledger, campaign, run)
            while len(self.done) < kills:
                kill = self._held = self._held or next(self._schedule)
                if not self._reach(kill, run, watch):
                    break
                done = Done(kill, campaign.number)
                if not self._strike(done, run, study, ledger):
                    continue  # its victim is not there yet, or no more
                self._held = None
                self.done.append(done)
                if kill.kind != "worker":
                    self._await_death(done, run, study, campaign)
                self._say(described(done, len(self.done)))
                if kill.kind != "worker":
                    if not kill.at_once:
                        self._see_off(run, ledger, campaign)
                    return done.code
        finally:
            watch.close()
        code = run.await_end(PATIENCE)
        if code is None:
            campaign.faults.append(f"start {campaign.starts} hangs, see {run.log}")
            run.kill_all()
        self._see_off(run, ledger, campaign)
        return code

    def _reach(self, kill: Kill, run: Run, watch: Watch) -> bool:
        """Wait for a kill's moment; False if the run has ended before."""
        if kill.moment == "start":
            return self._wait(run, watch, None, run.started + kill.delay * self._start_seconds - time.monotonic())
        if kill.moment == "training":
            training = self._wait(run, watch, lambda event: event.name == RECORDS_FILE, PATIENCE)
            return training and self._wait(run, watch, None, kill.delay * 0.4 * (self.reference_seconds - self._start_seconds))
        names, left = FILES[kill.moment], kill.write

        def hit(event: Event) -> bool:
            nonlocal left
            temporary = any(event.name.startswith(f".{name}.") for name in names)
            left -= temporary and event.what == "create"
            return left <= 0 and event.what == kill.step and (temporary or event.name in names)

        return self._wait(run, watch, hit, PATIENCE)

    @staticmethod
    def _wait(run: Run, watch: Watch, hit: Callable[[Event], bool] | None, seconds: float) -> bool:
        """Wait for an event, or where there is none to wait for, for a time to pass; False if the run ends before."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            events = watch.wait(min(left, 0.2))
            if hit is not None and any(map(hit, events)):
                return True
            if run.driver.poll() is not None:
                return False
            if not events or any(event.name == RECORDS_FILE for event in events):
                run.remember()  # now, when no write is to be caught for a while
        return hit is None and run.driver.poll() is None

    def _strike(self, done: Done, run: Run, study: Study, ledger: Ledger) -> bool:
        """Do the killing; False where there is no victim."""
        kind, driver = done.kill.kind, run.driver.pid
        if kind == "worker":
            if (writing := kill_worker(run, study, ledger, done.kill.choice)) is None:
                return False
            done.within = writing
            run.temporary_before = set(study.temporary_files())
        elif kind == "whole tree":
            run.kill_all()
        elif kind in {"raylet", "gcs_server"}:
            victims = run.part(kind)
            while not victims and run.driver.poll() is None:
                time.sleep(0.01)
                victims = run.part(kind)
            return bool(victims) and send(victims[0], signal.SIGKILL)
        elif kind in {"driver", "SIGTERM"}:
            send(driver, signal.SIGKILL if kind == "driver" else signal.SIGTERM)
        else:
            os.killpg(driver, signal.SIGINT)  # as a terminal does: the whole foreground group gets it
            if kind == "Ctrl-C twice":
                time.sleep(done.kill.choice)
                if run.driver.poll() is None:
                    os.killpg(driver, signal.SIGINT)
        return True

    def _await_death(self, done: Done, run: Run, study: Study, campaign: Campaign) -> None:
        """Await the driver's end after a kill of anything but a worker."""
        kill = done.kill
        before = time.monotonic()
        done.code = run.await_end(PATIENCE)
        done.seconds = time.monotonic() - before
        what = f"{kill.kind} at {kill.moment}, see {run.log}"
        if done.code is None:
            campaign.faults.append(f"the driver hangs: {what}")
            run.kill_all()
        done.within = bool(set(study.temporary_files()) - run.temporary_before)
        if kill.kind in {"SIGTERM", "Ctrl-C"} and "Traceback" in run.output():
            campaign.faults.append(f"a traceback: {what}")
        self._killed = done

    def _see_off(self, run: Run, ledger: Ledger, campaign: Campaign, after: Run | None = None) -> None:
        """Wait until nothing of a run is left, then look at the trials, in time before the next run's workers begin."""
        if run.seen_off:
            return
        run.seen_off = True
        start = time.monotonic()
        while run.trial_workers():
            if after is not None and after.trial_workers():
                campaign.faults.append(f"workers of two starts at once, see {run.log}")
                break
            if time.monotonic() > start + PATIENCE:
                break
            time.sleep(0.01)
        before = dict(ledger.states)
        ledger.look()
        left = run.await_nobody(PATIENCE)
        if self._killed is not None:
            done, self._killed = self._killed, None
            done.seconds += time.monotonic() - start
            begun = [state for key, state in ledger.states.items() if state != before[key] and not state.finished]  # in this run, that is
            unsaved = sum(len(state.known) - len(state.saved) for state in begun)
            if done.code == ASKED_TO_STOP and done.kill.kind in {"SIGTERM", "Ctrl-C"} and unsaved:
                campaign.faults.append(f"{unsaved} epochs were not saved: {done.kill.kind} at {done.kill.moment}, see {run.log}")
        if left:
            names = ", ".join(f"{process.pid} {process.command[:60]}" for process in left)
            campaign.faults.append(f"still there {PATIENCE:.0f} s after the end: {names}, see {run.log}")
            run.kill_all()

    def _finish(self, campaign: Campaign, study: Study, reference: Study, ledger: Ledger) -> None:
        """Compare a finished experiment with the undisturbed one, and run the command once more, which must change nothing."""
        files = study.files()
        again = study.start()
        self._runs.append(again)
        code = again.await_end(PATIENCE)
        if code != 0:
            campaign.faults.append(f"once more when all was done, the command ended with {code}, see {again.log}")
        self._see_off(again, ledger, campaign)
        campaign.faults += ledger.faults
        campaign.faults += [f"left behind: {name}" for name in sorted(files - reference.files())]
        campaign.faults += [f"left in the temporary folder: {name}" for name in sorted(study.in_temporary() - reference.in_temporary())]
        campaign.faults += [f"missing: {name}" for name in sorted(reference.files() - files)]
        if study.header() != reference.header():
            campaign.faults.append("the run header is another")
        whole, found = reference.records(), study.records()
        campaign.needed = campaign.compared = len(whole)
        campaign.trained = ledger.trained
        campaign.differences = sum(whole.get(key) != found.get(key) for key in whole.keys() | found.keys())
        if not campaign.faults and not campaign.differences:
            shutil.rmtree(study.folder)
        verdict = f"{campaign.trained} epochs trained, {campaign.needed} needed, {campaign.differences} differences"
        self._say(f"experiment {campaign.number}: {campaign.starts} starts, {verdict}")
        for fault in campaign.faults:
            self._say(f"  FAULT {fault}")


def described(done: Done, number: int) -> str:
    """A kill as a line."""
    kill = done.kill
    code = "" if kill.kind == "worker" else f", exit {done.code} after {done.seconds:.1f} s"
    within = ", inside a write" if done.within else ""
    return f"{number:4d} {kill.kind} at {kill.moment}{within}{code}{', next at once' if kill.at_once else ''}"
