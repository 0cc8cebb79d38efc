"""The live view and its plain counterpart, drawn from real results without a terminal's help."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tune_ablation import experiment, plan
from tune_ablation.runner.progress import Board
from tune_ablation.runner.searcher import PlanSearcher


@pytest.fixture
def quickstart() -> experiment.Experiment:
    return experiment.read("quickstart")


def begun(asked: experiment.Experiment, width: int = 80) -> tuple[PlanSearcher, Board, io.StringIO]:
    """A searcher with two finished trials, one of them diverged, and two running."""
    first, second, *_ = plan.ready(asked, {})
    searcher = PlanSearcher(asked, {first.key: plan.Result(first.lr, 61.5), second.key: plan.Result(second.lr, None)})
    searcher.suggest("a")
    searcher.suggest("b")
    screen = io.StringIO()
    return searcher, Board(asked, searcher, Console(file=screen, width=width, color_system=None)), screen


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_view_has_one_whole_line_a_cell(quickstart: experiment.Experiment, width: int) -> None:
    searcher, board, screen = begun(quickstart, width)
    board.on_epoch(searcher.running["a"], {"epoch": 3, "epoch_seconds": 1.0})
    Console(file=screen, width=width, color_system=None).print(board.render())
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in screen.getvalue()
    for cell in quickstart.cells():
        assert sum(line.startswith(cell.key) for line in lines) == 1
    first, second = (next(line for line in lines if line.startswith(key)) for key in ("resnet18_origin", "resnet18_maxpool"))
    assert "1/3" in first
    assert "61.5" in first
    assert second.split()[3:] == ["1", f"{plan.ready(quickstart, {})[1].lr:.3g}"]
    assert "3/8" in screen.getvalue()
    assert "2/36 trials" in lines[-1]


def test_without_a_terminal_each_finished_trial_is_one_line(quickstart: experiment.Experiment) -> None:
    searcher, board, screen = begun(quickstart)
    searcher.listener = board
    trial = searcher.running["a"]
    with board:
        searcher.on_trial_result("a", {"epoch": 8, "epoch_seconds": 1.0})
        last = {"finished": True, "diverged": False, "objective": 70.25, "test_acc1": 68.0}
        searcher.on_trial_complete("a", last)
    (line,) = screen.getvalue().splitlines()
    assert line.startswith(f"[3/36] {trial.key}: lr {trial.lr:.3g}, val_acc1 70.25, ")
    assert line.endswith(" left")


def test_a_stopped_trial_is_neither_finished_nor_failed(quickstart: experiment.Experiment) -> None:
    searcher, _, _ = begun(quickstart)
    trial = searcher.running["a"]
    searcher.on_trial_complete("a", {"finished": False})
    assert trial.key not in searcher.results
    assert trial.key not in searcher.failed


def test_a_failed_trial_blocks_its_own_cell_alone(quickstart: experiment.Experiment) -> None:
    searcher, _, _ = begun(quickstart)
    failed = searcher.running["a"]
    searcher.on_trial_complete("a", error=True)
    while isinstance(config := searcher.suggest(f"more-{len(searcher.running)}"), dict):
        assert config["cell"] != failed.cell.key


def test_a_trial_whose_worker_died_is_handed_out_again_so_many_times(quickstart: experiment.Experiment) -> None:
    searcher = PlanSearcher(quickstart, {}, retries=2)
    for failures in range(3):
        config = searcher.suggest("a")
        assert isinstance(config, dict)
        assert (config["key"], config["failures"]) == ("resnet18_origin/search/000", failures)
        assert not searcher.failed
        searcher.on_trial_complete("a", error=True)
    assert set(searcher.failed) == {"resnet18_origin/search/000"}
    assert searcher.failures["resnet18_origin/search/000"] == 3


def test_at_most_so_many_trials_run_at_once(quickstart: experiment.Experiment) -> None:
    searcher = PlanSearcher(quickstart, {}, parallel=2)
    assert isinstance(searcher.suggest("a"), dict)
    assert isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None


def test_nothing_left_to_suggest_is_said_so(quickstart: experiment.Experiment) -> None:
    done = {key: plan.Result(0.01, 1.0) for key in plan.all_keys(quickstart)}
    assert PlanSearcher(quickstart, done).suggest("a") == PlanSearcher.FINISHED
