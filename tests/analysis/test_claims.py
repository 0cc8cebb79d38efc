"""Rulings on every kind of claim: supported, refuted, inconclusive, and never more than the figures bear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]  # ships no type information

from analysis import claims
from tune_ablation import experiment
from tune_ablation.claims import KINDS
from tune_ablation.records import COSTS

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

HEADS = ("origin", "maxpool", "dropout")
SEEDS = [0, 1, 2, 3, 4]
EPOCHS = 6


def cell(head: str) -> dict[str, str]:
    return {"head": head}


def key(head: str) -> str:
    return f"resnet18_{head}"


def folder_with(make_folder: MakeFolder, *claimed: dict[str, Any], **changes: Any) -> Folder:
    given = [{"text": f"claim {number}", **claim} for number, claim in enumerate(claimed)]
    content = {"grid": {"depth": [18], "head": list(HEADS)}, "recipe": {"epochs": EPOCHS}, "confirm": {"seeds": SEEDS}}
    return make_folder(**{**content, "claims": given, **changes})


def fill(folder: Folder, curves: dict[str, dict[str, list[float]]], noise: float = 0.1) -> None:
    """Confirm trials of every cell: the curves given for a head by metric, each seed with luck and noise of its own."""
    draw = np.random.default_rng(0)
    for seed in folder.experiment.confirm.seeds:
        luck = draw.normal(0, noise)
        for head, metrics in curves.items():
            noisy = {metric: (np.array(curve) + luck + draw.normal(0, noise, len(curve))).tolist() for metric, curve in metrics.items()}
            folder.add(key(head), "confirm", seed, noisy)


def final(**values: float) -> dict[str, dict[str, list[float]]]:
    return {head: {"test_acc1": [value / 2] * (EPOCHS - 1) + [value]} for head, value in values.items()}


def verdicts(folder: Folder) -> list[str]:
    return [ruling.verdict for ruling in folder.analysed().claims]


ORDER = {"metric": "test_acc1", "better": cell("origin"), "than": [cell("maxpool"), cell("dropout")]}


@pytest.mark.parametrize(
    ("finals", "verdict"),
    [
        (final(origin=35, maxpool=33, dropout=31), "supported"),
        (final(origin=35, maxpool=31, dropout=33), "refuted"),  # one pair the wrong way round is enough
        (final(origin=35, maxpool=33, dropout=33), "inconclusive"),
        (final(origin=31, maxpool=33, dropout=35), "refuted"),
    ],
)
def test_an_order_of_three(make_folder: MakeFolder, finals: dict[str, Any], verdict: str) -> None:
    folder = folder_with(make_folder, ORDER)
    fill(folder, finals)
    assert verdicts(folder) == [verdict]


def test_an_order_rests_on_paired_tests_of_its_neighbours(make_folder: MakeFolder) -> None:
    folder = folder_with(make_folder, ORDER)
    fill(folder, final(origin=35, maxpool=34.8, dropout=34.5), noise=0.3)
    found = folder.analysed()
    trials = {head: found.trials.filter(found.trials["cell"] == key(head))["test_acc1_final"].to_numpy() for head in HEADS}
    p = [stats.ttest_rel(trials[first], trials[second]).pvalue for first, second in (("origin", "maxpool"), ("maxpool", "dropout"))]
    (ruling,) = found.claims
    assert ruling.p == pytest.approx(max(p))
    assert [figure.mean for figure in ruling.figures] == pytest.approx(
        [float(np.mean(trials["origin"] - trials["maxpool"])), float(np.mean(trials["maxpool"] - trials["dropout"]))]
    )


def test_an_order_knows_that_a_lower_loss_is_better_and_which_value_is_meant(make_folder: MakeFolder) -> None:
    order = {"metric": "test_loss", "better": cell("origin"), "than": cell("maxpool")}
    folder = folder_with(make_folder, *({**order, "at": at} for at in ("final", "best", "mean")))
    fill(folder, {"origin": {"test_loss": [5, 5, 5, 5, 5, 1]}, "maxpool": {"test_loss": [0, 3, 3, 3, 3, 3]}})
    assert verdicts(folder) == ["supported", "refuted", "refuted"]


def test_equivalence_needs_the_interval_inside_the_band(make_folder: MakeFolder) -> None:
    claim = {"kind": "equivalent", "metric": "test_acc1", "cells": [cell("origin"), cell("maxpool")]}
    folder = folder_with(make_folder, {**claim, "within": 1.0}, {**claim, "within": 0.05}, {**claim, "within": 0.001})
    fill(folder, final(origin=35, maxpool=35.01, dropout=0))
    assert verdicts(folder) == ["supported", "inconclusive", "inconclusive"]
    fill(folder, final(origin=35, maxpool=38, dropout=0))
    assert verdicts(folder) == ["refuted"] * 3


def test_near_a_value_in_every_cell_named(make_folder: MakeFolder) -> None:
    claim = {"kind": "near", "metric": "test_acc1", "cells": [cell("origin"), cell("maxpool")], "value": 35.0}
    folder = folder_with(make_folder, {**claim, "within": 2.0}, {**claim, "within": 0.5})
    fill(folder, final(origin=35, maxpool=36, dropout=0))
    assert verdicts(folder) == ["supported", "refuted"]


def test_bounds_on_a_derived_metric(make_folder: MakeFolder) -> None:
    gap = {"kind": "bound", "metric": "gap_acc1", "cells": [cell("origin")]}
    best = {"kind": "bound", "metric": "acc1_drop", "cells": [cell("origin")]}
    folder = folder_with(make_folder, {**gap, "above": 0.0}, {**gap, "below": 0.0}, {**best, "below": 5.0}, {**best, "above": 5.0})
    fill(folder, {"origin": {"test_acc1": [10, 20, 33, 40, 38, 36], "train_eval_acc1": [10, 20, 50, 70, 90, 95]}})
    assert verdicts(folder) == ["supported", "refuted", "supported", "refuted"]


def test_a_curve_that_turns_and_one_that_does_not(make_folder: MakeFolder) -> None:
    folder = folder_with(
        make_folder,
        *({"kind": "turns", "metric": "test_loss", "cells": cell(head)} for head in HEADS),
        {"kind": "turns", "metric": "test_loss", "cells": [cell("origin"), cell("maxpool")]},
    )
    fill(
        folder,
        {
            "origin": {"test_loss": [5, 3, 2, 3, 4, 5]},
            "maxpool": {"test_loss": [6, 5, 4, 3, 2, 1]},
            "dropout": {"test_loss": [5, 3, 2, 2, 2, 2]},
        },
    )
    assert verdicts(folder) == ["supported", "refuted", "inconclusive", "refuted"]


def test_noise_alone_makes_no_curve_turn(make_folder: MakeFolder) -> None:
    claim = {"kind": "turns", "metric": "test_acc1", "cells": cell("origin")}
    folder = folder_with(make_folder, claim, recipe={"epochs": 30}, confirm={"seeds": list(range(8))})
    said = []
    draw = np.random.default_rng(1)
    for _ in range(25):
        for seed in range(8):
            folder.add(key("origin"), "confirm", seed, {"test_acc1": draw.normal(30, 1, 30).tolist()})
        said += verdicts(folder)
    assert said.count("supported") <= 2


def test_two_metrics_that_agree_and_two_that_do_not(make_folder: MakeFolder) -> None:
    claim = {"kind": "agree", "metrics": ["test_acc1", "test_f1"], "cells": [cell(head) for head in HEADS]}
    folder = folder_with(make_folder, claim)
    acc = {"origin": 35.0, "maxpool": 33.0, "dropout": 31.0}
    for f1, verdict in (
        ({"origin": 34.0, "maxpool": 32.0, "dropout": 30.0}, "supported"),
        ({"origin": 30.0, "maxpool": 32.0, "dropout": 34.0}, "refuted"),
    ):
        fill(folder, {head: {"test_acc1": [acc[head]] * EPOCHS, "test_f1": [f1[head]] * EPOCHS} for head in HEADS})
        assert verdicts(folder) == [verdict]
    fill(folder, {head: {"test_acc1": [33.0] * EPOCHS, "test_f1": [32.0] * EPOCHS} for head in HEADS})
    assert verdicts(folder) == ["inconclusive"]


def test_an_early_lead_that_is_lost(make_folder: MakeFolder) -> None:
    claim = {"kind": "crossover", "metric": "test_acc1", "early": cell("dropout"), "late": cell("maxpool")}
    folder = folder_with(make_folder, claim)
    for dropout, verdict in (
        ([20, 22, 24, 26, 28, 30], "supported"),  # maxpool goes from 10 to 35
        ([5, 10, 15, 20, 25, 30], "refuted"),  # never ahead
        ([20, 25, 30, 35, 40, 45], "refuted"),  # ahead to the end
        ([20, 22, 24, 26, 30, 35], "inconclusive"),
    ):
        fill(folder, {"dropout": {"test_acc1": [float(value) for value in dropout]}, "maxpool": {"test_acc1": [10.0, 15, 20, 25, 30, 35]}})
        assert verdicts(folder) == [verdict]


@pytest.mark.parametrize(("relation", "verdict"), [("less", "supported"), ("equal", "refuted"), ("more", "refuted")])
def test_costs_are_no_matter_of_chance(make_folder: MakeFolder, relation: str, verdict: str) -> None:
    folder = folder_with(
        make_folder, {"kind": "cost", "quantity": "params", "relation": relation, "cells": [cell("origin"), cell("dropout")]}
    )
    fill(folder, final(origin=35, maxpool=33, dropout=31))
    assert verdicts(folder) == ["inconclusive"]  # no profile in the header
    folder.header["cells"] = [{"key": key(head), "profile": dict.fromkeys(COSTS, size)} for head, size in (("origin", 5), ("dropout", 9))]
    folder.write_header()
    (ruling,) = folder.analysed().claims
    assert (ruling.verdict, ruling.p, ruling.p_holm) == (verdict, None, None)


def test_all_above_is_as_weak_as_its_weakest(make_folder: MakeFolder) -> None:
    true = {"metric": "test_acc1", "better": cell("origin"), "than": cell("maxpool")}
    false = {"metric": "test_acc1", "better": cell("dropout"), "than": cell("maxpool")}
    everything = {"kind": "all_above"}
    folder = folder_with(make_folder, true, everything, false, everything)
    fill(folder, final(origin=35, maxpool=33, dropout=31))
    assert verdicts(folder) == ["supported", "supported", "refuted", "refuted"]


def test_p_values_are_holm_adjusted_over_all_claims(make_folder: MakeFolder) -> None:
    orders = [
        {"metric": "test_acc1", "better": cell(first), "than": cell(second)}
        for first, second in (("origin", "maxpool"), ("maxpool", "dropout"))
    ]
    folder = folder_with(make_folder, *orders, {"kind": "all_above"}, *orders)
    fill(folder, final(origin=35, maxpool=34.7, dropout=34.6), noise=0.3)
    rulings = [ruling for ruling in folder.analysed().claims if ruling.p is not None]
    expected = multipletests([ruling.p for ruling in rulings], method="holm")[1]
    assert [ruling.p_holm for ruling in rulings] == pytest.approx(expected)
    assert len(rulings) == 4


def test_a_claim_about_cells_without_results_is_inconclusive_and_says_why(make_folder: MakeFolder) -> None:
    folder = folder_with(make_folder, ORDER, {"metric": "test_acc1", "better": {"depth": 50, "head": "origin"}, "than": cell("maxpool")})
    folder.add(key("origin"), "confirm", 0, {"test_acc1": [1.0] * EPOCHS})
    missing, absent = folder.analysed().claims
    assert (missing.verdict, absent.verdict) == ("inconclusive", "inconclusive")
    assert "no figure yet" in missing.because
    assert "this grid has no cell" in absent.because


def test_every_kind_of_claim_has_a_judge() -> None:
    assert {*claims._EVIDENCE, "all_above"} == set(KINDS)


def test_the_reports_claims_are_all_written_down_and_can_be_ruled_on(make_folder: MakeFolder) -> None:
    written = experiment.read("depth_x_head")
    numbers = [int(claim.text.split(".")[0]) for claim in written.claims]
    assert sorted(set(numbers)) == list(range(1, 15))
    for number in set(numbers) - {11, 14}:
        texts = [claim.text for claim in written.claims if claim.text.startswith(f"{number}.")]
        assert {"(ResNet-18)", "(ResNet-50)"} == {text.split()[-1] for text in texts}
    resolved = written.resolved()
    folder = make_folder(**{name: resolved[name] for name in ("grid", "claims", "confirm")}, recipe={"epochs": EPOCHS})
    draw = np.random.default_rng(0)
    for one in folder.experiment.cells():
        for seed in SEEDS:
            curve = {
                name: draw.normal(30, 1, EPOCHS).tolist() for name in ("test_loss", "test_acc1", "test_acc5", "test_f1", "train_eval_loss")
            }
            folder.add(one.key, "confirm", seed, curve)
    rulings = folder.analysed().claims
    assert len(rulings) == len(written.claims)
    assert all(ruling.figures for ruling in rulings[:-1])


def test_claims_of_no_true_difference_are_ruled_on_in_at_most_one_experiment_of_twenty(make_folder: MakeFolder) -> None:
    orders = [
        {"metric": metric, "better": cell(first), "than": cell(second)}
        for metric in ("test_acc1", "test_loss", "test_f1")
        for first, second in (("origin", "maxpool"), ("origin", "dropout"))
    ]
    folder = folder_with(make_folder, *orders, recipe={"epochs": 1})
    draw = np.random.default_rng(2)
    ruled = 0
    for _ in range(40):
        for head in HEADS:
            for seed in SEEDS:
                folder.add(key(head), "confirm", seed, {name: [draw.normal(30, 1)] for name in ("test_acc1", "test_loss", "test_f1")})
        ruled += any(verdict != "inconclusive" for verdict in verdicts(folder))
    assert ruled <= 5  # 2 expected; more than 5 has a chance of 1 %
