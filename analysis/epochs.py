"""From the records files of an experiment's trials to one frame of epochs: each line's check, and each value held against the plan.

Sound files are parsed many at once by polars. What is not sound in every respect is read again by itself, which also says what is wrong.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from analysis.files import Batch, parse_files, repeated
from analysis.run import FIXED_TYPES, Problem, Schema
from tune_ablation.records import CHECK, METRICS, SCHEMA, RecordsError, is_intact, load_rows
from tune_ablation.storage import Storage


def read_epochs(storage: Storage, files: Mapping[str, str], planned: pl.DataFrame) -> tuple[pl.DataFrame, list[Problem]]:
    """Read the records of an experiment's trials.

    Args:
        storage: the results folder.
        files: name of every records file, and the key of the trial that its place makes it.
        planned: one row per planned trial: ``trial`` and all else that the plan says of each of its epochs.

    Returns:
        One row per trial and epoch, in the plan's order; the files left out.
    """
    schema = FIXED_TYPES | {name: type(planned.schema[name]) for name in planned.columns if name not in FIXED_TYPES}
    place_of = {trial: place for place, trial in enumerate(planned["trial"])}
    names = sorted((name for name, key in files.items() if key in place_of), key=lambda name: place_of[files[name]])
    parser = _Parser(planned, schema, [place_of[files[name]] for name in names])
    epochs, unread = parse_files(storage, names, parser.parse)
    wrong = {names[file]: what for file, what in (unread | parser.wrong).items()}
    foreign = dict.fromkeys(set(files) - set(names), "foreign: its folder is no trial of this experiment's plan")
    problems = [Problem(name, what, files[name] if name in wrong else None) for name, what in sorted((wrong | foreign).items())]
    return epochs, problems


class _Parser:
    """Turns records files into frames, those that are not in order into what is wrong with them, by their number."""

    def __init__(self, planned: pl.DataFrame, schema: Schema, places: Sequence[int]) -> None:
        self.wrong: dict[int, str] = {}
        self._planned = planned
        self._schema = schema
        self._places = places

    def parse(self, batch: Batch) -> pl.DataFrame:
        """Parse files, given by number and content."""
        frame = self._fast(batch)
        if frame is not None:
            return frame
        if len(batch) > 1:
            half = len(batch) // 2
            return pl.concat([self.parse(batch[:half]), self.parse(batch[half:])])
        ((file, content),) = batch
        try:
            return _typed(self._rows(file, content), self._schema)
        except RecordsError as error:
            self.wrong[file] = str(error)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            self.wrong[file] = "foreign: a value is not of its column's type"
        return pl.DataFrame(schema=self._schema)

    def _fast(self, batch: Batch) -> pl.DataFrame | None:
        """All files as one text; None where anything about any of them is not as the runner writes it."""
        if not all(is_intact(content) for _, content in batch):
            return None
        lines = [content.count(b"\n") for _, content in batch]
        if not batch:
            return pl.DataFrame(schema=self._schema)
        if not all(lines):
            return None
        text = b"".join(content for _, content in batch)
        try:
            frame = pl.read_ndjson(text, schema=self._schema)
        except pl.exceptions.PolarsError:
            return None
        file = repeated("file", [file for file, _ in batch], lines)
        if frame.height != len(file) or not _has_all_columns(frame, text):
            return None
        told = self._planned[repeated("place", [self._places[file] for file, _ in batch], lines)]
        in_file = pl.col("file") == pl.col("file").shift(1)
        follows = (
            (pl.col("epoch") == pl.col("epoch").shift(1) + 1)
            & (pl.col("lr") == pl.col("lr").shift(1))
            & (pl.col("seed") == pl.col("seed").shift(1))
            & ~pl.col("diverged").shift(1)
            & (pl.col("epoch") <= pl.col("epochs"))
        )
        in_order = pl.when(in_file.fill_null(value=False)).then(follows).otherwise(pl.col("epoch") == 1)
        as_planned = [(frame[name] == told[name]).all() for name in told.columns]
        sound = frame.with_columns(file).select(in_order.all() & (pl.col("schema") == SCHEMA).all()).item()
        return frame if sound and all(as_planned) else None

    def _rows(self, file: int, content: bytes) -> list[dict[str, Any]]:
        """A trial's rows, checked against what the plan says of it.

        Raises:
            RecordsError: damaged, of another trial than its place says, or with other columns than a record has.
        """
        try:
            rows = load_rows(content, "")
        except RecordsError as error:
            raise RecordsError(str(error).lstrip(":, ")) from None
        except (KeyError, TypeError, RecursionError) as error:
            raise RecordsError(f"foreign: not the epoch records of this version ({error!r})") from None
        _check(rows, self._planned.row(self._places[file], named=True), self._schema)
        return rows


def _has_all_columns(frame: pl.DataFrame, text: bytes) -> bool:
    """Whether every line of the text has every column of the frame, and no other.

    Where a column lacks, its value is null without a null in the text; where none lacks, any other would bring more quotes than there
    should be. polars takes a number for text where text is wanted: such a value is one that is JSON without quotes.
    """
    nulls = dict(zip(frame.columns, frame.null_count().row(0), strict=True))
    if any(count for name, count in nulls.items() if name not in METRICS) or (
        any(nulls.values()) and sum(nulls.values()) != text.count(b"null")
    ):
        return False
    of_text = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    quotes = 2 * (len({*frame.columns, CHECK}) + len({*of_text, CHECK}))
    return text.count(b'"') == frame.height * quotes and not any(_is_json(value) for name in of_text for value in frame[name].unique())


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def _check(rows: list[dict[str, Any]], expected: Mapping[str, Any], schema: Schema) -> None:
    """Refuse rows that are not one trial's, or not the planned one's."""
    for line, row in enumerate(rows, 1):
        if row.keys() != schema.keys():
            odd = ", ".join(sorted(row.keys() ^ schema.keys()))
            raise RecordsError(f"line {line}: foreign: columns missing or unknown: {odd}")
        for column, value in expected.items():
            if row[column] != value:
                raise RecordsError(f"line {line}: foreign: {column} is {row[column]!r}, its place says {value!r}")
        for column in ("lr", "seed"):
            if row[column] != rows[0][column]:
                raise RecordsError(f"line {line}: {column} is {row[column]!r}, {rows[0][column]!r} on line 1")
        if line < len(rows) and (row["diverged"] or line >= row["epochs"]):
            raise RecordsError(f"line {line + 1}: comes after the trial's last epoch")


def _typed(rows: list[dict[str, Any]], schema: Schema) -> pl.DataFrame:
    return pl.DataFrame([pl.Series(name, [row[name] for row in rows], dtype, strict=True) for name, dtype in schema.items()])
