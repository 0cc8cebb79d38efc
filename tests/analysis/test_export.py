"""The report's files: complete, readable by others, safe whatever stands in a name."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis.cli import main
from tests.analysis.conftest import CONTENT, Folder
from tests.conftest import BUCKET
from tune_ablation.experiment import parse
from tune_ablation.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.analysis.conftest import MakeFolder, RayFolder

CLAIM = {"text": "origin is better", "metric": "test_acc1", "better": {"head": "origin"}, "than": {"head": "maxpool"}}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Path]:
    """A finished experiment and its report, for tests that only read it."""
    experiment = parse(CONTENT | {"claims": [CLAIM]}, "test")
    folder = Folder(tmp_path_factory.mktemp("results") / experiment.name, experiment)
    folder.fill()
    session = {"started": "2026-01-02T03:04:05+00:00", "host": "box", "commit": None, "versions": {"torch": "2.15.0"}}
    folder.header["sessions"] = [session | {"hardware": {"cpus": 2}}]
    folder.write_header()
    out = tmp_path_factory.mktemp("out") / "new" / "report"
    assert main([str(folder.path), "--out", str(out)]) == 0
    return folder, out


def test_everything_is_there_each_picture_in_both_kinds(exported: tuple[Folder, Path]) -> None:
    _, out = exported
    written = files(out)
    assert {"report.html", "report.md", "epochs.parquet", "trials.parquet", "cells.csv"} <= written
    pictures = {name for name in written if name.startswith("figures/")}
    assert len(pictures) > 10
    assert {name.removesuffix(".svg") for name in pictures if name.endswith(".svg")} == {
        name.removesuffix(".png") for name in pictures if name.endswith(".png")
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("figures/*.png"))
    assert all(path.read_text().startswith("<svg") for path in out.glob("figures/*.svg"))


def test_the_frames_read_back_are_the_analysis(exported: tuple[Folder, Path]) -> None:
    folder, out = exported
    found = folder.analysed()
    trials = pl.read_parquet(out / "trials.parquet")
    assert_frame_equal(trials.drop("experiment"), found.trials.drop("experiment"))
    assert set(trials["experiment"]) == {"heads"}
    epochs = pl.read_parquet(out / "epochs.parquet")
    assert epochs.height == found.run.epochs.height
    gap = epochs["train_eval_acc1"] - epochs["test_acc1"]
    assert epochs["gap_acc1"].to_list() == gap.to_list()
    cells = pl.read_csv(out / "cells.csv")
    for row in cells.iter_rows(named=True):
        summary = found.summary(row["cell"], "test_acc1_final")
        assert [row[f"test_acc1_final_{name}"] for name in ("n", "mean", "sd", "low", "high")] == pytest.approx(
            [summary[name] for name in ("n", "mean", "sd", "low", "high")]
        )


def test_every_picture_that_the_markdown_shows_is_there_and_its_tables_are_whole(exported: tuple[Folder, Path]) -> None:
    _, out = exported
    text = (out / "report.md").read_text()
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert len(shown) > 5
    assert all((out / name).exists() for name in shown)
    assert text.index("origin is better") < text.index("### Contrasts"), "the verdict comes first"
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_experiment_file_and_the_versions_stand_at_the_end(exported: tuple[Folder, Path]) -> None:
    html = (exported[1] / "report.html").read_text()
    for text in ("trials_per_cell = 2", "torch 2.15.0", "2026-01-02T03:04:05"):
        assert html.rindex(text) > html.index("Audit</h3>")


def test_json_and_files_go_together_and_a_second_report_replaces_the_first(
    full: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(full.path), "--json", "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["experiments"]
    first = files(tmp_path / "out")
    full.confirm("resnet18_maxpool", [90.0, 91.0, 95.0])
    assert main([str(full.path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"{tmp_path}/out/report.html and {len(first) - 1} files beside it" in said
    assert files(tmp_path / "out") == first
    assert "resnet18_maxpool has the highest mean, 92" in (tmp_path / "out" / "report.html").read_text()


def test_several_experiments_share_one_report(make_folder: MakeFolder, tmp_path: Path) -> None:
    folders = [make_folder(name="first"), make_folder(name="second.one")]
    for folder in folders:
        folder.fill()
    assert main([str(folder.path) for folder in folders] + ["--out", str(tmp_path / "out")]) == 0
    assert {"figures/1-first-cells.png", "figures/2-second-one-cells.png"} <= files(tmp_path / "out")
    assert set(pl.read_parquet(tmp_path / "out" / "trials.parquet")["experiment"]) == {"first", "second.one"}
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count('data-experiment="') == 2
    for name in ("report.html", "report.md"):
        assert "no test is made between them" in (tmp_path / "out" / name).read_text()


def test_what_is_in_a_name_is_never_markup(make_folder: MakeFolder, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    folder = make_folder(question=evil, claims=[CLAIM | {"text": f"{evil} | [x](javascript:1)"}])
    folder.fill()
    assert main([str(folder.path), "--out", str(tmp_path)]) == 0
    html = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in html
    assert "<img" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    text = (tmp_path / "report.md").read_text()
    code = text.index("```toml")
    assert "<script>" not in text[:code].replace("\\<", "")
    assert "[x](" not in text[:code]


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(
    full: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("mine")
    assert main([str(full.path), "--out", str(tmp_path / "taken")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "taken" in err
    assert err.count("\n") == 1
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_report_can_be_written_to_an_object_store(full: Folder, s3_options: str) -> None:
    address = f"s3://{BUCKET}/report?{s3_options}"
    assert main([str(full.path), "--out", address]) == 0
    html = open_storage(address).read("report.html")
    assert html is not None
    assert html.startswith(b"<!DOCTYPE html>")


def one_trial(folder: Folder) -> None:
    folder.add("resnet18_origin", "search", 0, {"val_acc1": [10.0]})


def all_diverged(folder: Folder) -> None:
    for cell in folder.experiment.cells():
        for number in range(folder.experiment.search.trials_per_cell):
            folder.add(cell.key, "search", number, {"val_acc1": [10.0]}, lr=0.1 * (number + 1), diverged=True)
        for seed in folder.experiment.confirm.seeds:
            folder.add(cell.key, "confirm", seed, {"test_acc1": [10.0]}, diverged=True)


def in_progress(folder: Folder) -> None:
    folder.fill()
    folder.file("resnet18_maxpool/confirm/seed-1").unlink()
    folder.add("resnet18_origin", "confirm", 2, {"test_acc1": [10.0, 20.0]})


def damaged(folder: Folder) -> None:
    folder.fill()
    folder.file("resnet18_maxpool/confirm/seed-1").write_bytes(b"\x00 not records")


STATES: dict[str, tuple[dict[str, Any], Callable[[Folder], None], str]] = {
    "one trial": ({}, one_trial, "10 of 10 trials are not finished"),
    "one cell": ({"grid": {"head": ["origin"]}}, Folder.fill, "Nothing is missing"),
    "one seed": ({"confirm": {"seeds": [0]}}, Folder.fill, "one seed has no standard deviation"),
    "all diverged": ({}, all_diverged, "Target: none yet"),
    "in progress": ({"claims": [CLAIM]}, in_progress, "2 of 10 trials are not finished"),
    "damaged": ({}, damaged, "1 damaged or foreign file left out"),
}


@pytest.mark.parametrize("state", STATES)
def test_whatever_there_is_makes_a_report_that_says_what_is_missing(state: str, make_folder: MakeFolder, tmp_path: Path) -> None:
    changes, fill, said = STATES[state]
    folder = make_folder(**changes)
    fill(folder)
    assert main([str(folder.path), "--out", str(tmp_path / "out")]) == 0
    for name in ("report.html", "report.md"):
        assert said in (tmp_path / "out" / name).read_text().replace("\\", "")


def test_a_foreign_folder_makes_a_report_too(ray: RayFolder, tmp_path: Path) -> None:
    for width, seed in itertools.product((1, 2), (0, 1)):
        ray.add({"width": width, "seed": seed}, [{"accuracy": width * epoch + seed} for epoch in (1, 2, 3)])
    command = [str(ray.path), "--cells", "width", "--seed-column", "seed", "--metric", "accuracy", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert {"figures/contrasts.png", "figures/cells.png", "figures/curves_accuracy.png"} <= files(tmp_path / "out")
    assert "Where it is from" in (tmp_path / "out" / "report.html").read_text()
