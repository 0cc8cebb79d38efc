"""The meter against scikit-learn on the same predictions."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import metrics

from tune_ablation.records import HIGHER_IS_BETTER
from tune_ablation.training.metrics import Meter

CPU = torch.device("cpu")


def measured(logits: torch.Tensor, labels: torch.Tensor, cuts: tuple[int, ...] = ()) -> dict[str, float]:
    meter = Meter(logits.shape[1], CPU)
    for start, end in pairwise((0, *cuts, len(labels))):
        meter.add(logits[start:end], labels[start:end])
    return meter.measures()


def reference(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    scores, true, classes = logits.double().numpy(), labels.numpy(), logits.shape[1]
    predicted, names = scores.argmax(1), list(range(classes))
    k = min(5, classes)
    top = 1.0 if k == classes else metrics.top_k_accuracy_score(true, scores, k=k, labels=names) if classes > 2 else math.nan
    return {
        "loss": metrics.log_loss(true, torch.from_numpy(scores).softmax(1).numpy(), labels=names),
        "acc1": 100 * metrics.accuracy_score(true, predicted),
        "acc5": 100 * top,
        "f1": 100 * metrics.f1_score(true, predicted, average="macro"),
    }


def drawn(images: int, classes: int, seed: int, *, signal: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    logits = torch.randn(images, classes, generator=generator) + signal * torch.nn.functional.one_hot(labels, classes)
    return logits, labels


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 6, 10, 200])
@pytest.mark.parametrize("signal", [0.0, 2.0])
def test_random_logits_in_several_batches(classes: int, signal: float) -> None:
    logits, labels = drawn(311, classes, seed=classes, signal=signal)
    assert measured(logits, labels, (100, 101, 250)) == pytest.approx(reference(logits, labels), rel=1e-6)


def test_classes_that_are_absent_from_labels_or_predictions() -> None:
    logits, labels = drawn(60, 10, seed=0)
    logits[:, [2, 3]] = -20  # never predicted; scikit-learn clips what is less likely still
    labels[(labels == 4) | (labels == 3)] = 5  # 4 never there, 3 neither there nor predicted
    assert measured(logits, labels) == pytest.approx(reference(logits, labels), rel=1e-6)


def test_one_image() -> None:
    logits, labels = drawn(1, 7, seed=3)
    assert measured(logits, labels) == pytest.approx(reference(logits, labels), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_with_their_many_ties(dtype: torch.dtype) -> None:
    logits, labels = drawn(2000, 50, seed=1)
    rough = (logits.to(dtype) * 4).round() / 4
    assert len(set(rough[0].tolist())) < 50, "there are ties"
    ours, theirs = measured(rough, labels, (700,)), reference(rough.float(), labels)
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_collapsed_network_scores_chance_and_not_everything() -> None:
    labels = torch.arange(10).repeat(4)
    ours = measured(torch.zeros(40, 10), labels)
    assert ours == pytest.approx(reference(torch.zeros(40, 10), labels))
    assert ours["acc1"] == 10
    assert ours["acc5"] == 50


def test_the_measures_are_those_of_the_record() -> None:
    assert list(measured(*drawn(5, 6, seed=0))) == list(HIGHER_IS_BETTER)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stays_one(bad: float) -> None:
    logits, labels = drawn(20, 6, seed=0)
    logits[3, 2] = bad
    assert not math.isfinite(measured(logits, labels)["loss"])


def test_splitting_into_batches_only_moves_the_last_bits_of_the_loss() -> None:
    logits, labels = drawn(500, 20, seed=5)
    whole, parts = measured(logits, labels), measured(logits, labels, tuple(range(7, 500, 7)))
    assert {name: whole[name] for name in ("acc1", "acc5", "f1")} == {name: parts[name] for name in ("acc1", "acc5", "f1")}
    assert np.isclose(whole["loss"], parts["loss"], rtol=1e-6)
