"""``python -m tests.chaos.week``: a week in minutes. Thousands of stub trials under kills every few seconds must come to the exact plan."""

from __future__ import annotations

import argparse
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import processes, stub, tables
from tests.chaos.ledger import Ledger, without_times
from tests.chaos.processes import send
from tests.chaos.study import PATIENCE, Run, Study, kill_worker

EXPERIMENT = (
    'name = "week"'
    + stub.LEAST
    + """
[grid]
head = ["origin", "dropout"]
momentum = [0.5, 0.6, 0.7, 0.8, 0.9]
weight_decay = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]

[recipe]
epochs = 3
batch_size = 2

[search]
trials_per_cell = {search}

[confirm]
seeds = {seeds}
"""
)
CELLS = 50

DRIVER_EVERY = (150, 350)
WORKER_EVERY = (20, 60)
"""Finished trials between kills, drawn evenly from between the two: a few seconds' worth for a worker, more for the driver."""


@dataclass(frozen=True)
class Sample:
    """A driver at one moment.

    Attributes:
        finished: trials finished in all.
        memory: its resident memory, bytes.
        cpu: the processor time it has used, seconds.
    """

    finished: int
    memory: int
    cpu: float


@dataclass
class Week:
    """What came of it.

    Attributes:
        trials: of the plan.
        kills: by kind.
        starts: of the command.
        seconds: all in all.
        needed: epochs of the plan.
        trained: epochs trained.
        compared: records compared.
        differences: records that are not those of the plan worked out without Ray.
        faults: anything else that must not be.
        samples: the last driver, which lived through the second half of the trials.
    """

    trials: int
    kills: dict[str, int] = field(default_factory=lambda: {"driver": 0, "worker": 0})
    starts: int = 0
    seconds: float = 0.0
    needed: int = 0
    trained: int = 0
    compared: int = 0
    differences: int = 0
    faults: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def thirds(self) -> tuple[list[Sample], list[Sample]]:
        """The last driver's samples in the first and in the last third of the trials it ran."""
        first, last = self.samples[0].finished, self.samples[-1].finished
        third = (last - first) / 3
        return (
            [sample for sample in self.samples if sample.finished <= first + third],
            [sample for sample in self.samples if sample.finished >= last - third],
        )


def live_through(folder: Path, trials: int, seed: int, say: Callable[[str], None]) -> Week:
    """Run so many trials. The driver is killed again and again for the first half of them, trial workers all along.

    Args:
        folder: where to.
        trials: at least two a cell.
        seed: of the moments.
        say: told a line now and then.
    """
    draw = random.Random(seed)  # noqa: S311 - moments, not secrets
    per_cell = trials // CELLS
    confirm = per_cell * 2 // 5
    file = folder / "week.toml"
    file.write_text(EXPERIMENT.format(search=per_cell - confirm, seeds=list(range(confirm))), encoding="utf-8")
    study = Study(folder / "week", file, stub.PROGRAM, ("--parallel", "4"))
    ledger = study.ledger()
    week = Week(len(study.keys))
    begin = time.monotonic()
    code: int | None = None
    while code != 0:
        week.starts += 1
        kills, trained = sum(week.kills.values()), ledger.trained
        week.samples.clear()
        run = study.start()
        try:
            while (code := run.driver.poll()) is None:
                _spend_a_life(run, study, ledger, week, draw)
        finally:
            run.kill_all()
        ledger.look()
        say(f"{_finished(run)} of {week.trials} trials after {time.monotonic() - begin:.0f} s, exit {code}, kills {week.kills}")
        if code != 0 and (sum(week.kills.values()) == kills or ledger.trained == trained):
            week.faults.append(f"start {week.starts} ended with {code}, left alone or without any progress, see {run.log}")
            break
    week.seconds = time.monotonic() - begin
    week.trained = ledger.trained
    week.faults += [*ledger.faults, *(f"left behind: {name}" for name in study.debris())]
    _compare(study, week)
    return week


def _spend_a_life(run: Run, study: Study, ledger: Ledger, week: Week, draw: random.Random) -> None:
    """One driver's life, from its first trial on."""
    next_worker = next_driver = 0
    moved, before = time.monotonic(), 0
    while run.driver.poll() is None:
        time.sleep(0.1)
        now, finished = time.monotonic(), _finished(run)
        if finished > before:
            if not before:
                next_worker, next_driver = finished + draw.randint(*WORKER_EVERY), finished + draw.randint(*DRIVER_EVERY)
            moved, before = now, finished
        elif now - moved > PATIENCE:
            week.faults.append(f"it hangs at trial {finished}, see {run.log}")
            run.kill_all()
        if not finished or finished == week.trials:  # before its first trial, or summing up
            continue
        week.samples.append(Sample(finished, processes.memory(run.driver.pid), processes.cpu(run.driver.pid)))
        if finished >= next_driver and finished < week.trials / 2:
            send(run.driver.pid, signal.SIGKILL)
            run.await_end(PATIENCE)
            week.kills["driver"] += 1
        elif finished >= next_worker and kill_worker(run, study, ledger, draw.random()) is not None:
            week.kills["worker"] += 1
            next_worker = finished + draw.randint(*WORKER_EVERY)


def _finished(run: Run) -> int:
    """Trials finished, as the run itself says; 0 as long as it has finished none."""
    with run.log.open("rb") as file:
        file.seek(max(0, run.log.stat().st_size - 2000))
        found = re.findall(rb"^\[(\d+)/\d+\]", file.read(), re.MULTILINE)
    return int(found[-1]) if found else 0


def _compare(study: Study, week: Week) -> None:
    stub.SLEEP = 0.0
    whole = {(key, row["epoch"]): row for key, rows in stub.expected(study.experiment).items() for row in without_times(rows)}
    found = study.records()
    week.needed = week.compared = len(whole)
    week.differences = sum(whole.get(key) != found.get(key) for key in whole.keys() | found.keys())


HEADINGS: tables.Row = ("", "")


def rows(week: Week) -> list[tables.Row]:
    """The result as a table."""
    table: list[tables.Row] = [
        ("trials", f"{week.trials:,}"),
        ("time", f"{week.seconds / 60:.0f} min"),
        ("kills: driver, worker", f"{week.kills['driver']}, {week.kills['worker']}"),
        ("time from kill to kill", f"{week.seconds / max(1, sum(week.kills.values())):.1f} s"),
        ("starts of the command", str(week.starts)),
        ("epochs needed, trained", f"{week.needed:,}, {week.trained:,}"),
        ("records compared, differences", f"{week.compared:,}, {week.differences}"),
        ("other faults", str(len(week.faults))),
    ]
    if not week.samples:  # it came to nothing
        return table
    first, last = week.thirds()
    return [
        *table,
        ("trials of the last driver", f"{last[-1].finished - first[0].finished:,}"),
        ("its memory, first and last third", f"{_memory(first):.0f} MB, {_memory(last):.0f} MB"),
        ("its CPU time a trial, first and last third", f"{_cpu(first):.0f} ms, {_cpu(last):.0f} ms"),
    ]


def _memory(samples: list[Sample]) -> float:
    return sum(sample.memory for sample in samples) / len(samples) / 1e6


def _cpu(samples: list[Sample]) -> float:
    return 1e3 * (samples[-1].cpu - samples[0].cpu) / max(1, samples[-1].finished - samples[0].finished)


def main() -> int:
    """Run it; 1 if the end is not the exact plan."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.week", description=__doc__)
    parser.add_argument("--trials", type=int, default=5000, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the moments (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="put the table into this Markdown page")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where it stands (default: a temporary folder)")
    options = parser.parse_args()
    folder = options.work or Path(tempfile.mkdtemp(prefix="week-"))
    folder.mkdir(parents=True, exist_ok=True)
    week = live_through(folder, options.trials, options.seed, lambda line: print(line, flush=True))
    for fault in week.faults:
        print("FAULT", fault)
    for name, value in rows(week):
        print(f"{name:45s} {value}")
    if options.out is not None:
        command = f"`python -m tests.chaos.week --trials {options.trials} --seed {options.seed}`"
        tables.put(options.out, "week", "\n".join((command, "", tables.where_and_when(), "", tables.markdown(HEADINGS, rows(week)))))
    return 1 if week.faults or week.differences else 0


if __name__ == "__main__":
    sys.exit(main())
