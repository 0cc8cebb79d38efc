"""The command line: import rule, pipes, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.cli import main

if TYPE_CHECKING:
    import pytest

    from tests.analysis.conftest import Folder, MakeFolder, RayFolder

ROOT = Path(__file__).parents[2]

IMPORT_RULE = """
import sys

def refuse(event, arguments):
    if event.startswith("pickle."):
        raise SystemExit(f"a pickle was opened: {event} {arguments}")

import analysis.cli
sys.addaudithook(refuse)
code = analysis.cli.main([sys.argv[1]])
loaded = {name.partition(".")[0] for name in sys.modules} & {"torch", "torchvision", "ray", "optuna"}
sys.exit(f"loaded: {loaded}" if loaded else code)
"""


def test_a_whole_summary_without_torch_ray_optuna_or_a_pickle(full: Folder) -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_RULE, full.path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("heads: Which head?")


def test_a_pipe_gets_80_columns_without_colour_and_may_close_early(full: Folder) -> None:
    command = [sys.executable, "-W", "error", "-m", "analysis", *[str(full.path)] * 2]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {tmp_path}: no results here")
    assert err.count("\n") == 1


def test_json_is_plain(full: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", str(full.path)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [one["experiment"] for one in content["experiments"]] == ["heads"]
    assert content["unreadable"] == []


def test_an_unreadable_experiment_beside_a_good_one_is_named(make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    good, empty = make_folder(name="good"), make_folder(name="empty")
    good.fill()
    assert main([str(good.path.parent)]) == 0
    flat = "".join(capsys.readouterr().out.split())
    assert f"Leftout:{empty.path}:norecordsinit" in flat


def test_another_metric_and_all_pairs(full: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "--metric", "test_loss_best", "--all-pairs", str(full.path)]) == 0
    (experiment,) = json.loads(capsys.readouterr().out)["experiments"]
    assert experiment["quantity"] == {"name": "test_loss_best", "higher_is_better": False}
    assert [row["quantity"] for row in experiment["contrasts"]] == ["test_loss_best"]


def test_an_unknown_metric_is_one_line(full: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--metric", "accuracy", str(full.path)]) == 2
    assert capsys.readouterr().err.startswith("error: --metric: given 'accuracy', allowed: train_loss_final, ")


def test_a_metric_of_a_ray_folder_is_not_asked_of_our_run_beside_it(
    full: Folder, ray: RayFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.add({"width": 1, "seed": 0}, [{"mean_loss": 2.0}])
    both = [str(full.path), str(ray.path), "--cells", "width", "--seed-column", "seed"]
    assert main([*both, "--metric", "mean_loss"]) == 0
    assert main([str(full.path), "--metric", "mean_loss"]) == 2
    assert "--metric: given 'mean_loss'" in capsys.readouterr().err
