"""The JSON output: its schema is a promise, and its numbers are those of the frames."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from analysis.as_json import EXPERIMENT_FIELDS, FIELDS, SCHEMA, as_json, experiment_json
from tune_ablation.records import COSTS

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

STORED = Path(__file__).parent / f"json_schema_{SCHEMA}.json"


def shape(value: object) -> Any:
    """What JSON data is made of: names of types in place of values, one item in place of a list's."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [merged([shape(item) for item in value])] if value else []
    return (
        "null" if value is None else "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__
    )


def merged(shapes: list[Any]) -> Any:
    if all(isinstance(one, dict) for one in shapes):
        names = dict.fromkeys(name for one in shapes for name in one)
        return {name: merged([one[name] for one in shapes if name in one]) for name in names}
    if all(isinstance(one, list) for one in shapes):
        inside = [item for one in shapes for item in one]
        return [merged(inside)] if inside else []
    return "|".join(sorted({one if isinstance(one, str) else json.dumps(one) for one in shapes}))


@pytest.fixture
def everything(make_folder: MakeFolder) -> Folder:
    """An experiment in which every part of the output has something in it."""
    claimed = {"text": "first", "metric": "test_acc1", "better": {"depth": 18, "head": "origin"}, "than": {"depth": 18, "head": "maxpool"}}
    cost = {"text": "cost", "kind": "cost", "quantity": "params", "relation": "less", "cells": [claimed["better"], claimed["than"]]}
    folder = make_folder(grid={"depth": [18, 50], "head": ["origin", "maxpool"]}, claims=[claimed, cost])
    folder.fill()
    for seed in (0, 1, 2):  # ahead at first, behind at last
        acc = [20.0 + seed, 20.1 + seed, 20.0 + 1.01 * seed, 21.0 + 1.02 * seed]
        folder.add("resnet18_maxpool", "confirm", seed, {"test_acc1": acc})
        folder.add("resnet18_origin", "confirm", seed, {"test_acc1": [10.0 + 0.9 * seed, 20.0, 25.0, 42.0 + seed]})
    folder.header["cells"] = [{"key": cell.key, "profile": dict.fromkeys(COSTS, 5)} for cell in folder.experiment.cells()]
    folder.write_header()
    folder.add("resnet50_origin", "search", 0, {"val_acc1": [1.0]}, diverged=True)
    folder.add("resnet50_origin", "confirm", 0, {"test_acc1": [1.0]})
    folder.file("resnet50_maxpool/confirm/seed-0").write_bytes(b"torn")
    failed = "resnet50_maxpool/confirm/seed-1"
    folder.file(failed).unlink()
    failure = {"schema": 1, "trial": failed, "reason": "out of memory", "attempts": 3}
    (folder.file(failed).parent / "failure.json").write_text(json.dumps(failure))
    return folder


def test_the_schema_is_what_it_was(everything: Folder) -> None:
    one = everything.analysed()
    content = json.loads(json.dumps(as_json([one, one], ["elsewhere: nothing in it"]), allow_nan=False))
    found = shape(content)
    if os.environ.get("WRITE_JSON_SCHEMA"):
        STORED.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(STORED.read_text()), (
        "a name or type of the output changed: raise analysis.as_json.SCHEMA if a reader of the old one would break, "
        "then write the new schema down with WRITE_JSON_SCHEMA=1"
    )
    empty = [name for name, value in content["experiments"][0].items() if value in ([], {})]
    assert empty == [], "the fixture must show every part"


def test_every_field_is_documented(everything: Folder) -> None:
    found = everything.analysed()
    assert list(experiment_json(found)) == list(EXPERIMENT_FIELDS)
    assert list(as_json([found], [])) == list(FIELDS)


def test_it_holds_the_numbers_of_the_frames(full: Folder) -> None:
    found = full.analysed()
    (content,) = json.loads(json.dumps(as_json([found], []), allow_nan=False))["experiments"]
    assert content["chance"] == {"acc1": 10.0, "acc5": 50.0}
    assert content["target"] == {"value": pytest.approx(36.9), "metric": "test_acc1", "trials": 3}
    assert content["progress"] == {"planned": 10, "finished": 10}
    cell = content["cells"][1]
    assert cell["levels"] == {"depth": 18, "head": "maxpool"}
    assert (cell["summaries"]["test_acc1_final"]["mean"], cell["summaries"]["test_acc1_final"]["sd"]) == (
        pytest.approx(36),
        pytest.approx(1),
    )
    assert cell["epochs_to_target"] == {"median": None, "above": 4, "reached": 1, "of": 3}
    assert cell["search"] == {"planned": 2, "finished": 2, "diverged": 0, "failed": 0}
    (contrast,) = content["contrasts"]
    assert (contrast["mean"], contrast["verdict"]) == (pytest.approx(-5), found.contrasts["verdict"][0])
    assert len(content["trials"]) == 10
