"""One small prepared data set, and trials on it, for all tests of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_ablation import plan
from tune_ablation.data import PreparedData, prepare
from tune_ablation.data.batches import Batches
from tune_ablation.experiment import Experiment, parse
from tune_ablation.training.loop import TrialSpec

MakeExperiment = Callable[..., Experiment]
MakeSpec = Callable[..., TrialSpec]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The same sums on every machine; and on a busy one, threads that wait for each other take seconds for a step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def make_experiment() -> MakeExperiment:
    def make(name: str = "tiny", *, head: tuple[str, ...] = ("origin",), lr: float = 0.05, width: int = 4, **recipe: Any) -> Experiment:
        content = {
            "name": name,
            "data": {"classes": 6, "train_per_class": 8, "val_per_class": 3, "test_per_class": 5, "image_size": 32},
            "model": {"width": width},
            "grid": {"depth": [18], "head": list(head)},
            "recipe": {"epochs": 3, "batch_size": 16, "lr": lr} | recipe,
            "search": {"trials_per_cell": 0},
            "confirm": {"seeds": [3]},
        }
        return parse(content, "the test's experiment")

    return make


@pytest.fixture(scope="session")
def prepared(make_experiment: MakeExperiment, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(make_experiment().data, None, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def batches(prepared: PreparedData) -> Batches:
    return Batches(prepared, torch.device("cpu"))


@pytest.fixture(scope="session")
def make_spec(make_experiment: MakeExperiment) -> MakeSpec:
    """A trial of one cell on the small data; keywords as in the recipe, and ``head``, ``width``, ``lr``, ``seed``."""

    def make(head: str = "origin", *, seed: int = 3, **recipe: Any) -> TrialSpec:
        experiment = make_experiment(head=(head,), **recipe)
        (cell,) = experiment.cells()
        assert experiment.recipe.lr is not None
        return TrialSpec(
            experiment=experiment.name,
            trial=plan.trial_key(cell.key, "confirm", seed),
            cell=cell.key,
            factors=cell.levels,
            stage="confirm",
            number=seed,
            seed=seed,
            lr=experiment.recipe.lr,
            model=cell.model,
            recipe=cell.recipe,
        )

    return make


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"
