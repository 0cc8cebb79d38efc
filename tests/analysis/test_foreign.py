"""Results that are not ours: Ray Tune folders, and logs of pytorch/examples' imagenet/main.py."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from analysis import foreign, load
from analysis.analyse import Analysis, analyse
from analysis.cli import main
from analysis.foreign import Columns
from analysis.run import Run
from tests.analysis.conftest import RayFolder
from tests.conftest import BUCKET
from tune_ablation.errors import UserError
from tune_ablation.storage import open_storage

EXAMPLE = Path(__file__).parent / "ray_examples" / "tune_basic_example"
"""What Ray's own tune_basic_example.py left behind, without its pickles."""


def read(path: Path, **columns: Any) -> Run:
    (run,) = load.load([str(path)], Columns(**columns)).runs
    return run


def analysed(path: Path, **columns: Any) -> Analysis:
    return analyse(read(path, **columns))


def accuracies(*values: float) -> list[dict[str, Any]]:
    return [{"accuracy": value, "loss": 1 - value / 100} for value in values]


def test_rays_own_example_is_read_as_python_reads_it() -> None:
    run = read(EXAMPLE, metrics=("mean_loss",), cells=("activation",), lr="width")
    assert list(run.design.cells) == ["activation=relu", "activation=tanh"]
    assert run.design.metrics == {"mean_loss": False}
    for folder in EXAMPLE.iterdir():
        rows = [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]
        config = json.loads((folder / "params.json").read_text())
        trial = run.epochs.filter(pl.col("trial") == folder.name)
        assert trial["mean_loss"].to_list() == [row["mean_loss"] for row in rows]
        assert trial["epoch"].to_list() == [1, 2, 3, 4, 5]
        assert set(trial["lr"]) == {config["width"]}
        assert set(trial["cell"]) == {f"activation={config['activation']}"}
    assert run.problems == ()


def test_rays_own_example_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(EXAMPLE), "--metric", "mean_loss", "--cells", "activation"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert "taken for a search" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    assert main([*given, "--json"]) == 0
    (experiment,) = json.loads(capsys.readouterr().out)["experiments"]
    assert [cell["search"]["finished"] for cell in experiment["cells"]] == [5, 5]


@pytest.mark.slow
@pytest.mark.parametrize("example", ["tune_basic_example", "async_hyperband_example", "logging_example"])
def test_rays_examples_as_they_run_today(example: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-m", f"ray.tune.examples.{example}", "--smoke-test"]
    environment = os.environ | {"HOME": str(tmp_path), "RAY_ADDRESS": "local"}  # never a cluster that runs, or once ran, on this machine
    subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=True)
    (folder,) = (tmp_path / "ray_results").iterdir()
    run = read(folder, metrics=("mean_loss",))
    for trial in folder.glob("*/"):
        lines = (trial / "result.json").read_text().splitlines()
        assert run.epochs.filter(pl.col("trial") == trial.name)["mean_loss"].to_list() == [json.loads(line)["mean_loss"] for line in lines]
    assert run.problems == ()


def test_cells_repeated_by_seed_are_contrasted(ray: RayFolder) -> None:
    draw = np.random.default_rng(0)
    finals: dict[str, list[float]] = {"origin": [], "maxpool": []}
    for seed in range(5):
        for head, values in finals.items():
            values.append(float(draw.normal(30 if head == "origin" else 33, 1)))
            ray.add({"depth": 18, "head": head, "seed": seed, "lr": 0.1}, accuracies(10, values[-1]))
    given = {"metrics": ("accuracy", "loss"), "cells": ("depth", "head"), "seed": "seed", "baseline": ("head=origin",)}
    (row,) = analysed(ray.path, **given).contrasts.to_dicts()
    assert (row["cell"], row["against"], row["n"]) == ("resnet18_maxpool", "resnet18_origin", 5)
    assert row["t_p"] == pytest.approx(stats.ttest_rel(finals["maxpool"], finals["origin"]).pvalue)


def test_without_a_seed_trials_are_a_search(ray: RayFolder) -> None:
    for lr, best in ((0.1, 30.0), (0.2, 40.0), (0.4, math.nan)):
        ray.add({"lr": lr}, accuracies(10, best))
    found = analysed(ray.path, metrics=("accuracy",))
    (cell,) = found.cells.to_dicts()
    assert (cell["cell"], cell["lr"], cell["objective"], cell["search_diverged"], cell["confirm_finished"]) == ("all", 0.2, 40.0, 1, 0)


@pytest.mark.parametrize("repeat_config", [True, False])
@pytest.mark.parametrize("params", [True, False])
def test_parameters_come_from_either_file(ray: RayFolder, params: bool, repeat_config: bool) -> None:
    ray.add({"model": {"depth": 18}, "seed": 3}, accuracies(1), params=params, repeat_config=repeat_config)
    if not params and not repeat_config:
        with pytest.raises(UserError, match="--cells: given 'model/depth'"):
            read(ray.path, metrics=("accuracy",), cells=("model/depth",))
        return
    run = read(ray.path, metrics=("accuracy",), cells=("config/model/depth",), seed="seed")
    assert list(run.design.cells.values()) == [{"config/model/depth": 18}]
    assert set(run.epochs["seed"]) == {3}


def test_nan_and_infinity_are_no_values_and_at_the_end_divergence(ray: RayFolder) -> None:
    ray.add({"note": "NaN, Infinity"}, accuracies(10, math.nan, 30))
    ray.add({}, accuracies(10, 20, math.inf))
    ray.add({}, accuracies(10, 20, 30))
    run = read(ray.path, metrics=("accuracy",))
    assert run.epochs["accuracy"].to_list() == [10, None, 30, 10, 20, None, 10, 20, 30]
    assert run.epochs["diverged"].to_list() == [False] * 5 + [True] + [False] * 3


def test_a_torn_last_line_is_left_out_and_one_without_its_newline_is_not(ray: RayFolder) -> None:
    torn, whole = ray.add({}, accuracies(10, 20, 30)), ray.add({}, accuracies(10, 20, 30))
    torn.write_bytes(torn.read_bytes()[:-9])
    whole.write_bytes(whole.read_bytes()[:-1])
    run = read(ray.path, metrics=("accuracy",))
    assert run.epochs["accuracy"].to_list() == [10, 20, 10, 20, 30]
    assert run.problems == ()


def test_of_an_epoch_that_is_there_twice_the_last_counts(ray: RayFolder) -> None:
    again = [{**row, "training_iteration": epoch} for row, epoch in zip(accuracies(10, 20, 30, 25, 35), (1, 2, 3, 2, 3), strict=True)]
    ray.add({}, again)
    run = read(ray.path, metrics=("accuracy",))
    assert run.epochs["epoch"].to_list() == [1, 2, 3]
    assert run.epochs["accuracy"].to_list() == [10, 25, 35]


def test_columns_by_other_names_and_in_tables(ray: RayFolder) -> None:
    ray.add({"optim": {"lr": 0.5}, "s": "b"}, [{"eval": {"top1": 10.0 * epoch}, "step": epoch * 2, "took": 3.0} for epoch in (1, 2)])
    ray.add({"optim": {"lr": 0.5}, "s": "a"}, [{"eval": {"top1": 10.0 * epoch}, "step": epoch * 2, "took": 3.0} for epoch in (1, 2)])
    run = read(ray.path, metrics=("eval/top1:max",), epoch="step", seconds="took", lr="optim/lr", seed="s")
    assert run.epochs.select("epoch", "eval/top1", "epoch_seconds", "lr").rows()[:2] == [(2, 10.0, 3.0, 0.5), (4, 20.0, 3.0, 0.5)]
    assert run.epochs["seed"].to_list() == [1, 1, 0, 0]  # words are numbered in their order


def test_a_folder_inside_that_is_no_trial_is_none(ray: RayFolder) -> None:
    ray.add({}, accuracies(10))
    (ray.path / "experiment_state-2026-01-01_00-00-00.json").write_text("{}")
    (ray.path / "driver_artifacts").mkdir()
    found = analysed(ray.path, metrics=("accuracy",))
    assert (found.planned, found.run.problems) == (1, ())


def test_nan_in_one_of_many_files_changes_nothing_in_the_others(ray: RayFolder) -> None:
    for number in range(40):
        ray.add({"note": "not NaN"}, [{"accuracy": math.nan if number % 7 == 3 else number, "other": math.inf, "nested": {"a": [1]}}] * 3)
    (ray.path / "train_00005" / "result.json").write_text("{]\n")
    run = read(ray.path, metrics=("accuracy",))
    of_trial = dict(run.epochs.group_by("trial").agg("accuracy").iter_rows())
    expected = {number: None if number % 7 == 3 else number for number in range(40) if number != 5}
    assert of_trial == {f"train_{number:05}": [value] * 3 for number, value in expected.items()}
    assert run.epochs.filter("diverged")["trial"].to_list() == [f"train_{number:05}" for number in range(3, 40, 7)]
    assert [problem.file for problem in run.problems] == ["train_00005/result.json"]


def test_two_trials_of_the_same_cell_and_seed_are_not_counted_twice(ray: RayFolder) -> None:
    for accuracy in (10.0, 90.0):
        ray.add({"seed": 0}, accuracies(accuracy))
    run = read(ray.path, metrics=("accuracy",), seed="seed")
    assert run.epochs["accuracy"].to_list() == [10.0]
    assert "has the cell and seed of train_00000" in run.problems[0].what


@pytest.mark.parametrize(
    "broken", [b"", b"\x80\x04\x95", b"[1]\n", b'{"accuracy": 1}\n', b'{"training_iteration": "one", "accuracy": 5}\n']
)
def test_a_file_without_rows_costs_only_itself(ray: RayFolder, broken: bytes) -> None:
    ray.add({}, accuracies(10, 20))
    ray.add({}, accuracies(1)).write_bytes(broken)
    found = analysed(ray.path, metrics=("accuracy",))
    assert found.run.epochs["accuracy"].to_list() == [10, 20]
    assert found.planned == 2
    assert found.standing["state"].to_list()[0] == "finished"
    assert found.standing["state"].to_list()[1] in {"damaged", "not started"}


def test_a_damaged_line_in_the_middle_is_named_and_the_others_are_read(ray: RayFolder) -> None:
    file = ray.add({}, accuracies(10, 20, 30))
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + b'{"accuracy": 2\n' + lines[2])
    run = read(ray.path, metrics=("accuracy",))
    assert run.epochs["accuracy"].to_list() == [10, 30]
    assert [(problem.file, problem.what) for problem in run.problems] == [("train_00000/result.json", "line 2 is not JSON; left out")]


def test_200_corrupted_result_files(ray: RayFolder, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(0)  # noqa: S311 - what to break
    files = [ray.add({"head": head, "seed": seed}, accuracies(10, 20, 30)) for head in ("a", "b") for seed in range(2)]
    whole = {file: file.read_bytes() for file in files}
    for _ in range(200):
        file = draw.choice(files)
        content, place = whole[file], draw.randrange(len(whole[file]))
        cut = [
            content[:place],
            content[:place] + draw.randbytes(9) + content[place:],
            content[:place] + b"\n" + content[place + 5 :],
            content[place:],
        ]
        file.write_bytes(draw.choice(cut))
        assert main([str(ray.path), "--metric", "accuracy", "--cells", "head", "--seed-column", "seed"]) in {0, 2}
        assert capsys.readouterr().err.count("\n") <= 1
        file.write_bytes(whole[file])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "--metric is needed: which of accuracy, loss?"),
        ({"metrics": ("acc",)}, "--metric: given 'acc', which no result has, allowed: accuracy, loss"),
        ({"metrics": ("accuracy",), "cells": ("heads",)}, "--cells: given 'heads', which no trial has, allowed: .*head"),
        ({"metrics": ("accuracy",), "seed": "run"}, "--seed-column: given 'run'"),
        ({"metrics": ("accuracy",), "epoch": "step"}, "--epoch-column: given 'step'"),
        ({"metrics": ("accuracy",), "cells": ("head",), "baseline": ("head=c",)}, "--baseline: given 'head=c', allowed: head=a"),
        ({"metrics": ("accuracy",), "baseline": ("head=a",)}, "--baseline: given 'head=a', allowed: none"),
    ],
)
def test_a_wrong_column_is_one_clear_error(ray: RayFolder, columns: dict[str, Any], message: str) -> None:
    ray.add({"head": "a"}, accuracies(10))
    with pytest.raises(UserError, match=message):
        read(ray.path, **columns)


def test_many_files_are_parsed_in_batches_as_one(ray: RayFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        ray.add({"seed": number}, accuracies(number, number + 0.5, *([math.nan] if number == 7 else [])))
    whole = read(ray.path, metrics=("accuracy",), seed="seed").epochs
    monkeypatch.setattr(foreign, "BATCH_BYTES", 500)
    assert read(ray.path, metrics=("accuracy",), seed="seed").epochs.equals(whole)


def test_a_folder_that_is_not_ours_is_summarised_without_what_loads_slowly() -> None:
    given = [str(EXAMPLE), "--metric", "mean_loss", "--cells", "activation", "--seed-column", "width"]
    slow = ("scipy", "pydantic", "PIL", "pyarrow", "pandas", "altair", "torch", "ray", "tune_ablation.experiment")
    code = f"import sys; from analysis.cli import main; main({given}); print('loaded:', [name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_no_pickle_of_rays_is_opened(ray: RayFolder) -> None:
    file = ray.add({}, accuracies(10))
    for name in ("params.pkl", "tuner.pkl"):
        (file.parent / name).write_bytes(b"\x80\x04.")
    assert read(ray.path, metrics=("accuracy",)).problems == ()


def test_a_folder_marked_as_rays_is_read_without_listing_every_trial(ray: RayFolder) -> None:
    ray.add({}, accuracies(10))
    (ray.path / "experiment_state-2026-01-01_00-00-00.json").write_text("{}")
    (ray.path / "driver_artifacts").mkdir()
    found = analysed(ray.path, metrics=("accuracy",))
    assert found.run.epochs["accuracy"].to_list() == [10]


LOG = """=> creating model 'resnet18_maxpool'
Epoch: [0][  1/100]\tTime  0.500 ( 0.500)\tData  0.1 ( 0.1)\tLoss 5.30e+00 (5.30e+00)\tAcc@1   1.00 (  1.00)\tAcc@5   4.00 (  4.00)
Epoch: [0][100/100]\tTime  0.100 ( 0.200)\tData  0.1 ( 0.1)\tLoss 4.10e+00 (4.70e+00)\tAcc@1   9.00 (  6.00)\tAcc@5  20.00 ( 15.00)
Test: [ 1/40]\tTime  0.2 ( 0.2)\tLoss 4.0000e+00 (4.0000e+00)\tAcc@1  12.00 ( 12.00)\tAcc@5  30.00 ( 30.00)
Test: [40/40]\tTime  0.2 ( 0.2)\tLoss 4.2000e+00 (4.1000e+00)\tAcc@1  12.00 ( 11.00)\tAcc@5  30.00 ( 29.00)
 *   Acc@1 11.060 Acc@5 29.130
Epoch: [1][  1/100]\tTime  0.500 ( 0.500)\tData  0.1 ( 0.1)\tLoss 3.90e+00 (3.90e+00)\tAcc@1  14.00 ( 14.00)\tAcc@5  35.00 ( 35.00)
Epoch: [1][100/100]\tTime  0.100 ( 0.300)\tData  0.1 ( 0.1)\tLoss 3.10e+00 (3.60e+00)\tAcc@1  20.00 ( 18.00)\tAcc@5  45.00 ( 41.00)
Test: [40/40]\tTime  0.2 ( 0.2)\tLoss 3.2000e+00 (3.5000e+00)\tAcc@1  12.00 ( 20.00)\tAcc@5  30.00 ( 44.00)
 *   Acc@1 20.500 Acc@5 44.000
Epoch: [2][  1/100]\tTime  0.500 ( 0.500)\tData  0.1 ( 0.1)\tLoss 2.90e+00 (2.90e+00)\tAcc@1  24.00 ( 24.00)\tAcc@5  45.00 ( 45.00)
"""


def test_a_log_of_imagenet_main(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text(LOG)
    (run,) = load.load([str(path)]).runs
    assert run.design.cells == {"resnet18_maxpool": {"depth": 18, "head": "maxpool"}}
    assert run.epochs.select(
        "epoch", "train_loss", "train_acc1", "train_acc5", "test_loss", "test_acc1", "test_acc5", "epoch_seconds"
    ).rows() == [
        (1, 4.7, 6.0, 15.0, 4.1, 11.06, 29.13, 20.0),
        (2, 3.6, 18.0, 41.0, 3.5, 20.5, 44.0, 30.0),
    ]
    assert run.epochs["seed"].to_list() == [None, None]


def test_logs_by_name_cell_and_seed_lie_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        for head, change in (("origin", "11.060"), ("maxpool", "10.060")):
            (tmp_path / f"resnet18_{head}_seed-{seed}.log").write_text(
                LOG.replace("20.500", f"{21 + seed}.{change[:2]}").replace("11.060", change)
            )
    (tmp_path / "notes.txt").write_text("nothing of that kind")
    (run,) = load.load([str(tmp_path)]).runs
    assert list(run.design.cells) == ["resnet18_maxpool", "resnet18_origin"]
    assert run.design.baseline_pairs() == (("resnet18_maxpool", "resnet18_origin"),)
    assert [problem.file for problem in run.problems] == ["notes.txt"]
    assert analyse(run).contrasts["n"].to_list() == [3]
    assert main([str(tmp_path)]) == 0
    assert "notes.txt: no whole epoch" in capsys.readouterr().out


def test_a_resumed_log_keeps_the_later_epoch_and_nan_is_divergence(tmp_path: Path) -> None:
    again = LOG + LOG.replace("20.500", "22.500").replace("(3.60e+00)", "(nan)")
    (tmp_path / "a.log").write_text(again)
    (run,) = load.load([str(tmp_path)]).runs
    assert run.epochs["test_acc1"].to_list() == [11.06, 22.5]
    assert run.epochs["train_loss"].to_list() == [4.7, None]
    assert run.epochs["diverged"].to_list() == [False, True]


def test_logs_of_other_networks_are_cells_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LOG.replace("resnet18_maxpool", "vgg16"))
    (tmp_path / "resnet18_origin.log").write_text(LOG)
    (run,) = load.load([str(tmp_path)]).runs
    assert list(run.design.cells.values()) == [{"cell": "vgg16"}, {"cell": "resnet18_origin"}]


def test_a_file_that_is_no_log_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("nothing")
    with pytest.raises(UserError, match=r"no log of imagenet/main\.py with a whole epoch"):
        load.load([str(path)])


def test_old_logs_and_new_results_in_one_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.log").write_text(LOG)
    shutil.copytree(EXAMPLE, tmp_path / "ray")
    assert main([str(tmp_path / "old.log"), str(tmp_path / "ray"), "--metric", "mean_loss", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["experiments"]) == 2


def as_objects(folder: Path, name: str, s3_options: str) -> str:
    """The folder's files put on S3; their address."""
    address = f"s3://{BUCKET}/{name}?{s3_options}"
    storage = open_storage(address)
    for file in filter(Path.is_file, folder.rglob("*")):
        storage.write(file.relative_to(folder).as_posix(), file.read_bytes())
    return address


def test_a_ray_folder_on_s3_reads_as_on_disk(ray: RayFolder, s3_options: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        for head in ("origin", "maxpool"):
            ray.add({"head": head, "seed": seed}, accuracies(10, 20 + seed), repeat_config=seed > 0)
    ray.add({"head": "origin", "seed": 3}, accuracies(10, math.nan)).parent.joinpath("params.pkl").write_bytes(b"\x80")
    (ray.path / "experiment_state-2026-01-01_00-00-00.json").write_text("{}")
    columns = Columns(metrics=("accuracy",), cells=("head",), seed="seed")
    address = as_objects(ray.path, "ray", s3_options)
    (there,) = load.load([address], columns).runs
    (here,) = load.load([str(ray.path)], columns).runs
    assert there.epochs.equals(here.epochs)
    assert there.plan.equals(here.plan)
    assert there.problems == here.problems == ()
    assert main([address, "--metric", "accuracy", "--cells", "head", "--seed-column", "seed"]) == 0
    out = capsys.readouterr().out
    assert "7 trials" in out
    assert s3_options not in out


def test_logs_on_s3_read_as_on_disk(tmp_path: Path, s3_options: str, capsys: pytest.CaptureFixture[str]) -> None:
    for head in ("origin", "maxpool"):
        (tmp_path / f"resnet18_{head}_seed-0.log").write_text(LOG)
    (tmp_path / "notes.txt").write_text("nothing of that kind")
    address = as_objects(tmp_path, "logs", s3_options)
    (there,) = load.load([address]).runs
    (here,) = load.load([str(tmp_path)]).runs
    assert there.epochs.equals(here.epochs)
    assert there.problems == here.problems
    assert main([address]) == 0
    assert "notes.txt: no whole epoch" in capsys.readouterr().out


def test_one_log_on_s3_reads_as_on_disk(tmp_path: Path, s3_options: str) -> None:
    (tmp_path / "run.log").write_text(LOG)
    address = as_objects(tmp_path, "one", s3_options).replace("/one?", "/one/run.log?")
    (there,) = load.load([address]).runs
    (here,) = load.load([str(tmp_path / "run.log")]).runs
    assert there.epochs.equals(here.epochs)


def test_an_empty_place_on_s3_is_one_clear_error(s3_options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"s3://{BUCKET}/nothing?{s3_options}"]) == 2
    err = capsys.readouterr().err
    assert "no results here" in err
    assert err.count("\n") == 1
