"""Batches: the right images, normalised, in an order that the generator alone decides."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tune_ablation.data import PreparedData, prepare
from tune_ablation.data.batches import EVAL_BATCH, Batches

SPEC = SimpleNamespace(dataset="synthetic", classes=5, train_per_class=11, val_per_class=3, test_per_class=4, image_size=32, seed=0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return prepare(SPEC, None, cache_dir=tmp_path_factory.mktemp("cache"))


def normalised(data: PreparedData, index: np.ndarray) -> np.ndarray:
    images: np.ndarray = (data.images[index].astype(np.float64) / 255 - data.mean) / data.std
    return images.transpose(0, 3, 1, 2)


def trained(batches: Batches, batch_size: int, seed: int = 0, augment: str = "none") -> list[tuple[torch.Tensor, torch.Tensor]]:
    order, augmentation = (torch.Generator().manual_seed(seed + more) for more in (0, 100))
    return list(batches.train(batch_size, augment, order, augmentation))


def test_counts_are_those_of_the_splits(data: PreparedData) -> None:
    batches = Batches(data, CPU)
    assert {split: batches.count(split) for split in data.splits} == {"train": 55, "val": 15, "test": 20, "train_eval": 20}
    assert (batches.classes, batches.image_size, batches.fingerprint) == (5, 32, data.fingerprint)


@pytest.mark.parametrize("split", ["val", "test", "train_eval"])
def test_evaluation_gives_a_split_in_order_normalised(data: PreparedData, split: str) -> None:
    images, labels = (torch.cat(parts) for parts in zip(*Batches(data, CPU).evaluation(split), strict=True))
    np.testing.assert_allclose(images.numpy(), normalised(data, data.splits[split]), atol=1e-5)
    np.testing.assert_array_equal(labels.numpy(), data.labels[data.splits[split]])


def test_evaluation_batches_are_full_but_for_the_last(data: PreparedData) -> None:
    many = np.resize(data.splits["test"], 2 * EVAL_BATCH + 7)
    batches = Batches(dataclasses.replace(data, splits=data.splits | {"test": many}), CPU)
    sizes = [len(labels) for _, labels in batches.evaluation("test")]
    assert sizes == [EVAL_BATCH, EVAL_BATCH, 7]


def test_normalised_training_images_have_mean_0_and_deviation_1(data: PreparedData) -> None:
    whole = Batches(dataclasses.replace(data, splits=data.splits | {"test": data.splits["train"]}), CPU)
    images = torch.cat([images for images, _ in whole.evaluation("test")])
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_an_epoch_is_whole_batches_of_different_training_images(data: PreparedData) -> None:
    batches = Batches(data, CPU)
    assert [batches.steps(size) for size in (10, 11, 27, 55, 56)] == [5, 5, 2, 1, 1]
    epoch = trained(batches, 10)
    assert [images.shape for images, _ in epoch] == [(10, 3, 32, 32)] * 5
    own = {image.tobytes(): label for image, label in training(data)}
    seen = [image.numpy().tobytes() for images, _ in epoch for image in rounded(images, data)]
    assert len(set(seen)) == 50, "no image twice"
    labels = torch.cat([labels for _, labels in epoch])
    assert [own[image] for image in seen] == labels.tolist(), "each with its own label, none from another split"


def training(data: PreparedData) -> list[tuple[np.ndarray, int]]:
    index = data.splits["train"]
    return [(image.transpose(2, 0, 1), int(label)) for image, label in zip(data.images[index], data.labels[index], strict=True)]


def rounded(images: torch.Tensor, data: PreparedData) -> torch.Tensor:
    """The pixels that a normalised batch was made of."""
    mean, std = (torch.from_numpy(part)[:, None, None] for part in (data.mean, data.std))
    return ((images * std + mean) * 255).round().to(torch.uint8)


def test_fewer_images_than_a_batch_make_one_smaller_batch(data: PreparedData) -> None:
    assert [len(labels) for _, labels in trained(Batches(data, CPU), 1000)] == [55]


def test_the_order_is_the_generators(data: PreparedData) -> None:
    batches = Batches(data, CPU)
    first, again, other = (torch.cat([images for images, _ in trained(batches, 11, seed)]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    trained(batches, 11, augment="flip-crop")
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_moves_no_image_to_another_place_in_the_order(data: PreparedData) -> None:
    batches = Batches(data, CPU)
    plain, moved = (torch.cat([labels for _, labels in trained(batches, 11, augment=name)]) for name in ("none", "flip-crop"))
    assert torch.equal(plain, moved)


@pytest.mark.parametrize("augment", ["none", "flip-crop"])
def test_batches_are_channels_last_float32_and_int64(data: PreparedData, augment: str) -> None:
    images, labels = trained(Batches(data, CPU), 11, augment=augment)[0]
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64


def test_the_cached_images_are_mapped_and_never_written_to(tmp_path: Path) -> None:
    data = prepare(SPEC, None, cache_dir=tmp_path)
    before = np.array(data.images)
    batches = Batches(data, CPU)
    for images, _ in [*trained(batches, 11, augment="random-resized-crop"), *batches.evaluation("val")]:
        images.zero_()
    assert isinstance(data.images, np.memmap)
    assert not data.images.flags.writeable
    np.testing.assert_array_equal(data.images, before)


def test_another_device_holds_the_images_used_and_gives_the_same(data: PreparedData) -> None:
    """Torch's meta device has shapes and no values: what is copied there is what a GPU would hold."""
    small = dataclasses.replace(data, splits=data.splits | {"train": data.splits["train"][:20]})
    batches = Batches(small, torch.device("meta"))
    assert batches._images.shape[0] == 20 + 15 + 20 + len(set(data.splits["train_eval"]) - set(data.splits["train"][:20]))
    assert next(batches.evaluation("test"))[0].shape == (20, 3, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_images_of_the_cpu(data: PreparedData) -> None:
    here, there = Batches(data, CPU), Batches(data, torch.device("cuda"))
    for augment in ("none", "flip-crop", "random-resized-crop"):
        for (images, labels), (other, other_labels) in zip(
            trained(here, 11, augment=augment), trained(there, 11, augment=augment), strict=True
        ):
            torch.testing.assert_close(images, other.cpu(), atol=1e-4, rtol=1e-4)
            assert torch.equal(labels, other_labels.cpu())
