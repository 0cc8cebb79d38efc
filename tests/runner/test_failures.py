"""Trials whose worker dies or runs out of memory: retried, then given up with their reason, while everything else goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.chaos import stub
from tests.chaos.study import Study as ChaosStudy
from tests.runner.conftest import workers
from tune_ablation.runner.failures import reason_of

if TYPE_CHECKING:
    import subprocess

    from tests.runner.conftest import Study

DEAD = """Failure # 1 (occurred at 2026-01-01)
The actor died unexpectedly before finishing this task.
\tclass_name: ResourceTrainable
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR
\tpid: 1
"""
OUT_OF_MEMORY = """Failure # 1 (occurred at 2026-01-01)
1 worker(s) were killed due to the node running low on memory. Memory on the node was 4.86GB used / 5.00GB limit
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
Refer to the documentation on how to address the out of memory issue
"""
RAISED = "Failure # 2 (occurred at 2026-01-02)\nTraceback (most recent call last):\n  File ...\nValueError: no room\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DEAD, "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"),
        (
            OUT_OF_MEMORY,
            "1 worker(s) were killed due to the node running low on memory. Memory on the node was 4.86GB used / 5.00GB limit",
        ),
        (RAISED, "ValueError: no room"),
        (DEAD + RAISED, "ValueError: no room"),
        ("", "the worker died"),
        ("Failure # 1 (occurred at 2026-01-01)\n", "the worker died"),
    ],
    ids=["dead", "out of memory", "raised", "the latest", "nothing", "nothing more"],
)
def test_a_failure_is_told_in_its_one_telling_line(text: str, reason: str) -> None:
    assert reason_of(text) == reason


def test_what_torch_says_of_memory_that_is_not_there_is_such_a_line() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**50)
    text = "".join(traceback.format_exception(raised.value))
    assert "you tried to allocate" in reason_of(f"Failure # 1 (occurred at 2026-01-01)\n{text}")


def failures(study: Study) -> dict[str, dict[str, Any]]:
    """What was written of the trials that were given up, by trial."""
    contents = [json.loads(path.read_text()) for path in study.results.glob("trials/*/*/*/failure.json")]
    return {content["trial"]: content for content in contents}


def check_given_up(study: Study, undisturbed: Study, process: subprocess.Popen[str], trial: str) -> dict[str, Any]:
    """One trial was given up and the other cell is complete, which is said; the same command makes up for the rest. What was noted."""
    output, errors = process.communicate(timeout=200)
    assert process.returncode == 1, output + errors
    assert errors == ""
    (failure,) = failures(study).values()
    assert failure["trial"] == trial
    cell = trial.partition("/")[0]
    assert "Failed: 1 trial" in output
    assert f"{trial} after {failure['attempts']} attempts" in output
    whole = undisturbed.records()
    others = {key for key in whole if not key.startswith(cell)}
    before = study.finished()
    assert others <= set(before)
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert study.records() == whole
    assert not failures(study)
    assert {key: inode for key, inode in study.finished().items() if key in before} == before
    return failure


@pytest.mark.slow
def test_a_worker_that_is_killed_each_time_costs_its_own_trial_only(undisturbed: Study, study: Study) -> None:
    trial = "resnet18_dropout/search/000"
    process = study.start("--parallel", "1", "--max-retries", "2")
    study.wait_until((study.results / "trials" / trial / "records.jsonl").exists)
    killed = set()
    while process.poll() is None:
        victims = workers(process.pid)
        if failures(study):
            break
        for victim in victims:  # one trial at a time, so a worker is this trial's until it is given up
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
        time.sleep(0.02)
    assert len(killed) == 3
    failure = check_given_up(study, undisturbed, process, trial)
    assert failure["attempts"] == 3
    assert "worker process has died" in failure["reason"]


def available_memory() -> tuple[int, int]:
    """Bytes that could still be had, and all there are."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    return available, total


@pytest.mark.slow
def test_a_worker_that_ray_kills_for_want_of_memory_costs_its_own_trial_only(
    undisturbed: Study, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    available, total = available_memory()
    if available < 8e9:
        pytest.skip("takes 8 GB of free memory, so that what others do with theirs does not matter")
    limit = total - available * 3 // 4
    monkeypatch.setenv("RAY_memory_usage_threshold", str(limit / total))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    process = study.start("--parallel", "1", "--max-retries", "1")
    study.wait_for_records(1)
    for worker in workers(process.pid):
        os.kill(worker, signal.SIGSTOP)  # else it might be through before so much memory is taken
    taken: list[bytes] = []

    def is_given_up() -> bool:
        if total - available_memory()[0] < limit + 5 * 10**8:
            taken.append(b"1" * (5 * 10**8))
        return bool(failures(study)) or process.poll() is not None

    study.wait_until(is_given_up)
    taken.clear()
    (trial,) = failures(study)
    failure = check_given_up(study, undisturbed, process, trial)
    assert failure["attempts"] == 2
    assert "killed due to the node running low on memory" in failure["reason"]


HUNGRY = (
    'name = "hungry"'
    + stub.LEAST
    + """
[grid]
head = ["dropout", "origin"]

[recipe]
epochs = 2
batch_size = 2

[search]
trials_per_cell = 2

[confirm]
seeds = [0]
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cpu", "you tried to allocate 4503599627370496 bytes"),
        pytest.param("cuda", "CUDA out of memory", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
def test_a_cell_that_needs_more_memory_than_there_is_costs_itself_only(monkeypatch: pytest.MonkeyPatch, device: str, says: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hungry-"))  # pytest's own is too long for the paths of Ray's sockets
    file = folder / "hungry.toml"
    file.write_text(HUNGRY, encoding="utf-8")
    study = ChaosStudy(folder / "study", file, stub.PROGRAM, ("--max-retries", "1"))
    monkeypatch.setenv("STUB_HUNGRY", "resnet18_dropout")
    monkeypatch.setenv("STUB_DEVICE", device)
    run = study.start()
    try:
        assert run.await_end(200) == 1, run.output()
    finally:
        run.kill_all()
    given_up = "resnet18_dropout/search/000"
    failure = json.loads((study.trials / given_up / "failure.json").read_text())
    assert (failure["attempts"], failure["trial"]) == (2, given_up)
    assert says in failure["reason"]
    assert f"{given_up} after 2 attempts" in run.output()
    assert "Traceback" not in run.output()
    assert {key for key, _ in study.records()} == {key for key in study.keys if key.startswith("resnet18_origin/")}
    monkeypatch.delenv("STUB_HUNGRY")
    again = study.start()
    assert again.await_end(200) == 0, again.output()
    assert {key for key, _ in study.records()} == set(study.keys)
    assert not study.debris()
    shutil.rmtree(folder)
