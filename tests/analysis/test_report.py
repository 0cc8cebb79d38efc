"""The summary that a person reads, and the same as JSON."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from analysis import report
from analysis.words import label
from tune_ablation.storage import open_storage

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

ORIGIN, MAXPOOL = "resnet18_origin", "resnet18_maxpool"


def printed(folder: Folder, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    report.summary(str(folder.path), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def words(text: str) -> list[str]:
    return text.split()


def line_of(text: str, start: str, which: int = 0) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)][which].split()


def test_a_finished_experiment(full: Folder) -> None:
    text = printed(full)
    flat = " ".join(text.split())
    assert "heads: Which head?" in flat
    assert "3 confirm seeds a cell (0, 1, 2)" in flat
    assert "10 classes, 500 test images" in flat
    assert "acc@1 10 %, acc@5 50 %" in flat
    assert "Target: 36.9 % test acc@1, 90 % of the baseline's mean final test acc@1 (head = origin; 3 trials)" in flat
    assert line_of(text, MAXPOOL) == [f"{MAXPOOL}*", *words("36.00 ± 1.00 1.00 ± 0.00 1.00 ± 0.00 >4 (1 of 3)")]
    assert line_of(text, ORIGIN, 1) == [f"{ORIGIN}*", *words("2/2 3/3 0 0.05 58.00 ± 1.00 0.000 ± 0.000")]
    assert f"! {ORIGIN}: still improving at the end" in flat
    assert "Nothing is missing: 10 trials finished, of as many planned, and every file is sound." in flat


def test_what_is_missing_is_told(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"depth": [18, 50], "head": ["origin", "maxpool"]})
    folder.add(ORIGIN, "search", 0, {"val_acc1": [1.0] * 4})
    folder.add(ORIGIN, "search", 1, {"val_acc1": [1.0] * 2})
    folder.add(MAXPOOL, "search", 0, {"val_acc1": [1.0] * 4}).write_bytes(b"torn")
    beside = folder.file(f"{MAXPOOL}/search/001").parent
    beside.mkdir(parents=True)
    failure = {"schema": 1, "trial": f"{MAXPOOL}/search/001", "reason": "[red]out of memory[/]", "attempts": 3}
    (beside / "failure.json").write_text(json.dumps(failure))
    text = printed(folder)
    flat = " ".join(text.split())
    assert "Missing: 19 of 20 trials not finished." in flat
    assert f"{ORIGIN}: search 1 begun; confirm 3 not started" in flat
    assert f"{MAXPOOL}: search 1 failed, 1 damaged; confirm 3 not started" in flat
    assert "2 cells with no trial yet: resnet50_origin, resnet50_maxpool" in flat
    assert f"{MAXPOOL}/search/001 after 3 attempts: [red]out of memory[/]" in flat
    assert f"Left out: 1 damaged or foreign file. trials/{MAXPOOL}/search/000/records.jsonl: torn, its last line does not end" in flat
    assert "Target: none yet" in flat
    assert "! unequal numbers of search trials finished: resnet18_maxpool 0, resnet50_origin 0, resnet50_maxpool 0; the others 1." in flat
    assert line_of(text, ORIGIN) == [f"{ORIGIN}*", "-", "-", "-", "-"]
    assert line_of(text, MAXPOOL, 1) == [f"{MAXPOOL}*", "0/2", "0/3", "0", "-", "-", "-"]


def test_divergence_is_told_never_hidden(make_folder: MakeFolder) -> None:
    folder = make_folder()
    for number in range(2):
        folder.add(ORIGIN, "search", number, {"val_acc1": [1.0]}, diverged=True)
    folder.add(ORIGIN, "confirm", 0, {"test_acc1": [40.0] * 4})
    folder.add(ORIGIN, "confirm", 1, {"test_acc1": [40.0]}, diverged=True)
    for seed in range(3):
        folder.add(MAXPOOL, "confirm", seed, {"test_acc1": [40.0]}, diverged=True)
    text = printed(folder)
    flat = " ".join(text.split())
    assert f"! {ORIGIN}: every search trial diverged; the lr is the lowest one tried." in flat
    assert f"! {ORIGIN}: 1 of 2 confirm trials diverged: its means are over the 1 that did not." in flat
    assert f"! {MAXPOOL}: 3 of 3 confirm trials diverged: its means are over the 0 that did not." in flat
    assert f"! {ORIGIN}: 1 of 3 confirm seeds not finished." in flat


def test_one_seed_is_shown_without_a_standard_deviation(make_folder: MakeFolder) -> None:
    folder = make_folder(confirm={"seeds": [0]})
    folder.fill()
    text = printed(folder)
    assert "1 confirm seed a cell (0): one seed has no standard deviation." in text
    assert line_of(text, ORIGIN)[1] == "40.00"
    assert "±" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut(make_folder: MakeFolder, width: int) -> None:
    grid = {
        "depth": [18, 50],
        "head": ["origin", "maxpool", "dropout"],
        "augment": ["random-resized-crop"],
        "weight_decay": [0.0, 0.00012345],
    }
    folder = make_folder(
        name="n" * 100,
        question="Why? " * 40,
        grid=grid,
        search={"trials_per_cell": 1},
        confirm={"seeds": list(range(40))},
    )
    folder.fill()
    for cell in folder.experiment.cells()[:2]:
        folder.add(cell.key, "search", 0, {"val_acc1": [1.0] * 4}, lr=1.2345e-05)
        for seed in range(40):
            spread = 100.0 * (seed % 2)
            curves = {name: [spread] * 4 for name in ("test_acc1", "test_acc5", "test_f1")}
            folder.add(cell.key, "confirm", seed, curves | {"test_loss": [spread] * 4})
    folder.file(f"{folder.experiment.cells()[-1].key}/confirm/seed-39").write_bytes(b"torn")
    text = printed(folder, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text
    assert "50.00 ± 50.64" in text
    squeezed = "".join(text.split())
    for piece in ("_weight_decay=", "0.00012345", "origin", "maxpool", "dropout", "_augment=", "1.23e-05"):
        assert piece in squeezed
    assert "trials/resnet50_dropout_augment=random-resized-crop_weight_decay=0.00012345/confirm/seed-39/records.jsonl" in squeezed


def test_a_storage_serves_as_well_as_a_path(full: Folder) -> None:
    console = Console(file=io.StringIO(), width=80)
    report.summary(open_storage(str(full.path)), console)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == printed(full)


def test_the_verdict_comes_first_in_a_sentence_a_claim(make_folder: MakeFolder) -> None:
    claim = {"text": "Origin is better.", "metric": "test_acc1", "better": {"head": "origin"}, "than": {"head": "maxpool"}}
    folder = make_folder(claims=[claim], confirm={"seeds": [0, 1, 2, 3, 4]})
    folder.confirm(ORIGIN, [40.0, 41.2, 42.1, 40.4, 41.0])
    folder.confirm(MAXPOOL, [35.0, 36.0, 37.0, 35.5, 36.2])
    paragraphs = [" ".join(part.split()) for part in printed(folder).split("\n\n")]
    assert paragraphs[1].startswith(f"SUPPORTED: Origin is better ({ORIGIN} - {MAXPOOL}, final test acc@1: 5 [4.")
    assert "Verdict: 1 supported, 0 refuted, 0 inconclusive." in paragraphs[1]
    flat = " ".join(paragraphs)
    order = [flat.index(part) for part in ("SUPPORTED", "Rests on", "macro-F1", "Contrasts in final test acc@1", "Audit:", "Missing")]
    assert order == sorted(order)
    assert "these verdicts rest on seed noise being near normal" in flat
    assert "worse" in flat


def test_an_experiment_without_claims_says_so(full: Folder) -> None:
    assert "makes no claim" in " ".join(printed(full).split())


def test_crossovers_and_effects_are_told(make_folder: MakeFolder) -> None:
    folder = make_folder(grid={"depth": [18, 50], "head": ["origin", "maxpool"]}, confirm={"seeds": [0, 1, 2, 3, 4, 5]})
    for place, cell in enumerate(folder.experiment.cells()):
        for seed in range(6):
            bit = 0.1 * (seed * (place + 1) % 5)
            folder.add(cell.key, "confirm", seed, {"test_acc1": [30 - 5 * place + bit, 30 + bit, 31 + bit, 30 + 5 * place + bit]})
    flat = " ".join(printed(folder).split())
    assert "Effects on final test acc@1" in flat
    assert "Crossover in test acc@1: resnet18_origin is ahead up to epoch 1, resnet18_maxpool from epoch 4 on" in flat


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("test_acc1_final", "final test acc@1"),
        ("gap_loss_mean", "mean gap in loss"),
        ("gap_acc1_largest", "largest gap in acc@1"),
        ("epochs_to_target", "epochs to target"),
        ("train_eval_f1_best", "best train eval macro-F1"),
    ],
)
def test_quantities_in_words(quantity: str, expected: str) -> None:
    assert label(quantity) == expected
