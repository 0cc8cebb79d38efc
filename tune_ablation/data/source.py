"""What a data set must offer to be trained on: its images' order, classes and parts, and their pixels in blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Indices = NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called as progress(done, total), from `prepare` in images and from `download` in bytes."""


class DataSpec(Protocol):
    """What of a data set is asked for; any object with these attributes will do.

    `classes`, `train_per_class` and `test_per_class` of None mean all there are (for the synthetic set: its defaults).
    """

    @property
    def dataset(self) -> str:
        """Name of the data set, a key of `DATASETS`."""

    @property
    def classes(self) -> int | None:
        """How many classes to draw."""

    @property
    def train_per_class(self) -> int | None:
        """Training images of a class, after val was held out."""

    @property
    def val_per_class(self) -> int:
        """Images of a class held out of train."""

    @property
    def test_per_class(self) -> int | None:
        """Test images of a class."""

    @property
    def image_size(self) -> int:
        """Side of a synthetic image in pixels; real images have the size they have."""

    @property
    def seed(self) -> int:
        """Everything drawn (classes, held-out images, synthetic images) is drawn from this seed."""


class Part(IntEnum):
    """The part of a data set that an image was published in; VAL only where it comes with a part for tuning."""

    TRAIN = 0
    VAL = 1
    TEST = 2


@dataclass(frozen=True, eq=False)
class Source:
    """One data set as found, before any slice of it is taken.

    Attributes:
        name: Its key in `DATASETS`, the first half of the cache folder's name.
        where: What messages call it.
        fingerprint: Hexadecimal digest of its content; equal content has equal digests wherever and however it lies.
        class_names: One name per class, in the order of the labels.
        labels: int64 [N], the class of every image.
        parts: int8 [N], the `Part` of every image.
        image_size: Height and width of every image.
        blocks: Starts decoding: yields uint8 [n, H, W, 3] blocks in the images' order, N images in all.
    """

    name: str
    where: str
    fingerprint: str
    class_names: tuple[str, ...]
    labels: Indices
    parts: NDArray[np.int8]
    image_size: int
    blocks: Callable[[], Iterator[Pixels]]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of all its images together: N, H, W, 3."""
        return len(self.labels), self.image_size, self.image_size, 3
