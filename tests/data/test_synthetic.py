"""The synthetic set is the same on every machine, and can be learned without being trivial."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tune_ablation.data import prepare
from tune_ablation.data.synthetic import CLASS_NAMES, open_synthetic
from tune_ablation.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tune_ablation.data import DataSpec

    MakeSpec = Callable[..., DataSpec]


def drawn(spec: DataSpec, cache: Path) -> np.ndarray:
    source = open_synthetic(spec, None, cache)
    images = np.concatenate(list(source.blocks()))
    assert images.shape == source.shape
    assert images.dtype == np.uint8
    return images


def test_the_pixels_of_version_one_never_change(make_spec: MakeSpec, tmp_path: Path) -> None:
    # Pinned on purpose: results and caches name the drawing's version, so other pixels need another version (and a new line here).
    spec = make_spec(dataset="synthetic", classes=20, train_per_class=2, val_per_class=1, test_per_class=1, image_size=32, seed=5)
    assert hashlib.sha256(drawn(spec, tmp_path).tobytes()).hexdigest() == "87b5e9d9a59cc307990ce90335c65e30a5cbb7ba5d18ba8f3f6d2bb93f913a17"


def test_defaults_are_a_small_set_of_ten_classes(make_spec: MakeSpec, tmp_path: Path) -> None:
    data = prepare(make_spec(dataset="synthetic", val_per_class=10), None, cache_dir=tmp_path)
    assert {split: len(indices) for split, indices in data.splits.items()} == {"train": 600, "val": 100, "test": 300, "train_eval": 300}
    assert data.class_names == CLASS_NAMES[:10]
    assert data.images.shape == (1000, 64, 64, 3)
    assert isinstance(data.images, np.memmap)


def test_more_images_of_one_part_change_no_other_image(make_spec: MakeSpec, tmp_path: Path) -> None:
    def splits(**changes: int) -> dict[str, np.ndarray]:
        spec = make_spec(dataset="synthetic", **({"classes": 2, "train_per_class": 4, "test_per_class": 3} | changes))
        data = prepare(spec, None, cache_dir=tmp_path)
        return {split: data.images[indices] for split, indices in data.splits.items()}

    few, many = splits(), splits(train_per_class=6)
    np.testing.assert_array_equal(few["val"], many["val"])
    np.testing.assert_array_equal(few["test"], many["test"])
    np.testing.assert_array_equal(few["train"], many["train"][[0, 1, 2, 3, 6, 7, 8, 9]])
    assert not np.array_equal(few["val"], splits(seed=1)["val"])


def test_a_class_shows_in_the_pixels_but_not_in_single_ones(make_spec: MakeSpec, tmp_path: Path) -> None:
    """A class's average picture beats chance by far, and falls far short of what a network reaches."""
    data = prepare(make_spec(dataset="synthetic"), None, cache_dir=tmp_path)
    train, test = data.splits["train"], data.splits["test"]
    averages = np.stack([data.images[train][data.labels[train] == label].mean(axis=0) for label in range(10)])
    distances = ((data.images[test][:, None].astype(np.float32) - averages) ** 2).sum(axis=(2, 3, 4))
    accuracy = (distances.argmin(axis=1) == data.labels[test]).mean()
    assert 0.2 < accuracy < 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 21}, "classes = 21 .* 2 to 20"),
        ({"classes": 1}, "classes = 1 .* 2 to 20"),
        ({"image_size": 8}, "image_size = 8 .* 16 to 256"),
        ({"train_per_class": 0}, "train_per_class = 0 .* 1 to"),
        ({"val_per_class": -1}, "val_per_class = -1 .* 0 to"),
        ({"seed": -1}, "seed = -1 is negative"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, int], message: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        prepare(make_spec(dataset="synthetic", **change), None, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_path_is_refused_with_what_to_do(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"takes no path, but .*some.zip was given.*`tune-ablation data download`"):
        prepare(make_spec(dataset="synthetic"), tmp_path / "some.zip", cache_dir=tmp_path)
