"""Files damaged between two runs: seen, said, and made good by the same command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.runner.conftest import Study, header, kill_tree
from tune_ablation.records import load_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Study]:
    """A run that was killed with a finished trial and one in the middle, its checkpoint beside it."""
    study = Study(tmp_path_factory.mktemp("crashed"), cache)
    for _ in range(10):
        process = study.start("--parallel", "2", "--set", "recipe.epochs=4")
        study.wait_until(lambda: (bool(study.finished()) and bool(unfinished(study))) or process.poll() is not None)  # noqa: B023 - called at once
        kill_tree(process.pid)
        process.communicate()
        if study.finished() and unfinished(study):
            break
        shutil.rmtree(study.storage)
    yield study
    study.clean_up()


def unfinished(study: Study) -> list[str]:
    """Trials with a checkpoint and records that go on from it."""
    return [
        path.parent.relative_to(study.results / "trials").as_posix()
        for path in sorted(study.results.glob("trials/*/*/*/checkpoint.pt"))
        if len(load_rows((path.parent / "records.jsonl").read_bytes(), "") if (path.parent / "records.jsonl").exists() else []) in {1, 2, 3}
    ]


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped": flip,
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_files_are_seen_said_and_made_good(crashed: Study, undisturbed: Study, study: Study, kind: str) -> None:
    shutil.copytree(crashed.storage, study.storage)
    done, broken_off = min(study.finished()), unfinished(study)[0]
    damaged = [study.results / "trials" / done / "records.jsonl", study.results / "trials" / broken_off / "checkpoint.pt"]
    damaged.append(study.results / "run.json")
    for path in damaged:
        DAMAGES[kind](path)
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert "Traceback" not in output + errors
    said = re.sub(r"\s+", "", output + errors)  # the terminal breaks lines
    gone = kind == "deleted"
    named = {key for keys in re.findall("norecordsthere:([^;]*);", said) for key in keys.split(",")}  # one that had just begun, too
    assert (done in named) if gone else (f"{done}/records.jsonl" in said)
    assert (f"{broken_off}/records.jsonl:" if gone else f"{broken_off}/checkpoint.pt:damaged") in said
    assert ("andnocheckpoint;thetrialisrunagain" if gone else "thetrialbeginsagain") in said
    assert "putbackfromitscopy" in said
    assert study.records() == undisturbed.records()
    assert len(header(study)["sessions"]) == len(header(crashed)["sessions"]) + 1


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_records_of_a_trial_in_the_middle_come_back_from_its_checkpoint(
    crashed: Study, undisturbed: Study, study: Study, kind: str
) -> None:
    shutil.copytree(crashed.storage, study.storage)
    for key in unfinished(study):
        DAMAGES[kind](study.results / "trials" / key / "records.jsonl")
    code, output, errors = study.run("--parallel", "2")
    assert code == 0, output + errors
    assert "checkpoint" in errors
    assert all(key in re.sub(r"\s+", "", errors) for key in unfinished(crashed))
    assert study.records() == undisturbed.records()


def test_a_folder_of_a_newer_version_is_refused_and_left_alone(crashed: Study, study: Study) -> None:
    shutil.copytree(crashed.storage, study.storage)
    for name in ("run.json", "run.copy.json"):
        path = study.results / name
        path.write_text(re.sub(r'"check": "[0-9a-f]+"', '"check": null', path.read_text().replace('"schema": 1', '"schema": 2', 1)))
    before = {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file() and not path.name.startswith(".lock")}
    code, _, errors = study.run()
    assert code == 2
    assert "written in schema 2 by a newer version of tune-ablation, this one reads 1" in errors
    assert {path: path.read_bytes() for path in study.results.rglob("*") if path.is_file() and not path.name.startswith(".lock")} == before
