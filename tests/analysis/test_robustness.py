"""Nothing crashes the analysis: it gives what figures there are and says what is missing, or one line and exit code 2."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from analysis import load
from analysis.cli import main
from tune_ablation.records import dump_rows

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.analysis.conftest import Folder, MakeFolder

ORIGIN, MAXPOOL = "resnet18_origin", "resnet18_maxpool"
CLAIMS = [
    {"text": "an order", "metric": "test_acc1", "better": {"head": "origin"}, "than": {"head": "maxpool"}},
    {"text": "a turn", "kind": "turns", "metric": "test_loss", "cells": {"head": "origin"}},
    {"text": "a crossing", "kind": "crossover", "metric": "test_loss", "early": {"head": "origin"}, "late": {"head": "maxpool"}},
    {"text": "an agreement", "kind": "agree", "metrics": ["test_acc1", "test_f1"], "cells": [{"head": "origin"}, {"head": "maxpool"}]},
    {"text": "all", "kind": "all_above"},
]


def run(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is printed, once as text and once as JSON, both without failing."""
    assert main(["--json", str(path)]) == 0
    json.loads(capsys.readouterr().out)
    assert main([str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return " ".join(out.split())


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_one_trial(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(claims=CLAIMS)
    folder.add(ORIGIN, "search", 0, {"val_acc1": [1.0] * 4})
    assert "Missing: 9 of 10 trials not finished." in run(folder.path, capsys)


def test_one_epoch_of_one_confirm_trial(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(claims=CLAIMS)
    folder.add(ORIGIN, "confirm", 0, {"test_acc1": [1.0]})
    assert "Missing: 10 of 10 trials not finished." in run(folder.path, capsys)


@pytest.mark.parametrize("epochs", [1, 2])
def test_one_cell_with_one_seed_and_hardly_an_epoch(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str], epochs: int) -> None:
    folder = make_folder(
        grid={"head": ["origin"]}, confirm={"seeds": [7]}, recipe={"epochs": epochs, "lr": 0.1}, search={"trials_per_cell": 0}
    )
    folder.add(ORIGIN, "confirm", 7, {"test_acc1": [30.0] * epochs})
    text = run(folder.path, capsys)
    assert "30.00" in text
    assert "Nothing is missing" in text


def test_every_trial_diverged(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(claims=CLAIMS)
    for cell in (ORIGIN, MAXPOOL):
        for number in range(2):
            folder.add(cell, "search", number, {"val_acc1": [float("nan")]}, diverged=True)
        for seed in range(3):
            folder.add(cell, "confirm", seed, {"test_acc1": [float("nan")]}, diverged=True)
    text = run(folder.path, capsys)
    assert "every search trial diverged" in text
    assert "3 of 3 confirm trials diverged" in text


def test_a_run_in_progress(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(claims=CLAIMS)
    for number in range(2):
        folder.add(ORIGIN, "search", number, {"val_acc1": [1.0] * 4})
    for seed in range(2):
        folder.add(ORIGIN, "confirm", seed, {"test_acc1": [1.0 + seed] * (4 - seed)})
    text = run(folder.path, capsys)
    assert f"{ORIGIN}: confirm 1 begun, 1 not started" in text
    assert "1 cell with no trial yet" in text


def test_cells_that_are_all_alike(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(claims=CLAIMS)
    for cell in (ORIGIN, MAXPOOL):
        for seed in range(3):
            folder.add(cell, "confirm", seed, {"test_acc1": [10.0] * 4})
    assert "INCONCLUSIVE: an order" in run(folder.path, capsys)


def rewritten(content: bytes, change: Callable[[dict[str, Any]], object], draw: random.Random) -> bytes:
    """The content with one row changed and its check values right again."""
    rows = [json.loads(line) for line in content.splitlines()]
    change(draw.choice(rows))
    try:
        return dump_rows(rows)
    except (TypeError, ValueError):
        return b"{}"


def inserted(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + draw.randbytes(draw.randrange(1, 50)) + content[place:]


def flipped(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def shuffled(content: bytes, draw: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    draw.shuffle(lines)
    return b"".join(lines)


STRANGE: list[Any] = [None, -1, 10**30, 1e308, "x", [], {}, True, "\u2028"]
CORRUPTIONS: list[Callable[[bytes, random.Random], bytes]] = [
    lambda content, draw: content[: draw.randrange(len(content))],
    lambda _, draw: draw.randbytes(draw.randrange(2000)),
    lambda content, _: content + content.splitlines(keepends=True)[-1],
    lambda content, draw: rewritten(content, lambda row: row.pop(draw.choice(list(row))), draw),
    lambda content, draw: rewritten(content, lambda row: row.update({draw.choice(list(row)): draw.choice(STRANGE)}), draw),
    lambda content, draw: rewritten(content, lambda row: row.update(extra=1), draw),
    inserted,
    flipped,
    shuffled,
]


def test_200_corrupted_records_files(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder(claims=CLAIMS)
    folder.fill()
    files = sorted(folder.path.rglob("records.jsonl"))
    whole = {file: file.read_bytes() for file in files}
    draw = random.Random(0)  # noqa: S311 - what to break
    for number in range(200):
        file = draw.choice(files)
        broken = draw.choice(CORRUPTIONS)(whole[file], draw)
        file.write_bytes(broken)
        (run,) = load.load([str(folder.path)]).runs
        named = [problem.file for problem in run.problems] == [str(file.relative_to(folder.path))]
        assert named or tolerable(broken, whole[file]), broken
        if not named or number % 8 == 0:  # a file left out is left out like any other: a few of those will do
            assert main([str(folder.path)]) == 0
            out, err = capsys.readouterr()
            assert err == ""
            assert ("1 damaged or foreign file" in out) == named
        file.write_bytes(whole[file])


def tolerable(broken: bytes, whole: bytes) -> bool:
    """Whether a file that passes for sound differs from the sound one in values that only its writer can know, or not at all."""
    try:
        rows = [json.loads(line) for line in broken.splitlines()]
    except ValueError:
        return False
    return [row.keys() for row in rows] == [json.loads(line).keys() for line in whole.splitlines()]


@pytest.mark.parametrize("broken", [b"", b"null", b"{}", b"\xff\xfe", b'{"schema": 1, "experiment": 3}', b"[" * 100_000])
def test_a_corrupted_header_is_one_line(full: Folder, capsys: pytest.CaptureFixture[str], broken: bytes) -> None:
    (full.path / "run.json").write_bytes(broken)
    assert main([str(full.path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("key", ["cells", "sessions", "precision", "data"])
@pytest.mark.parametrize("value", [None, 3, "x", [], {}, [None], [{}]])
def test_a_header_with_parts_that_are_not_as_they_should_be(full: Folder, capsys: pytest.CaptureFixture[str], key: str, value: Any) -> None:
    full.header[key] = value
    full.write_header()
    code = main([str(full.path)])
    out, err = capsys.readouterr()
    assert (code, bool(out), err.count("\n")) in {(0, True, 0), (2, False, 1)}
