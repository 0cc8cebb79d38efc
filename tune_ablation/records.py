"""The one contract that runner and analysis share: the epoch record, and how a trial's records become bytes and back.

A trial owns one ``records.jsonl``: a line an epoch, replaced whole, never appended to. Every line ends in a check value that
chains over the lines before it, so a torn, edited or bit-flipped file is told from a good one. Standard library only.
"""

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

SCHEMA = 1
"""Version of the record and of the run header; raised when a column changes its meaning or goes away."""

Stage = Literal["search", "confirm"]
STAGES: tuple[Stage, ...] = ("search", "confirm")

EVALUATED = ("train_eval", "val", "test")
"""The sets of images evaluated in eval mode after every epoch."""

HIGHER_IS_BETTER = {"loss": False, "acc1": True, "acc5": True, "f1": True}
"""What is measured on each of them: mean cross-entropy (nats); acc@1, acc@5 and macro-F1 in percent, 0 to 100."""

METRICS: dict[str, bool] = {
    "train_loss": False,
    "train_acc1": True,
    **{f"{split}_{measure}": higher for split in EVALUATED for measure, higher in HIGHER_IS_BETTER.items()},
}
"""Every metric column of a record, and whether higher is better."""

DERIVED_METRICS: dict[str, bool] = {
    "gap_acc1": False,
    "gap_loss": False,
    "epochs_to_target": False,
    "epochs_to_own_target": False,
    "best_epoch": False,
    "turning_epoch": False,
    "acc1_drop": False,
    "loss_rise": False,
}
"""Quantities that the analysis derives from a trial's records, and whether higher is better.

The gaps are ``train_eval_acc1 - test_acc1`` and ``test_loss - train_eval_loss``; the targets are 90 % of the baseline's mean
final test acc@1, and 90 % of the trial's own best. ``best_epoch`` is that of test acc@1 and ``acc1_drop`` the fall from there to the
last epoch; ``turning_epoch`` is that of the lowest test loss and ``loss_rise`` the rise from there. ``at`` says which value of a gap's
curve is meant; for the others there is only one.
"""

COSTS = ("params", "madd", "flops", "memory_bytes", "memory_rw_bytes")
"""Static figures of a cell, from the run header's profile."""

RECORDS_FILE = "records.jsonl"
FAILURE_FILE = "failure.json"
CHECKPOINT_FILE = "checkpoint.pt"
HEADER_FILE = "run.json"
TRIALS_FOLDER = "trials"


class RecordsError(Exception):
    """A records file is not what it should be; the message says in what and where."""


class NewerError(RecordsError):
    """The file is whole, and written in a schema of a later version."""


@dataclass(frozen=True)
class EpochRecord:
    """One row per trial and epoch.

    Attributes:
        experiment: the experiment's name.
        trial: the trial's key, e.g. ``resnet18_maxpool/search/003``.
        cell: the cell's key, e.g. ``resnet18_maxpool``.
        factors: level of every factor; one column each in the file.
        stage: ``search`` or ``confirm``.
        number: trial number within the cell's search, or the listed seed of a confirm trial.
        seed: what initialisation, data order, augmentation and dropout were drawn from.
        lr: the trial's peak learning rate (the schedule scales it).
        epoch: counted from 1.
        epochs: how many the trial was to train.
        metrics: a value for each name in ``METRICS``; None where training diverged.
        epoch_seconds: wall-clock time of the epoch, evaluation included.
        train_images_per_second: training images over training time, evaluation left out.
        diverged: whether training diverged in this epoch, which is then the trial's last.
        device: what it ran on, e.g. ``cpu`` or ``NVIDIA H100 80GB HBM3``.
        precision: ``fp32`` or ``bf16``.
    """

    experiment: str
    trial: str
    cell: str
    factors: Mapping[str, int | float | str]
    stage: Stage
    number: int
    seed: int
    lr: float
    epoch: int
    epochs: int
    metrics: Mapping[str, float | None]
    epoch_seconds: float
    train_images_per_second: float
    diverged: bool
    device: str
    precision: str
    schema: int = field(default=SCHEMA)

    @property
    def is_last(self) -> bool:
        """Whether the trial is finished with this epoch."""
        return self.diverged or self.epoch >= self.epochs

    def to_row(self) -> dict[str, Any]:
        """The record as one flat row, a column for each factor and each metric, in the file's order."""
        return {
            "schema": self.schema,
            "experiment": self.experiment,
            "trial": self.trial,
            "cell": self.cell,
            **self.factors,
            "stage": self.stage,
            "number": self.number,
            "seed": self.seed,
            "lr": self.lr,
            "epoch": self.epoch,
            "epochs": self.epochs,
            **{name: _finite(self.metrics[name]) for name in METRICS},
            "epoch_seconds": self.epoch_seconds,
            "train_images_per_second": self.train_images_per_second,
            "diverged": self.diverged,
            "device": self.device,
            "precision": self.precision,
        }


CHECK = "check"
"""The column that only the file has: the chained check value of its line."""

_END = f', "{CHECK}": "%08x"}}'.encode()

TIMES = ("epoch_seconds", "train_images_per_second")
"""Columns that two runs of the same trial may differ in."""

FIXED_COLUMNS = frozenset({column.name for column in fields(EpochRecord)} - {"factors", "metrics"} | set(METRICS) | {CHECK})
"""Every column but the factors': what a row holds besides these is a factor."""


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def dump_rows(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows of one trial, epoch 1 first, as the bytes of a ``records.jsonl``."""
    lines, check = [], 0
    for row in rows:
        body = json.dumps({key: value for key, value in row.items() if key != CHECK}, allow_nan=False)
        check = zlib.crc32(body.encode(), check)
        lines.append(f'{body[:-1]}, "{CHECK}": "{check:08x}"}}\n')
    return "".join(lines).encode()


def is_intact(content: bytes) -> bool:
    """Whether the bytes are lines that end as ``dump_rows`` ends them, each with the right check value: sooner known than parsed."""
    check, length = 0, len(_END % 0)
    lines = content.split(b"\n")
    for line in lines[:-1]:
        check = zlib.crc32(b"}", zlib.crc32(line[:-length], check))
        if line[-length:] != _END % check:
            return False
    return not lines[-1]


def load_rows(content: bytes, where: str) -> list[dict[str, Any]]:
    """The rows of a ``records.jsonl``, checked.

    Args:
        content: the file's bytes.
        where: the file's name, for messages.

    Raises:
        RecordsError: a line is torn, fails its check, is of another schema, or the epochs are not 1, 2, 3, ...
    """
    rows: list[dict[str, Any]] = []
    check = 0
    if not content.endswith(b"\n"):
        raise RecordsError(f"{where}: torn, its last line does not end")
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        place = f"{where}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RecordsError(f"{place}: not JSON ({error})") from None
        if not isinstance(row, dict) or "schema" not in row:
            raise RecordsError(f"{place}: not an epoch record")
        body, separator, _ = line.rpartition(f', "{CHECK}": '.encode())
        check = zlib.crc32(body + b"}", check)
        if not separator or row[CHECK] != f"{check:08x}":
            raise RecordsError(f"{place}: damaged (its check value does not match)")
        if row["schema"] != SCHEMA:
            newer = isinstance(row["schema"], int) and row["schema"] > SCHEMA
            raise (NewerError if newer else RecordsError)(f"{place}: schema {row['schema']!r}, this version reads {SCHEMA}")
        if row.get("epoch") != number:
            raise RecordsError(f"{place}: epoch {row.get('epoch')}, expected {number}")
        del row[CHECK]
        rows.append(row)
    return rows


def is_finished(rows: list[dict[str, Any]]) -> bool:
    """Whether these are the rows of a trial that ran to its last epoch or diverged."""
    return bool(rows) and (rows[-1]["diverged"] or rows[-1]["epoch"] >= rows[-1]["epochs"])
