"""The splits: which classes and which images train, tune and test, drawn from a seed and from nothing else.

Every draw has a random stream of its own, keyed by the seed, the purpose and the class, so that no draw moves another:
a class holds out the same val images whatever the other numbers are, and a smaller `train_per_class` is a subset.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tune_ablation.data.source import DataSpec, Indices, Part, Pixels, Source
from tune_ablation.errors import UserError

SPLITS = ("train", "val", "test", "train_eval")


class _Purpose(IntEnum):
    """Second element of a random stream's key. The numbers are part of every result: never renumber them."""

    CLASSES = 0
    TRAIN = 1
    TEST = 2
    TRAIN_EVAL = 3


@dataclass(frozen=True, eq=False)
class PreparedData:
    """Images in memory-mapped form and the splits drawn from them.

    Attributes:
        images: uint8 [N, H, W, 3], read-only; all images of the source, in and out of the slice.
        labels: int64 [N], 0 .. classes - 1 in the order of `class_names`; -1 outside the slice.
        splits: The names in `SPLITS` -> ascending int64 indices into `images`. `train_eval` is a fixed sample of `train`, for
            measuring overfitting: as many images as `test` has, or all of `train` if it has fewer.
        class_names: One name per class.
        fingerprint: Digest of the source's content and of all splits: it identifies what is trained and tested on.
        mean: float32 [3], each channel's mean over `train`, in units of 0..1.
        std: float32 [3], each channel's standard deviation over `train`, in units of 0..1.
    """

    images: Pixels
    labels: Indices
    splits: dict[str, Indices]
    class_names: tuple[str, ...]
    fingerprint: str
    mean: NDArray[np.float32]
    std: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Slice:
    """The part of PreparedData that needs no pixel."""

    labels: Indices
    splits: dict[str, Indices]
    class_names: tuple[str, ...]
    fingerprint: str


def draw_slice(spec: DataSpec, source: Source) -> Slice:
    """Draws the classes, then the splits within each class.

    Classes are drawn without replacement and kept in the source's order. Where the source has a val part of its own, val is taken
    from it; elsewhere it is held out of train first, and train is drawn from what remains.

    Raises:
        UserError: More is asked for than there is, or less than one image.
    """
    classes = _draw_classes(spec, source)
    drawn: dict[str, list[Indices]] = {"train": [], "val": [], "test": []}
    for position in classes:
        own = source.labels == position
        pools = {part: np.flatnonzero(own & (source.parts == part)) for part in Part}
        order = _stream(spec.seed, _Purpose.TRAIN, position).permutation(pools[Part.TRAIN])
        class_name = source.class_names[position]
        if len(pools[Part.VAL]):
            val = _take(pools[Part.VAL], "val_per_class", spec.val_per_class, 0, class_name, source)
        else:
            val = _take(order, "val_per_class", spec.val_per_class, 0, class_name, source, keep=1)
            order = order[len(val) :]
        drawn["val"].append(val)
        drawn["train"].append(_take(order, "train_per_class", spec.train_per_class, 1, class_name, source))
        test = _stream(spec.seed, _Purpose.TEST, position).permutation(pools[Part.TEST])
        drawn["test"].append(_take(test, "test_per_class", spec.test_per_class, 1, class_name, source))
    splits = {split: np.sort(np.concatenate(indices)) for split, indices in drawn.items()}
    sample = _balanced_sample(
        drawn["train"], len(splits["test"]), [_stream(spec.seed, _Purpose.TRAIN_EVAL, position) for position in classes]
    )
    splits["train_eval"] = np.sort(sample)
    new_label = np.full(len(source.class_names), -1, dtype=np.int64)
    new_label[classes] = np.arange(len(classes))
    return Slice(
        labels=new_label[source.labels],
        splits=splits,
        class_names=tuple(source.class_names[position] for position in classes),
        fingerprint=_fingerprint(source, splits),
    )


def mean_and_std(sums: Indices, *, pixels_per_image: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Each channel's mean and (population) standard deviation in units of 0..1.

    Args:
        sums: int64 [n, 2, 3], the sums of each image's pixel values and of their squares (see `cache`). Integers: the result is
            the same in whatever order and on however many threads they were summed.
        pixels_per_image: Pixels each of these sums runs over.

    Returns:
        Two float32 [3]. The deviation is at least one grey level, so that a channel that never changes can be divided by it.
    """
    count = len(sums) * pixels_per_image
    total, squares = sums.sum(axis=0).astype(np.float64)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 1.0)
    return (mean / 255).astype(np.float32), (np.sqrt(variance) / 255).astype(np.float32)


def _stream(seed: int, purpose: _Purpose, *position: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, *position])


def _draw_classes(spec: DataSpec, source: Source) -> list[int]:
    available = len(source.class_names)
    if spec.classes is None:
        return list(range(available))
    if not 2 <= spec.classes <= available:
        raise UserError(f"classes = {spec.classes} asked of {source.where}; allowed: 2 to {available}")
    drawn = _stream(spec.seed, _Purpose.CLASSES).choice(available, size=spec.classes, replace=False)
    return sorted(int(position) for position in drawn)


def _take(pool: Indices, key: str, asked: int | None, least: int, class_name: str, source: Source, *, keep: int = 0) -> Indices:
    """The first `asked` of a pool (None: all), of which `keep` must remain."""
    count = len(pool) if asked is None else asked
    most = len(pool) - keep
    if not least <= count <= most:
        raise UserError(f"{key} = {count} asked of {source.where}; allowed: {least} to {most} (images left in class {class_name!r})")
    return pool[:count]


def _balanced_sample(pools: list[Indices], size: int, streams: list[np.random.Generator]) -> Indices:
    """Up to `size` of the pools' images, taken from each pool in turn, so that no class has two more than another with some left."""
    shuffled = [stream.permutation(pool) for stream, pool in zip(streams, pools, strict=True)]
    turn = np.concatenate([np.arange(len(pool)) for pool in pools])
    first_come = np.argsort(turn, kind="stable")
    return np.concatenate(shuffled)[first_come[:size]]


def _fingerprint(source: Source, splits: dict[str, Indices]) -> str:
    digest = hashlib.sha256(source.fingerprint.encode())
    for split in SPLITS:
        digest.update(f"\n{split} {len(splits[split])}\n".encode())
        digest.update(splits[split].astype("<i8").tobytes())
    return digest.hexdigest()
