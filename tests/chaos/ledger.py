"""What is on disk at a moment at which nothing runs, and what may become of it: no saved epoch is ever trained again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_ablation.records import CHECKPOINT_FILE, RECORDS_FILE, TIMES, RecordsError, is_finished, load_rows
from tune_ablation.training import checkpoint

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class TrialState:
    """One trial's folder.

    Attributes:
        rows: its epoch records, times included: an epoch that is trained again takes another time.
        saved: the epoch records inside its checkpoint.
        written: inode and time of change of its records file; a file that is written anew gets others.
    """

    rows: Rows
    saved: Rows
    written: tuple[int, int] | None

    @property
    def finished(self) -> bool:
        """Whether it ran to its end."""
        return is_finished(self.rows)

    @property
    def known(self) -> Rows:
        """Every epoch that left a trace: the checkpoint is written before the record of the same epoch."""
        return max(self.rows, self.saved, key=len)


def without_times(rows: Rows) -> Rows:
    """Rows as two runs of the same trial must have them alike."""
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def look(folder: Path) -> TrialState:
    """Read a trial's folder.

    Raises:
        RecordsError: its records are damaged.
        CheckpointError: its checkpoint is.
    """
    rows: Rows = []
    saved: Rows = []
    path = folder / RECORDS_FILE
    written = _written(path)
    if written is not None:
        rows = load_rows(path.read_bytes(), str(path))
    if (folder / CHECKPOINT_FILE).exists():
        saved = checkpoint.load((folder / CHECKPOINT_FILE).read_bytes())["rows"]
    return TrialState(rows, saved, written)


def _written(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


class Ledger:
    """One experiment from its first start to its end, as the moments in between show it.

    Attributes:
        trained: epochs that were trained to their record or checkpoint, each as often as that happened.
        faults: what must not be.

    Args:
        trials: the folder that holds the trials' folders.
        keys: the trials of the plan.
    """

    def __init__(self, trials: Path, keys: tuple[str, ...]) -> None:
        self.faults: list[str] = []
        self._trials = trials
        self._last = {key: TrialState([], [], None) for key in keys}
        self._files: dict[str, tuple[tuple[int, int] | None, ...]] = {}
        self._seen: dict[str, set[tuple[int, float]]] = defaultdict(set)

    @property
    def trained(self) -> int:
        """See the class."""
        return sum(map(len, self._seen.values()))

    @property
    def states(self) -> dict[str, TrialState]:
        """The last look at every trial."""
        return self._last

    def look(self) -> None:
        """Look at every trial while none can change."""
        for key, before in self._last.items():
            files = tuple(_written(self._trials / key / name) for name in (RECORDS_FILE, CHECKPOINT_FILE))
            if files == self._files.get(key):
                continue
            self._files[key] = files
            try:
                now = look(self._trials / key)
            except (RecordsError, checkpoint.CheckpointError) as error:
                self.faults.append(f"{key}: torn: {error}")
                continue
            known_before, known_now = before.known, now.known
            if before.finished and now.written != before.written:
                self.faults.append(f"{key}: was finished, and its records were written again")
            kept = len(before.rows) if before.finished else len(before.saved)
            if known_now[:kept] != known_before[:kept]:
                self.faults.append(f"{key}: {kept} epochs were saved, and of them some were trained again")
            self._seen[key] |= {(row["epoch"], row["epoch_seconds"]) for row in (*now.rows, *now.saved)}
            self._last[key] = now
