"""The command line as a user meets it: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tune_ablation import cli, experiment

TINY = ["--set", "model.width=4", "--set", "data.image_size=32", "--set", "data.classes=3", "--set", "data.train_per_class=8"]
TINY += ["--set", "data.val_per_class=4", "--set", "data.test_per_class=4", "--set", "recipe.batch_size=8"]


def command(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tune_ablation`` in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tune_ablation", *arguments],
        cwd=folder,
        env=os.environ | {"TUNE_ABLATION_CACHE": str(folder / "cache")} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command line gets."""
    assert cli.main(list(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.startswith("error: ")
    return printed.err


def test_more_gpus_than_there_are_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    more = str(torch.cuda.device_count() + 1)
    line = refusal(capsys, "run", "quickstart", "--gpus-per-trial", more, "--cache-dir", str(tmp_path))
    assert f"--gpus-per-trial: given {more}, this machine has {torch.cuda.device_count()}" in line


def test_profile_reproduces_the_reports_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["profile", "depth_x_head", "--json"]) == 0
    rows = {row["cell"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [cell.key for cell in experiment.read("depth_x_head").cells()]
    printed = {
        key: (
            row["params"],
            *(
                f"{row[name] / unit:.2f}"
                for name, unit in (("madd", 1e6), ("flops", 1e6), ("memory_bytes", 2**20), ("memory_rw_bytes", 2**20))
            ),
        )
        for key, row in rows.items()
    }
    assert printed["resnet18_origin"] == printed["resnet18_maxpool"] == (11_279_112, "297.16", "148.75", "2.10", "47.31")
    assert printed["resnet18_dropout"] == (12_590_856, "299.78", "150.06", "2.11", "52.34")


def test_profile_fits_80_columns(tmp_path: Path) -> None:
    printed = command("profile", "depth_x_head", folder=tmp_path)
    assert printed.returncode == 0
    assert "297.16 M" in printed.stdout
    assert "…" not in printed.stdout
    assert max(map(len, printed.stdout.splitlines())) <= 80


def test_plan_counts_cells_trials_and_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["plan", "quickstart", "--json", "--no-measure", "--cache-dir", str(tmp_path), *TINY]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["cells"]) == 6
    assert len(content["trials"]) == len(set(content["trials"])) == 36
    epochs = experiment.read("quickstart").recipe.epochs
    assert {row["images_trained"] for row in content["cells"]} == {6 * epochs * 24}
    assert {row["images_evaluated"] for row in content["cells"]} == {6 * epochs * (12 + 12 + 12)}


def test_plan_estimates_the_time_from_a_measured_speed(tmp_path: Path) -> None:
    printed = command("plan", "quickstart", *TINY, folder=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert "About " in printed.stdout
    assert "resnet50_dropout" in printed.stdout


def test_graph_writes_one_event_file_a_cell(tmp_path: Path) -> None:
    printed = command("graph", "quickstart", folder=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert printed.stderr == ""
    assert len(list((tmp_path / "results" / "quickstart" / "graphs").glob("resnet*/events*"))) == 6


def test_train_runs_one_cell_without_ray_and_writes_the_same_records(tmp_path: Path) -> None:
    printed = command("train", "-a", "resnet18_maxpool", "--epochs", "2", "--lr", "0.01", *TINY, folder=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert "epoch 2/2" in printed.stdout
    records = tmp_path / "results" / "train-resnet18_maxpool" / "trials" / "resnet18_maxpool" / "confirm" / "seed-0" / "records.jsonl"
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[0]["lr"] == 0.01
    analysed = subprocess.run(
        [sys.executable, "-m", "analysis", str(tmp_path / "results" / "train-resnet18_maxpool")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert analysed.returncode == 0, analysed.stderr
    assert "resnet18_maxpool" in analysed.stdout


def test_train_again_with_another_learning_rate_is_refused(tmp_path: Path) -> None:
    arguments = ("train", "-a", "resnet18", "--epochs", "1", *TINY)
    assert command(*arguments, "--lr", "0.01", folder=tmp_path).returncode == 0
    again = command(*arguments, "--lr", "0.02", folder=tmp_path)
    assert again.returncode == 2
    assert "recipe.lr: was 0.01, now 0.02" in again.stderr


def test_data_prepare_decodes_real_images_ahead(tiny_imagenet_part: Path, tmp_path: Path) -> None:
    printed = command("data", "prepare", "depth_x_head_small", "--data", str(tiny_imagenet_part), folder=tmp_path)
    assert printed.returncode == 0, printed.stderr
    data = experiment.read("depth_x_head_small").data
    assert data.classes is not None
    assert data.train_per_class is not None
    assert f"{data.classes * data.train_per_class:,} train" in printed.stdout


def test_every_shipped_experiment_is_found_from_any_folder(tmp_path: Path) -> None:
    printed = command("plan", "quickstart", "--no-measure", folder=tmp_path)
    assert printed.returncode == 0, printed.stderr


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    printed = capsys.readouterr().out
    for name in ("run", "plan", "profile", "train", "graph", "data", "quickstart"):
        assert name in printed
