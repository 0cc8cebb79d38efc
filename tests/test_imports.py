"""What may load what: each rule is tried in a fresh interpreter, where an import cannot hide behind another test's."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_TORCH_AND_RAY = (
    "tune_ablation",
    "tune_ablation.experiment",
    "tune_ablation.claims",
    "tune_ablation.plan",
    "tune_ablation.records",
    "tune_ablation.results",
    "tune_ablation.samplers",
    "tune_ablation.storage",
    "tune_ablation.models",
    "tune_ablation.models.heads",
    "tune_ablation.data",
    "tune_ablation.data.augment",
    "tune_ablation.training",
    "tune_ablation.training.schedules",
    "analysis",
    "analysis.load",
    "analysis.cli",
)
WITH_TORCH_ALONE = (
    "tune_ablation.training.loop",
    "tune_ablation.training.stored",
    "tune_ablation.training.checkpoint",
    "tune_ablation.data",
    "tune_ablation.data.batches",
    "tune_ablation.models.resnet",
    "tune_ablation.models.profile",
)


def loaded(code: str, *packages: str) -> list[str]:
    """Which of the packages a fresh interpreter has loaded after running the code."""
    program = f"{code}\nimport sys\nprint(*(name for name in {packages!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def imports(modules: tuple[str, ...]) -> str:
    return "\n".join(f"import {module}" for module in modules)


def test_the_question_the_plan_the_records_and_the_analysis_load_neither_torch_nor_ray() -> None:
    assert loaded(imports(WITHOUT_TORCH_AND_RAY), "torch", "torchvision", "ray") == []


def test_reading_and_planning_an_experiment_loads_neither_torch_nor_ray() -> None:
    code = "from tune_ablation import experiment, plan\nplan.ready(experiment.read('quickstart'), {})"
    assert loaded(code, "torch", "torchvision", "ray") == []


def test_models_data_and_training_need_neither_ray_nor_optuna_polars_pydantic() -> None:
    assert loaded(imports(WITH_TORCH_ALONE), "ray", "optuna", "polars", "pydantic") == []


@pytest.mark.parametrize("module", ["tune_ablation.records", "tune_ablation.errors", "tune_ablation.seeds"])
def test_records_need_the_standard_library_alone(module: str) -> None:
    code = f"import sys; before = set(sys.modules)\nimport {module}\nnew = {{name.split('.')[0] for name in set(sys.modules) - before}}"
    code += "\nassert new <= set(sys.stdlib_module_names) | {'tune_ablation'}, new"
    assert loaded(code) == []


def test_the_plan_loads_optuna_only_when_it_asks() -> None:
    assert loaded("import tune_ablation.plan", "optuna", "scipy") == []
