"""One trial against its folder: goes on from what is there, and leaves records, checkpoint and events behind as it trains."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from tune_ablation.errors import UserError
from tune_ablation.records import (
    CHECKPOINT_FILE,
    FAILURE_FILE,
    RECORDS_FILE,
    EpochRecord,
    RecordsError,
    dump_rows,
    is_finished,
    load_rows,
)
from tune_ablation.storage import Storage, StorageError
from tune_ablation.training import checkpoint
from tune_ablation.training.events import EVENTS_PREFIX, Events
from tune_ablation.training.loop import Training

CHECKPOINT_SHARE = 0.02
"""A checkpoint that would take more than this share of the training time so far, with all before it, waits; the first, which measures
what one costs, does not."""

logger = logging.getLogger(__name__)


class StoredTraining:
    """A ``Training`` whose state survives the process.

    The checkpoint holds weights, optimiser and records together in one file, replaced whole; ``records.jsonl`` is written from the
    same rows after every epoch. Whatever moment the process dies at, a new one on the same folder goes on from the checkpoint and
    rewrites the records from there, so the two never disagree for long and never at the end.

    Attributes:
        notes: what a person should know of how the trial was taken up; warned of here too, which nobody sees of a remote worker.

    Args:
        training: a fresh training of the trial.
        folder: the trial's folder.
        keep_checkpoint: keep the last checkpoint of a finished trial.
        graph: write the network's graph into the event file.
    """

    def __init__(self, training: Training, folder: Storage, *, keep_checkpoint: bool = False, graph: bool = False) -> None:
        self.training = training
        self.notes: list[str] = []
        self._folder = folder
        self._is_storage_gone = False
        self._keep_checkpoint = keep_checkpoint
        self._saved_epochs = 0
        self._save_seconds = 0.0  # the last one's
        self._all_saves_seconds = 0.0
        self._trained_seconds = 0.0
        self._resume()
        folder.delete(FAILURE_FILE)
        self._local = folder.folder or Path(tempfile.mkdtemp(prefix="tune-ablation-events-"))
        self._events: Events | None = Events(self._local, training.rows)
        if graph:
            self._events.add_graph(training.model, training.image_size)

    def step(self) -> EpochRecord:
        """Train one epoch and put everything it made where it survives.

        Raises:
            UserError: the storage cannot be written.
        """
        training = self.training
        record = training.run_epoch()
        self._trained_seconds += record.epoch_seconds
        try:
            if self._events is not None:
                self._events.add(training.rows[-1])
            if self._keep_checkpoint if training.finished else self._checkpoint_is_due():
                self.save()
            self._folder.write(RECORDS_FILE, dump_rows(training.rows))
        except StorageError:
            self._is_storage_gone = True  # so that closing does not try it all again
            raise
        if training.finished:
            self.close()
        return record

    def save(self) -> None:
        """Write the checkpoint now."""
        start = time.perf_counter()
        self._folder.write(CHECKPOINT_FILE, checkpoint.dump(self.training.state_dict()))
        self._save_seconds = time.perf_counter() - start
        self._all_saves_seconds += self._save_seconds
        self._saved_epochs = len(self.training.rows)

    def close(self) -> None:
        """Leave the folder in order: an unfinished trial gets a checkpoint, a finished one needs none."""
        if self._events is None:
            return
        events, self._events = self._events, None
        try:
            if not self._is_storage_gone:
                self._put_in_order(events)
        finally:
            if self._folder.folder is None:
                shutil.rmtree(self._local, ignore_errors=True)

    def _put_in_order(self, events: Events) -> None:
        training = self.training
        if training.finished:
            events.add_hparams(training.rows[-1], training.spec.factors)
            if not self._keep_checkpoint:
                self._folder.delete(CHECKPOINT_FILE)
        elif len(training.rows) > self._saved_epochs:
            self.save()
        if self._folder.folder is None:
            for name in self._folder.names():
                if name.startswith(EVENTS_PREFIX):  # of an earlier process; the new file holds its epochs too
                    self._folder.delete(name)
            for file in self._local.glob(f"{EVENTS_PREFIX}*"):
                self._folder.write(file.name, file.read_bytes())

    def _checkpoint_is_due(self) -> bool:
        return self._all_saves_seconds + self._save_seconds <= CHECKPOINT_SHARE * self._trained_seconds

    def _resume(self) -> None:
        self._folder.names(sweep=True)  # a worker killed in the middle of a write leaves a part of the file
        if rows := self._finished_rows():
            self.training.rows = rows  # nobody needs its weights any more
            return
        content = self._folder.read(CHECKPOINT_FILE)
        if content is None:
            return
        where = self._folder.where(CHECKPOINT_FILE)
        try:
            self.training.load_state_dict(checkpoint.load(content))
        except checkpoint.NewerError as error:
            raise UserError(f"{where}: {error}") from None
        except (checkpoint.CheckpointError, ValueError, KeyError, RuntimeError) as error:
            note = f"{where}: {error}; the trial begins again"
            logger.warning("%s", note)
            self.notes.append(note)
            if self.training.rows:
                raise UserError(f"{where}: half loaded ({error})") from error
            return
        self._saved_epochs = len(self.training.rows)
        # The process may have died between checkpoint and records, and after a last epoch nobody would write them again.
        self._folder.write(RECORDS_FILE, dump_rows(self.training.rows))

    def _finished_rows(self) -> list[dict[str, Any]]:
        """The records of the trial if it is finished already: a worker may die after its last epoch, before anybody heard of it."""
        content = self._folder.read(RECORDS_FILE)
        try:
            rows = load_rows(content, self._folder.where(RECORDS_FILE)) if content is not None else []
        except RecordsError:
            return []
        spec = self.training.spec
        expected = {"trial": spec.trial, "lr": spec.lr, "seed": spec.seed}
        return rows if is_finished(rows) and {name: rows[-1].get(name) for name in expected} == expected else []
