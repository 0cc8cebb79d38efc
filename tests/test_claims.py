"""What an experiment file may claim, and how a claim that cannot be ruled on is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tune_ablation.claims import KINDS
from tune_ablation.errors import UserError
from tune_ablation.experiment import Experiment, parse, read, shipped_names
from tune_ablation.records import COSTS, DERIVED_METRICS, METRICS

A, B, C = ({"depth": 18, "head": head} for head in ("origin", "maxpool", "dropout"))
VALID: dict[str, dict[str, Any]] = {
    "order": {"metric": "test_acc1", "better": A, "than": B},
    "equivalent": {"metric": "gap_acc1", "cells": [A, B], "within": 0.5},
    "turns": {"metric": "test_loss", "cells": [A, B, C]},
    "near": {"metric": "test_acc1", "cells": A, "value": 35.0, "within": 2.0},
    "bound": {"metric": "gap_acc1", "cells": A, "below": 35.0},
    "agree": {"metrics": ["test_acc1", "test_f1"], "cells": [A, B]},
    "crossover": {"metric": "test_acc1", "early": A, "late": B},
    "cost": {"quantity": "params", "relation": "less", "cells": [A, C]},
    "all_above": {},
}


def asked(claim: Any, **changes: Any) -> Experiment:
    grid = {"depth": [18, 50], "head": ["origin", "maxpool", "dropout"]}
    return parse({"name": "x", "grid": grid, "claims": [claim]} | changes, "x.toml")


def claim(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "text": "A sentence"} | VALID[kind] | changes


def without(given: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != key}


def test_there_is_a_valid_example_of_every_kind() -> None:
    assert VALID.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_and_survives_json(kind: str) -> None:
    experiment = asked(claim(kind))
    assert type(experiment.claims[0]) is KINDS[kind]
    again = parse(json.loads(json.dumps(experiment.resolved())), "header")
    assert again.claims == experiment.claims


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_key_is_refused_with_those_allowed(kind: str) -> None:
    with pytest.raises(UserError, match=r"^x\.toml: unknown key 'claims\[0\]\.margin', allowed: .*text"):
        asked(claim(kind, margin=1))


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in VALID for key in (*VALID[kind], "text") if key != "below"])
def test_a_missing_key_is_named(kind: str, key: str) -> None:
    with pytest.raises(UserError, match=rf"^x\.toml: claims\[0\]\.{key}: missing"):
        asked(without(claim(kind), key))


def test_a_claim_without_a_kind_is_an_order() -> None:
    assert type(asked(without(claim("order"), "kind")).claims[0]) is KINDS["order"]


@pytest.mark.parametrize("metric", METRICS | DERIVED_METRICS)
def test_every_metric_can_be_claimed_about(metric: str) -> None:
    assert asked(claim("order", metric=metric)).claims


@pytest.mark.parametrize("quantity", COSTS)
def test_every_cost_can_be_claimed_about(quantity: str) -> None:
    assert asked(claim("cost", quantity=quantity)).claims


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (claim("order") | {"kind": "best"}, ["claims[0].kind", "best", *KINDS]),
        (claim("order") | {"kind": {}}, ["claims[0].kind", "{}", *KINDS]),
        (claim("order") | {"kind": [1]}, ["claims[0].kind", "[1]", *KINDS]),
        (claim("order", text=""), ["claims[0].text", '""', "at least 1"]),
        (claim("order", metric="acc"), ["claims[0].metric", '"acc"', *METRICS, *DERIVED_METRICS]),
        (claim("turns", metric="gap_acc1"), ["claims[0].metric", '"gap_acc1"', *METRICS]),
        (claim("order", at="first"), ["claims[0].at", '"first"', "'final', 'best' or 'mean'"]),
        (claim("cost", quantity="seconds"), ["claims[0].quantity", '"seconds"', *COSTS]),
        (claim("cost", relation="equals"), ["claims[0].relation", '"equals"', "equal", "less", "more"]),
        (claim("near", within=0.0), ["claims[0].within", "0.0", "greater than 0"]),
        (claim("near", value="x"), ["claims[0].value", '"x"', "number"]),
        (claim("equivalent", cells=[A]), ["claims[0].cells"]),
        (claim("agree", cells=[A]), ["claims[0].cells", "at least 2"]),
        (claim("turns", cells=[]), ["claims[0].cells", "at least 1"]),
        (claim("bound", above=1.0), ["claims[0]", "above = 1.0", "below = 35.0", "exactly one"]),
        (without(claim("bound"), "below"), ["claims[0]", "above = None", "exactly one"]),
        (claim("order", better={"depth": 18}), ["claims[0].better", "3 cells", "resnet18_origin, resnet18_maxpool, resnet18_dropout"]),
        (claim("order", better={}), ["claims[0].better", "6 cells"]),
        (claim("order", better={"depth": 20, "head": "origin"}), ["claims[0].better.depth", "20", "18, 34, 50"]),
        (claim("order", better=A | {"width": 8}), ["claims[0].better", "'width'", "depth, head"]),
        (claim("order", better=A | {"a\nb": 8}), ["claims[0].better", r"'a\nb'", "depth, head"]),
        (claim("order", than=[B, {"head": "dropout"}]), ["claims[0].than[1]", "2 cells"]),
        (claim("turns", cells=[A, {"head": "none"}]), ["claims[0].cells[1].head", '"none"', "origin, maxpool, dropout"]),
        (claim("order", better=3), ["claims[0].better", "3", "table"]),
        (claim("order", better={"depth": [18]}), ["claims[0].better.depth", "[18]"]),
    ],
)
def test_a_wrong_claim_is_refused_with_its_place(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        asked(given)
    message = str(caught.value)
    assert message.startswith("x.toml: ")
    assert "\n" not in message
    assert not [word for word in words if word not in message], message


def test_a_factor_with_a_single_level_may_be_left_out_of_a_selector() -> None:
    assert asked(claim("order", better={"head": "origin"}, than={"head": "maxpool"}), grid={"depth": [18], "head": ["origin", "maxpool"]})


def test_a_claim_may_speak_of_a_cell_that_the_grid_was_cut_by() -> None:
    assert asked(claim("order"), grid={"depth": [50], "head": ["origin"]}).claims


@pytest.mark.parametrize("name", shipped_names())
def test_every_selector_of_the_shipped_claims_picks_one_cell(name: str) -> None:
    experiment = read(name)
    for one in experiment.claims:
        for where, selector in one.selectors():
            assert sum(cell.matches(selector) for cell in experiment.cells()) == 1, f"{one.text}: {where}"
