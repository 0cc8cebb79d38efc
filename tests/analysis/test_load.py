"""Reading results folders: what is sound becomes rows, what is not is named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import polars as pl
import pytest

from analysis import epochs, load
from analysis.run import FIXED_TYPES, Failure, Run
from tune_ablation.errors import UserError
from tune_ablation.records import CHECK, FIXED_COLUMNS, dump_rows, is_intact

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.analysis.conftest import Folder, MakeFolder


def only(path: Path) -> Run:
    (run,) = load.load([str(path)]).runs
    return run


def test_the_types_name_every_fixed_column() -> None:
    assert set(FIXED_TYPES) == FIXED_COLUMNS - {CHECK}


def test_one_row_per_trial_and_epoch_in_the_plans_order(full: Folder) -> None:
    run = only(full.path)
    assert run.plan["trial"].to_list()[:3] == [f"resnet18_origin/{end}" for end in ("search/000", "search/001", "confirm/seed-0")]
    assert run.epochs["trial"].unique(maintain_order=True).to_list() == run.plan["trial"].to_list()
    assert run.epochs["epoch"].to_list() == [1, 2, 3, 4] * 10
    assert run.problems == ()
    assert run.epochs.filter(pl.col("trial") == "resnet18_maxpool/confirm/seed-2")["test_acc1"].to_list() == [
        10,
        20,
        30,
        37,
    ]


def test_factor_columns_come_from_any_grid(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"weight_decay": [0, 1e-4], "augment": ["none", "flip-crop"]})
    folder.fill()
    run = only(folder.path)
    assert not run.problems
    assert run.epochs.select("depth", "head", "weight_decay", "augment").dtypes == [
        pl.Int64,
        pl.String,
        pl.Float64,
        pl.String,
    ]


def test_a_storage_path_gives_every_experiment_once(make_folder: MakeFolder, tmp_path: Path) -> None:
    for name in ("first", "second"):
        make_folder(name=name).fill()
    (tmp_path / "results" / "notes.txt").write_text("not ours")
    results = load.load([str(tmp_path / "results"), str(tmp_path / "results" / "second")])
    assert [run.design.name for run in results.runs] == ["first", "second"]


def test_an_address_reads_as_the_folder_does(full: Folder) -> None:
    run = only(full.path)
    (by_address,) = load.load([f"file://{full.path}"]).runs
    assert by_address.epochs.equals(run.epochs)


def damage_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_binary(path: Path) -> None:
    path.write_bytes(b"\x80\x04\x95\xff\n" * 10)


def rewritten(path: Path, change: Callable[[dict[str, object]], object]) -> None:
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    for row in rows:
        change(row)
    path.write_bytes(dump_rows(rows))


def foreign_type(path: Path) -> None:
    rewritten(path, lambda row: row.update(test_loss="low"))


def foreign_columns(path: Path) -> None:
    rewritten(path, lambda row: row.pop("test_f1"))


def foreign_epochless(path: Path) -> None:
    rewritten(path, lambda row: row.pop("epoch"))


def foreign_level(path: Path) -> None:
    rewritten(path, lambda row: row.update(head="dropout"))


def foreign_experiment(path: Path) -> None:
    rewritten(path, lambda row: row.update(experiment="another"))


def foreign_schema(path: Path) -> None:
    rewritten(path, lambda row: row.update(schema=99))


def foreign_extra_column(path: Path) -> None:
    rewritten(path, lambda row: row.update(extra=1))


def foreign_column_in_place_of_another(path: Path) -> None:
    rewritten(path, lambda row: row.update(test_f2=row.pop("test_f1")))


def foreign_number_for_text(path: Path) -> None:
    rewritten(path, lambda row: row.update(device=5))


def foreign_list_for_text(path: Path) -> None:
    rewritten(path, lambda row: row.update(device=[]))


def foreign_text_for_text_and_extra_column(path: Path) -> None:
    rewritten(path, lambda row: row.update(device=5, extra=1))


def another_lr_in_between(path: Path) -> None:
    rewritten(path, lambda row: row.update(lr=0.1 * int(str(row["epoch"]))))


def goes_on_after_divergence(path: Path) -> None:
    rewritten(path, lambda row: row.update(diverged=True))


@pytest.mark.parametrize(
    "damage",
    [
        damage_bit,
        damage_torn,
        damage_empty,
        damage_binary,
        foreign_type,
        foreign_columns,
        foreign_epochless,
        foreign_level,
        foreign_experiment,
        foreign_schema,
        foreign_extra_column,
        foreign_column_in_place_of_another,
        foreign_number_for_text,
        foreign_list_for_text,
        foreign_text_for_text_and_extra_column,
        another_lr_in_between,
        goes_on_after_divergence,
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_read(full: Folder, damage: Callable[[Path], None]) -> None:
    trial = "resnet18_maxpool/confirm/seed-1"
    damage(full.file(trial))
    run = only(full.path)
    assert [(problem.file, problem.trial) for problem in run.problems] == [(f"trials/{trial}/records.jsonl", trial)]
    assert run.epochs["trial"].n_unique() == 9
    assert trial not in run.epochs["trial"]


def test_files_read_together_and_one_by_one_are_the_same_rows(full: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    full.add("resnet18_origin", "confirm", 2, {"test_loss": [1.5, float("nan")]}, diverged=True)
    full.file("resnet18_origin/confirm/seed-1").write_bytes(b"")
    together, fast = only(full.path), epochs._Parser._fast
    monkeypatch.setattr(epochs._Parser, "_fast", lambda parser, batch: None if batch else fast(parser, batch))
    alone = only(full.path)
    assert together.epochs.equals(alone.epochs)
    assert together.epochs["test_loss"].null_count() == 1
    assert together.problems == alone.problems
    assert len(alone.problems) == 1


def test_any_bit_that_flips_is_seen_before_anything_is_parsed(full: Folder) -> None:
    content = full.file("resnet18_origin/confirm/seed-0").read_bytes()
    assert is_intact(content)
    for place in range(len(content)):
        assert not is_intact(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert not is_intact(content[:-1])


def test_a_copied_trial_is_not_counted_twice(full: Folder) -> None:
    shutil.copy(full.file("resnet18_origin/confirm/seed-0"), full.file("resnet18_maxpool/confirm/seed-0"))
    shutil.copytree(full.file("resnet18_origin/confirm/seed-0").parent, full.path / "trials/resnet18_origin/confirm/seed-7")
    run = only(full.path)
    assert {problem.file for problem in run.problems} == {
        "trials/resnet18_maxpool/confirm/seed-0/records.jsonl",
        "trials/resnet18_origin/confirm/seed-7/records.jsonl",
    }
    assert run.epochs["trial"].n_unique() == 9


def test_other_files_beside_the_records_are_left_alone(full: Folder) -> None:
    (full.file("resnet18_origin/confirm/seed-0").parent / "checkpoint.pt").write_bytes(b"\x80garbage")
    (full.path / "ray").mkdir()
    (full.path / "ray" / "records.jsonl").write_text("not ours")
    assert only(full.path).problems == ()


def test_a_failure_is_read_and_a_broken_one_named(full: Folder) -> None:
    trial = "resnet18_origin/search/001"
    beside = full.file(trial).parent / "failure.json"
    beside.write_text(json.dumps({"schema": 1, "trial": trial, "reason": "out of memory", "attempts": 3}))
    (full.file("resnet18_origin/search/000").parent / "failure.json").write_text("{")
    run = only(full.path)
    assert run.failures == (Failure(trial, "out of memory", 3),)
    assert [problem.file for problem in run.problems] == ["trials/resnet18_origin/search/000/failure.json"]


def test_nothing_there_is_one_clear_error(tmp_path: Path, make_folder: MakeFolder) -> None:
    with pytest.raises(UserError, match="no results here"):
        load.load([str(tmp_path / "nowhere")])
    with pytest.raises(UserError, match="no trial has finished an epoch yet"):
        load.load([str(make_folder().path)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a run header"),
        ('{"schema": 2}', "not a run header of schema 1, but 2"),
        ('{"schema": 1}', "experiment: given null"),
        ('{"schema": 1, "experiment": {}, "data": {"classes": "many"}}', "data.classes"),
        ('{"schema": 1, "experiment": {}, "data": {"classes": 3}}', "name: missing"),
    ],
)
def test_a_broken_header_is_told_and_other_experiments_are_read(make_folder: MakeFolder, content: str, message: str) -> None:
    good, bad = make_folder(name="good"), make_folder(name="bad")
    good.fill()
    bad.fill()
    (bad.path / "run.json").write_text(content)
    results = load.load([str(good.path.parent)])
    assert [run.design.name for run in results.runs] == ["good"]
    assert len(results.unreadable) == 1
    assert message in results.unreadable[0]
    with pytest.raises(UserError, match=r"run\.json"):
        load.load([str(bad.path)])


def test_records_without_a_header_are_told(full: Folder) -> None:
    (full.path / "run.json").unlink()
    with pytest.raises(UserError, match=r"run\.json: missing"):
        load.load([str(full.path)])
