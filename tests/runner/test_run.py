"""The main job on real Ray, in real processes: what it leaves behind, and that it is the same whatever happens on the way."""

from __future__ import annotations

import os
import random
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from tests.conftest import BUCKET
from tests.runner.conftest import TINY, TRIALS, header, kill_tree, workers
from tune_ablation.records import load_rows
from tune_ablation.storage import open_storage

if TYPE_CHECKING:
    from tests.runner.conftest import Study


def copied(undisturbed: Study, study: Study) -> Study:
    """A study that starts from an undisturbed run's results."""
    shutil.copytree(undisturbed.storage, study.storage)
    return study


def test_every_trial_of_the_plan_has_all_its_records(undisturbed: Study) -> None:
    records = undisturbed.records()
    assert len(records) == TRIALS
    for key, rows in records.items():
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4], key
        assert {row["trial"] for row in rows} == {key}


def test_a_finished_run_leaves_no_checkpoint_lock_or_temporary_file(undisturbed: Study) -> None:
    names = {path.name for path in undisturbed.results.rglob("*") if path.is_file() and "ray" not in path.parts}
    assert not [name for name in names if name.endswith((".pt", ".tmp"))]


def test_the_header_says_what_ran(undisturbed: Study) -> None:
    content = header(undisturbed)
    assert content["name"] == "tiny"
    assert [cell["key"] for cell in content["cells"]] == ["resnet18_origin", "resnet18_dropout"]
    assert content["cells"][0]["profile"]["params"] < content["cells"][1]["profile"]["params"]
    assert content["data"]["train"] == 48
    assert content["precision"] == "fp32"
    assert len(content["sessions"]) == 1
    assert content["sessions"][0]["versions"]["torch"]


def test_confirm_trials_take_the_best_learning_rate_of_their_own_cell(undisturbed: Study) -> None:
    records = undisturbed.records()
    for cell in ("resnet18_origin", "resnet18_dropout"):
        searched = {rows[-1]["lr"]: rows[-1]["val_acc1"] for key, rows in records.items() if key.startswith(f"{cell}/search")}
        best = min(searched, key=lambda lr: (-searched[lr], lr))
        assert {rows[-1]["lr"] for key, rows in records.items() if key.startswith(f"{cell}/confirm")} == {best}


def test_the_finished_studies_open_in_optuna(undisturbed: Study) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(undisturbed.results / "optuna.journal")))
    records = undisturbed.records()
    for name in ("resnet18_origin", "resnet18_dropout"):
        trials = optuna.load_study(study_name=name, storage=storage).trials
        assert [trial.params["lr"] for trial in trials] == [records[f"{name}/search/{n:03d}"][-1]["lr"] for n in range(3)]


def test_two_at_a_time_give_the_same_records_as_one(undisturbed: Study, study: Study) -> None:
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert study.records() == undisturbed.records()


def test_output_without_a_terminal_is_plain_lines(undisturbed: Study, study: Study) -> None:
    code, output, errors = copied(undisturbed, study).run()
    assert code == 0
    assert errors == ""
    assert "\x1b" not in output
    assert max(map(len, output.splitlines())) <= 80 + len(str(study.storage))


def test_the_same_command_again_trains_nothing(undisturbed: Study, study: Study) -> None:
    copied(undisturbed, study)
    before = study.finished()
    code, _, _ = study.run()
    assert code == 0
    assert study.finished() == before
    assert len(before) == TRIALS


@pytest.mark.slow
def test_killed_with_everything_it_started_it_goes_on_to_the_same_records(undisturbed: Study, study: Study) -> None:
    moments = random.Random(0)  # noqa: S311 - moments, not secrets
    for _ in range(2):
        process = study.start("--parallel", "2")
        target = len(study.records()) + moments.randint(1, 3)
        study.wait_for_records(target)
        kill_tree(process.pid)
        process.communicate()
        finished = study.finished()
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert study.records() == undisturbed.records()
    study.assert_not_trained_again(finished)


def test_a_killed_worker_costs_its_trial_nothing_but_time(undisturbed: Study, study: Study) -> None:
    process = study.start("--parallel", "2")
    study.wait_for_records(2)
    victims = workers(process.pid)
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    assert study.records() == undisturbed.records()


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_says_how_to_go_on_and_goes_on(undisturbed: Study, study: Study, signum: signal.Signals) -> None:
    process = study.start()
    study.wait_for_records(1)
    process.send_signal(signum)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, output + errors
    assert "the same command goes on" in output
    assert "Traceback" not in output + errors
    code, output, errors = study.run()
    assert code == 0, output + errors
    assert study.records() == undisturbed.records()


@pytest.mark.slow
def test_more_seeds_and_levels_only_grow_it(undisturbed: Study, study: Study) -> None:
    before = copied(undisturbed, study).finished()
    study.file.write_text(TINY.replace("[0, 1]", "[0, 1, 2]").replace('"dropout"]', '"dropout", "maxpool"]'))
    code, output, errors = study.run()
    assert code == 0, output + errors
    study.assert_not_trained_again(before)
    assert len(study.finished()) == 3 * (3 + 3)


def test_another_experiment_of_the_same_name_is_refused_and_changes_nothing(undisturbed: Study, study: Study) -> None:
    copied(undisturbed, study)
    before = {path: path.stat().st_mtime_ns for path in study.results.rglob("*") if path.is_file()}
    code, _, errors = study.run("--set", "recipe.epochs=5")
    assert code == 2
    assert errors.count("\n") == 1
    assert "recipe.epochs: was 4, now 5" in errors
    assert {path: path.stat().st_mtime_ns for path in study.results.rglob("*") if path.is_file()} == before


def test_other_data_under_the_same_name_is_refused(undisturbed: Study, study: Study) -> None:
    code, _, errors = copied(undisturbed, study).run("--set", "data.seed=1")
    assert code == 2
    assert "other images" in errors


@pytest.mark.slow
def test_a_second_driver_is_told_that_there_is_a_first(study: Study) -> None:
    first = study.start()
    study.wait_until((study.results / "run.json").exists)
    code, _, errors = study.run()
    assert code == 2
    assert "another run" in errors
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=120)


@pytest.mark.slow
def test_a_trial_that_cannot_be_trained_fails_alone_and_is_made_up_for_later(undisturbed: Study, study: Study) -> None:
    in_the_way = study.results / "trials" / "resnet18_dropout" / "search" / "001" / "records.jsonl"
    in_the_way.mkdir(parents=True)
    code, output, _ = study.run("--max-retries", "0")
    assert code == 1
    assert "resnet18_dropout/search/001 failed" in output
    assert (in_the_way.parent / "failure.json").exists()
    in_the_way.rmdir()
    whole = undisturbed.records()
    done = study.records()
    assert {key for key in done if "origin" in key} == {key for key in whole if "origin" in key}
    code, output, errors = study.run()
    assert code == 0, output + errors
    assert study.records() == whole
    assert not (in_the_way.parent / "failure.json").exists()


@pytest.mark.slow
def test_results_on_s3_are_the_same_and_go_on_the_same(undisturbed: Study, study: Study, s3_options: str) -> None:
    study.storage_path = f"s3://{BUCKET}/ablations?{s3_options}"
    process = study.start("--parallel", "2")
    storage = open_storage(study.storage_path).child("tiny")
    study.wait_until(lambda: len([name for name in storage.names("trials") if name.endswith("records.jsonl")]) >= 3)
    kill_tree(process.pid)
    process.communicate()
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    for key, rows in undisturbed.records().items():
        content = storage.read(f"trials/{key}/records.jsonl")
        assert content is not None, key
        assert [{name: row[name] for name in rows[0]} for row in load_rows(content, key)] == rows
    assert not [name for name in storage.names("trials") if name.endswith(".pt")]
