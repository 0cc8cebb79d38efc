"""The epoch record and its file: what is written comes back, and what was damaged never does."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from tune_ablation.records import (
    CHECK,
    EVALUATED,
    FIXED_COLUMNS,
    HIGHER_IS_BETTER,
    METRICS,
    SCHEMA,
    TIMES,
    EpochRecord,
    RecordsError,
    dump_rows,
    is_finished,
    load_rows,
)


def record(epoch: int = 1, epochs: int = 3, **changes: Any) -> EpochRecord:
    whole: dict[str, Any] = {
        "experiment": "x",
        "trial": "resnet18_maxpool/search/003",
        "cell": "resnet18_maxpool",
        "factors": {"depth": 18, "head": "maxpool"},
        "stage": "search",
        "number": 3,
        "seed": 12345,
        "lr": 0.1 + 0.2,
        "epoch": epoch,
        "epochs": epochs,
        "metrics": {name: position + epoch / 3 for position, name in enumerate(METRICS)},
        "epoch_seconds": 1.5,
        "train_images_per_second": 1e4 / 3,
        "diverged": False,
        "device": "cpu",
        "precision": "fp32",
    }
    return EpochRecord(**whole | changes)


ROWS = [record(epoch).to_row() for epoch in (1, 2, 3)]
FILE = dump_rows(ROWS)


def test_rows_come_back_bit_for_bit() -> None:
    assert load_rows(FILE, "here") == ROWS
    assert dump_rows(load_rows(FILE, "here")) == FILE
    assert FILE.count(b"\n") == 3


def test_the_columns_are_those_promised() -> None:
    row = record().to_row()
    assert list(row)[:4] == ["schema", "experiment", "trial", "cell"]
    assert {f"{split}_{measure}" for split in EVALUATED for measure in HIGHER_IS_BETTER} <= set(row)
    assert {"train_loss", "train_acc1", *TIMES} <= set(row)
    assert set(row) - FIXED_COLUMNS == {"depth", "head"}
    assert FIXED_COLUMNS - set(row) == {CHECK}


def test_every_factor_is_a_column_of_its_own() -> None:
    row = record(factors={"depth": 18, "head": "origin", "width": 8, "augment": "none", "weight_decay": 1e-4}).to_row()
    assert set(row) - FIXED_COLUMNS == {"depth", "head", "width", "augment", "weight_decay"}
    assert load_rows(dump_rows([row]), "here") == [row]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_a_metric_that_is_no_number_is_null(bad: float | None) -> None:
    row = record(metrics=dict.fromkeys(METRICS, bad), diverged=True).to_row()
    content = dump_rows([row])
    assert b"NaN" not in content
    assert b"Infinity" not in content
    assert all(row[name] is None for name in METRICS)
    assert load_rows(content, "here") == [row]


def test_nan_cannot_be_written_at_all() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_rows([ROWS[0] | {"val_loss": math.nan}])


def test_a_record_cannot_leave_a_metric_out() -> None:
    with pytest.raises(KeyError):
        record(metrics={"train_loss": 1.0}).to_row()


def test_every_flipped_bit_and_every_changed_byte_is_noticed() -> None:
    """Every bit of the file, and as a stand-in for all other changes the bytes that JSON reads past or takes for structure."""
    content = dump_rows([{"schema": SCHEMA, "epoch": 1, "a": "é"}, {"schema": SCHEMA, "epoch": 2, "a": 1e-3}])
    for place, byte in enumerate(content):
        for other in {byte ^ (1 << bit) for bit in range(8)} | set(b' \t\r\n"0,}\\\0') - {byte}:
            with pytest.raises(RecordsError):
                load_rows(content[:place] + bytes([other]) + content[place + 1 :], "here")


def test_a_truncation_is_noticed_or_leaves_whole_epochs() -> None:
    ends = [place + 1 for place, byte in enumerate(FILE) if byte == ord("\n")]
    for length in range(len(FILE)):
        if length in ends:
            assert load_rows(FILE[:length], "here") == ROWS[: ends.index(length) + 1]
        else:
            with pytest.raises(RecordsError, match="here"):
                load_rows(FILE[:length], "here")


def test_lines_swapped_dropped_doubled_or_taken_from_another_file_are_noticed() -> None:
    one, two, three = FILE.splitlines(keepends=True)
    _, foreign, _ = dump_rows([record(epoch, lr=0.5).to_row() for epoch in (1, 2, 3)]).splitlines(keepends=True)
    for lines in ([two, one, three], [one, three, two], [one, three], [two, three], [one, two, two], [one, one], [one, foreign, three]):
        with pytest.raises(RecordsError, match="line"):
            load_rows(b"".join(lines), "here")


def test_an_edited_value_is_noticed_even_if_it_is_good_json() -> None:
    edited = FILE.replace(b'"val_acc1": ', b'"val_acc1": 9', 1)
    with pytest.raises(RecordsError, match="here, line 1: damaged"):
        load_rows(edited, "here")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "torn"),
        (b"\n", "line 1: not JSON"),
        (b"\xff\xfe\n", "line 1: not JSON"),
        (b"3\n", "line 1: not an epoch record"),
        (b"{}\n", "line 1: not an epoch record"),
        (b'{"schema": 1}\n', "line 1: damaged"),
        (dump_rows([{"schema": 1}]), "line 1: epoch None, expected 1"),
        (dump_rows([ROWS[1]]), "line 1: epoch 2, expected 1"),
        (dump_rows([ROWS[0], ROWS[2]]), "line 2: epoch 3, expected 2"),
        (FILE + b"\n", "line 4: not JSON"),
    ],
)
def test_what_is_no_records_file_is_refused_by_name_and_line(content: bytes, words: str) -> None:
    with pytest.raises(RecordsError, match=words) as caught:
        load_rows(content, "there")
    assert str(caught.value).startswith("there")


@pytest.mark.parametrize("schema", [0, SCHEMA + 1, None, "1"])
def test_another_schema_is_refused_with_both_versions(schema: object) -> None:
    content = dump_rows([ROWS[0] | {"schema": schema}])
    with pytest.raises(RecordsError, match=f"schema {schema!r}, this version reads {SCHEMA}"):
        load_rows(content, "here")


def test_a_line_is_plain_json_for_any_other_reader() -> None:
    assert [json.loads(line)["epoch"] for line in FILE.splitlines()] == [1, 2, 3]


def test_a_trial_is_finished_with_its_last_epoch_or_when_it_diverged() -> None:
    assert not is_finished([])
    assert not is_finished(ROWS[:2])
    assert is_finished(ROWS)
    assert is_finished([record(1, diverged=True).to_row()])
    assert [record(epoch).is_last for epoch in (1, 2, 3)] == [False, False, True]
    assert record(1, diverged=True).is_last
    assert dataclasses.replace(record(3)).schema == SCHEMA
