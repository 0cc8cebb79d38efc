"""What a person sees while an experiment runs: one line a cell where there is a terminal, one line a finished trial elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tune_ablation import plan
from tune_ablation.experiment import Cell, Experiment
from tune_ablation.runner.searcher import PlanSearcher


class Board:
    """Where every cell stands, drawn from the searcher's results and from the epochs reported so far.

    Args:
        experiment: the experiment that runs.
        searcher: knows what is finished, running and failed.
        console: where to draw.
    """

    def __init__(self, experiment: Experiment, searcher: PlanSearcher, console: Console) -> None:
        self._experiment = experiment
        self._searcher = searcher
        self._console = console
        self._cells = experiment.cells()
        self._total = len(plan.all_keys(experiment))
        self._epochs_now: dict[str, int] = {}  # epochs done by the running trials
        self._open = {cell.key: self._keys(cell) - searcher.results.keys() for cell in self._cells}
        self._trained: dict[str, tuple[int, float]] = {}  # by cell: epochs, and the seconds they took
        self._started = time.monotonic()
        self._training_since: float | None = None  # starting Ray and its workers says nothing of how long the rest will take
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, line: str) -> None:
        """A line of its own, above the live view where there is one."""
        self._console.print(Text(line), soft_wrap=True)

    def on_epoch(self, trial: plan.Trial, result: Mapping[str, Any]) -> None:
        """An epoch of a running trial is done."""
        for note in result.get("notes", ()):
            self.say(note)
        if self._training_since is None:
            self._training_since = time.monotonic() - result["epoch_seconds"]
        self._epochs_now[trial.key] = result["epoch"]
        epochs, seconds = self._trained.get(trial.cell.key, (0, 0.0))
        self._trained[trial.cell.key] = (epochs + 1, seconds + result["epoch_seconds"])

    def on_end(self, trial: plan.Trial, result: Mapping[str, Any]) -> None:
        """A trial is finished."""
        self._epochs_now.pop(trial.key, None)
        self._open[trial.cell.key].discard(trial.key)
        if self._console.is_terminal:
            return
        if result["diverged"]:
            outcome = "diverged"
        elif trial.stage == "search":
            outcome = f"{self._experiment.search.objective} {result['objective']:.4g}"
        else:
            outcome = f"test_acc1 {result['test_acc1']:.4g}"
        done = len(self._searcher.results)
        left = self._time_left()
        self.say(f"[{done}/{self._total}] {trial.key}: lr {trial.lr:.3g}, {outcome}" + (f", {_duration(left)} left" if left else ""))

    def _time_left(self) -> float | None:
        """Seconds until the end, from the mean epoch time of each cell and how many trials ran at once so far; None so far unknown."""
        if self._training_since is None:
            return None
        means = {cell: seconds / epochs for cell, (epochs, seconds) in self._trained.items()}
        typical = sum(means.values()) / len(means)
        begun: dict[str, int] = defaultdict(int)
        for trial in self._searcher.running.values():
            begun[trial.cell.key] += self._epochs_now.get(trial.key, 0)
        left = sum(
            (len(self._open[cell.key]) * cell.recipe.epochs - begun[cell.key]) * means.get(cell.key, typical) for cell in self._cells
        )
        elapsed = time.monotonic() - self._training_since
        return left * elapsed / sum(seconds for _, seconds in self._trained.values())

    def _keys(self, cell: Cell) -> set[str]:
        return {*plan.search_keys(self._experiment, cell), *plan.confirm_keys(self._experiment, cell)}

    def render(self) -> Group:
        """The live view as it is now."""
        experiment, searcher = self._experiment, self._searcher
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("cell", no_wrap=True)
        for heading in ("search", "confirm", "epoch", "diverged", f"best {experiment.search.objective}", "lr"):
            table.add_column(heading, justify="right")
        for cell in self._cells:
            search_keys, confirm_keys = plan.search_keys(experiment, cell), plan.confirm_keys(experiment, cell)
            found = [searcher.results[key] for key in search_keys if key in searcher.results]
            confirmed = [searcher.results[key] for key in confirm_keys if key in searcher.results]
            running = [trial for trial in searcher.running.values() if trial.cell.key == cell.key]
            failed = any(trial.cell.key == cell.key for trial in searcher.failed.values())
            best = plan.winner(experiment.search, found) if found else None
            table.add_row(
                cell.key,
                f"{len(found)}/{len(search_keys)}",
                f"{len(confirmed)}/{len(confirm_keys)}",
                "failed" if failed else " ".join(f"{self._epochs_now.get(t.key, 0)}/{cell.recipe.epochs}" for t in running),
                str(sum(result.value is None for result in (*found, *confirmed)) or ""),
                f"{best.value:.4g}" if best and best.value is not None else "",
                f"{best.lr:.3g}" if best else "",
            )
        done, left = len(searcher.results), self._time_left()
        summary = Table.grid(padding=(0, 2, 0, 0))
        summary.add_row(
            ProgressBar(total=self._total, completed=done, width=30),
            f"{done}/{self._total} trials",
            f"{_duration(time.monotonic() - self._started)} elapsed",
            f"{_duration(left)} left" if left is not None else "",
        )
        return Group(table, summary)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
