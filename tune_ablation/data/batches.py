"""Prepared images as batches on a device: uint8 in memory once, normalised a whole batch at a time, no per-image Python."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from tune_ablation.data.augment import AUGMENTATIONS

if TYPE_CHECKING:
    from tune_ablation.data import PreparedData

EVAL_BATCH = 250
"""Images a batch in evaluation: part of the contract, since summation order shows in the last bits of a loss."""


class Batches:
    """The images of one prepared data set, on one device, shared by every trial of the process.

    On the CPU they stay memory-mapped, so all processes of a machine share one copy; on a GPU the images that the splits use are
    copied to it once.

    Args:
        data: what ``tune_ablation.data.prepare`` gave.
        device: where batches are wanted.
    """

    def __init__(self, data: PreparedData, device: torch.device) -> None:
        self.device = device
        self.fingerprint = data.fingerprint
        self.classes = len(data.class_names)
        self.image_size = int(data.images.shape[1])
        splits, images, labels = data.splits, data.images, data.labels
        if device.type != "cpu":
            used = np.unique(np.concatenate(list(splits.values())))
            splits = {name: np.searchsorted(used, index) for name, index in splits.items()}
            images, labels = images[used], labels[used]
        with warnings.catch_warnings():
            # The map is read-only and nothing here writes to it: every batch is an indexed copy.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self._images = torch.from_numpy(images).to(device)
        self._labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self._splits = {name: torch.from_numpy(index.astype(np.int64)) for name, index in splits.items()}
        self._mean = torch.from_numpy(data.mean * 255).to(device)
        self._scale = torch.from_numpy(1 / (data.std * 255)).to(device)

    def count(self, split: str) -> int:
        """How many images a split has."""
        return len(self._splits[split])

    def steps(self, batch_size: int) -> int:
        """Steps of a training epoch: whole batches only, the rest sits this epoch out; one smaller batch if that is all."""
        return max(1, self.count("train") // batch_size)

    def train(
        self, batch_size: int, augment: str, order: torch.Generator, augmentation: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One epoch of shuffled, augmented training batches.

        Args:
            batch_size: images a step.
            augment: a name in ``AUGMENTATIONS``.
            order: CPU generator of the permutation.
            augmentation: CPU generator of the augmentation.

        Yields:
            images [B, 3, H, W] float32 (channels_last, normalised) and labels [B] int64.
        """
        index = self._splits["train"]
        index = index[torch.randperm(len(index), generator=order)].to(self.device)
        for step in range(self.steps(batch_size)):
            images, labels = self._batch(index[step * batch_size : (step + 1) * batch_size])
            yield AUGMENTATIONS[augment](images, augmentation), labels

    def evaluation(self, split: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A split's images in order, un-augmented, the last batch as small as it comes out; shapes as ``train``'s."""
        for index in torch.split(self._splits[split].to(self.device), EVAL_BATCH):
            yield self._batch(index)

    def _batch(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Stored NHWC: the permuted view is channels_last as it is.
        images = self._images[index].to(torch.float32).sub_(self._mean).mul_(self._scale)
        return images.permute(0, 3, 1, 2), self._labels[index]
