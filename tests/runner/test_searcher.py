"""The searcher asks only the cells that changed; what it hands out is what the whole plan would say."""

from __future__ import annotations

import random

import pytest

from tune_ablation import experiment, plan
from tune_ablation.runner.searcher import PlanSearcher


def asked(parallel_per_cell: int) -> experiment.Experiment:
    content = {
        "name": "many",
        "grid": {"depth": [18, 34], "head": ["origin", "maxpool", "dropout"]},
        "search": {"trials_per_cell": 4, "parallel_per_cell": parallel_per_cell, "sampler": "random"},
        "confirm": {"seeds": [0, 1]},
    }
    return experiment.parse(content, "here")


@pytest.mark.parametrize("parallel_per_cell", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_it_hands_out_the_first_ready_trial_of_the_plan_whatever_ends_when(parallel_per_cell: int, seed: int) -> None:
    draw = random.Random(seed)  # noqa: S311 - an order, not a secret
    question = asked(parallel_per_cell)
    searcher = PlanSearcher(question, {})
    trials: dict[str, str] = {}
    for step in range(1000):
        taken = set(trials.values()) | set(searcher.failed)
        left = [trial for trial in plan.ready(question, searcher.results) if trial.key not in taken]
        given = searcher.suggest(str(step))
        if isinstance(given, dict):
            assert (given["key"], given["lr"]) == (left[0].key, left[0].lr)
            trials[str(step)] = given["key"]
        else:
            assert not left
            if not trials:
                assert given == PlanSearcher.FINISHED
                break
        if trials and (not isinstance(given, dict) or draw.random() < 0.4):
            ended = draw.choice(list(trials))
            key = trials.pop(ended)
            how = draw.random()
            last = {"finished": True, "diverged": False, "objective": float(len(key)), "test_acc1": 0.0} if how > 0.1 else None
            searcher.on_trial_complete(ended, last, error=last is None and draw.random() < 0.2)
    else:
        pytest.fail("it never came to an end")


def test_a_finished_trial_has_its_own_cell_asked_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = PlanSearcher(asked(1), {})
    first = searcher.suggest("a")
    assert isinstance(first, dict)
    cells = []
    ready_in_cell = plan.ready_in_cell

    def noted(question: experiment.Experiment, cell: experiment.Cell, results: plan.Results) -> list[tuple[plan.Turn, plan.Trial]]:
        cells.append(cell.key)
        return ready_in_cell(question, cell, results)

    monkeypatch.setattr(plan, "ready_in_cell", noted)
    assert isinstance(searcher.suggest("b"), dict)
    assert cells == []
    searcher.on_trial_complete("a", {"finished": True, "diverged": False, "objective": 1.0, "test_acc1": 0.0})
    searcher.suggest("c")
    assert cells == [first["cell"]]
