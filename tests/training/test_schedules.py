"""Learning-rate schedules against torch's own, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch.optim import lr_scheduler

from tune_ablation.training.schedules import SCHEDULES, learning_rate_factor


@dataclass(frozen=True)
class Recipe:
    epochs: int = 6
    schedule: str = "constant"
    warmup_epochs: int = 0
    step_epochs: int = 2
    step_gamma: float = 0.1


def factors(recipe: Recipe, steps: int = 5) -> list[float]:
    return [learning_rate_factor(recipe, epoch, step, steps) for epoch in range(1, recipe.epochs + 1) for step in range(steps)]


def torchs(make: Callable[..., lr_scheduler.LRScheduler], steps: int, **options: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant_is_one() -> None:
    assert factors(Recipe()) == [1.0] * 30


@pytest.mark.parametrize(("step_epochs", "gamma"), [(2, 0.1), (1, 0.5), (4, 0.2), (30, 0.1)])
def test_step_is_torchs(step_epochs: int, gamma: float) -> None:
    ours = factors(Recipe(schedule="step", step_epochs=step_epochs, step_gamma=gamma))
    assert ours == pytest.approx(torchs(lr_scheduler.StepLR, 30, step_size=step_epochs * 5, gamma=gamma))


@pytest.mark.parametrize("epochs", [1, 2, 6])
def test_cosine_is_torchs_and_ends_near_zero(epochs: int) -> None:
    ours = factors(Recipe(schedule="cosine", epochs=epochs))
    assert ours == pytest.approx(torchs(lr_scheduler.CosineAnnealingLR, epochs * 5, T_max=epochs * 5))
    assert ours[0] == 1.0
    assert ours[-1] < 0.1
    assert ours == sorted(ours, reverse=True)
    long = factors(Recipe(schedule="cosine", epochs=epochs), steps=1000)
    assert 0 < long[-1] < 1e-5


@pytest.mark.parametrize("warmup", [1, 2, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_starts_with_torchs_linear_ramp(name: str, warmup: int) -> None:
    ours = factors(Recipe(schedule=name, warmup_epochs=warmup))
    ramp = torchs(lr_scheduler.LinearLR, warmup * 5, start_factor=1 / (warmup * 5), total_iters=warmup * 5 - 1)
    assert ours[: warmup * 5] == pytest.approx(ramp)
    assert ours[warmup * 5 - 1] == 1.0, "the last warm-up step is the full rate, exactly"
    assert all(0 < factor <= 1 for factor in ours)


def test_cosine_after_a_warmup_spans_the_epochs_that_are_left() -> None:
    ours = factors(Recipe(schedule="cosine", warmup_epochs=2))
    assert ours[10:] == pytest.approx(torchs(lr_scheduler.CosineAnnealingLR, 20, T_max=20))


def test_a_warmup_does_not_shift_the_steps() -> None:
    plain, warmed = (factors(Recipe(schedule="step", warmup_epochs=warmup)) for warmup in (0, 1))
    assert plain[5:] == warmed[5:]


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_factor_depends_on_progress_and_not_on_the_number_of_steps(name: str) -> None:
    recipe = Recipe(schedule=name)
    for epoch in range(1, 7):
        assert math.isclose(learning_rate_factor(recipe, epoch, 0, 5), learning_rate_factor(recipe, epoch, 0, 50))
