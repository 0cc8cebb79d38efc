"""What holds for every data set of the registry."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tune_ablation.data import DATASETS, prepare
from tune_ablation.data.datasets import DEFAULT_CLASSES
from tune_ablation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tune_ablation.data import DataSpec

    MakeSpec = Callable[..., DataSpec]


@pytest.mark.parametrize("dataset", DATASETS)
def test_preparing_twice_gives_the_same_and_decodes_once(dataset: str, tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec(dataset=dataset, classes=3, train_per_class=5, test_per_class=4)
    path = None if dataset == "synthetic" else tiny_zip
    calls: list[tuple[int, int]] = []
    first, second = (
        prepare(spec, path, cache_dir=tmp_path / "cache", progress=lambda done, total: calls.append((done, total))) for _ in range(2)
    )
    assert [done for done, _ in calls].count(0) == 1, "one decoding began"
    assert calls[-1] == (len(first.images), len(first.images))
    assert first.fingerprint == second.fingerprint
    np.testing.assert_array_equal(first.images, second.images)
    for split, indices in first.splits.items():
        np.testing.assert_array_equal(indices, second.splits[split])


@pytest.mark.parametrize("dataset", DATASETS)
def test_mean_and_deviation_are_those_of_the_train_split(dataset: str, tiny_zip: Path, make_spec: MakeSpec, tmp_path: Path) -> None:
    path = None if dataset == "synthetic" else tiny_zip
    data = prepare(make_spec(dataset=dataset, classes=3, train_per_class=5), path, cache_dir=tmp_path / "cache")
    pixels = data.images[data.splits["train"]].reshape(-1, 3) / 255
    np.testing.assert_allclose(data.mean, pixels.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(data.std, pixels.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_number_of_classes_is_known_without_the_data(dataset: str) -> None:
    assert DEFAULT_CLASSES[dataset] >= 2


def test_an_unknown_data_set_is_refused_with_the_known_ones(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'mnist' is not known; allowed: synthetic, tiny-imagenet"):
        prepare(make_spec(dataset="mnist"), None, cache_dir=tmp_path)


def test_the_data_part_loads_without_torch_and_ray() -> None:
    script = (
        "import sys, tune_ablation.data, tune_ablation.data.download, tune_ablation.data.progress;"
        "sys.exit(bool({'torch', 'ray', 'optuna', 'polars', 'pydantic'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
