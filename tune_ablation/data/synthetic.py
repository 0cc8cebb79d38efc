"""A synthetic set drawn in about a second: coloured, textured shapes, easy enough to learn and hard enough to overfit.

A class is a shape with a filling. Everything else is nuisance, drawn anew for each image: place, size, rotation, colours, background
texture, light, an occluding bar and pixel noise. Only +, -, *, / and floor are used on float32, which IEEE 754 fixes to the bit, so the
images are the same on every machine.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tune_ablation.data.source import DataSpec, Part, Pixels, Source
from tune_ablation.errors import UserError

CLASSES, TRAIN_PER_CLASS, TEST_PER_CLASS = 10, 60, 30
"""What a None in the spec stands for here."""
_VERSION = 1  # of the drawing: raise it with any change that changes a pixel
_SIDES = (16, 256)
_MOST_PER_CLASS = 100_000  # a typo should not fill a disk
_KNOBS = 32

_Field = NDArray[np.floating]  # float32 throughout
_Mask = NDArray[np.bool_]


def _wave(phase: _Field) -> _Mask:
    """A square wave of period 1."""
    return phase - np.floor(phase) < 0.5


SHAPES: dict[str, Callable[[_Field, _Field], _Mask]] = {
    "disc": lambda x, y: x * x + y * y < 0.9,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.3) & (np.maximum(abs(x), abs(y)) < 1),
    "ring": lambda x, y: abs(x * x + y * y - 0.65) < 0.35,
    "triangle": lambda x, y: (y > -0.6) & (abs(x) * 1.732 + y < 1.1),
    "square": lambda x, y: np.maximum(abs(x), abs(y)) < 0.8,
}
"""Shape -> inside(x, y), with the shape about -1..1 wide."""

FILLINGS: dict[str, Callable[[_Field, _Field], _Mask]] = {
    "plain": lambda u, _: (u < 0) & (u > 0),
    "striped": lambda u, _: _wave(u),
    "checked": lambda u, v: _wave(u) ^ _wave(v),
    "dotted": lambda u, v: (u - np.floor(u) - 0.5) ** 2 + (v - np.floor(v) - 0.5) ** 2 < 0.1,
}
"""Filling -> where it shows its second colour, in coordinates with one period a unit."""

CLASS_NAMES = tuple(f"{filling} {shape}" for filling in FILLINGS for shape in SHAPES)

# A class's colour, before jitter: the points of a low-discrepancy sequence, so that any number of classes is spread out.
_TINTS = (np.arange(1, len(CLASS_NAMES) + 1)[:, None] * [0.8191725, 0.6710436, 0.5497005] % 1.0).astype(np.float32)


def open_synthetic(spec: DataSpec, path: Path | None, cache_dir: Path) -> Source:
    """Lays the set out; its images are drawn from `spec.seed` when its blocks are asked for.

    The classes are the first `spec.classes` of `CLASS_NAMES`. Each image has its own place in a random stream of its class and part, so
    that more images of one part change no other.

    Raises:
        UserError: A path was given, or the spec asks for something that cannot be drawn.
    """
    del cache_dir
    if path is not None:
        raise UserError(
            f"dataset = {spec.dataset!r} is drawn from its seed and takes no path, but {path} was given; for real images set"
            " dataset = 'tiny-imagenet' (`tune-ablation data download` fetches it)"
        )
    classes = _checked("classes", CLASSES if spec.classes is None else spec.classes, 2, len(CLASS_NAMES))
    side = _checked("image_size", spec.image_size, *_SIDES)
    asked = (
        (Part.TRAIN, "train_per_class", TRAIN_PER_CLASS if spec.train_per_class is None else spec.train_per_class, 1),
        (Part.VAL, "val_per_class", spec.val_per_class, 0),
        (Part.TEST, "test_per_class", TEST_PER_CLASS if spec.test_per_class is None else spec.test_per_class, 1),
    )
    counts = {part: _checked(key, count, least, _MOST_PER_CLASS) for part, key, count, least in asked}

    def blocks() -> Iterator[Pixels]:
        for label in range(classes):
            for part, count in counts.items():
                yield _draw(spec.seed, label, part, count, side)

    identity = json.dumps(["synthetic", _VERSION, spec.seed, classes, side, list(counts.values())])
    return Source(
        name="synthetic",
        where="the synthetic set",
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        class_names=CLASS_NAMES[:classes],
        labels=np.repeat(np.arange(classes, dtype=np.int64), sum(counts.values())),
        parts=np.tile(np.repeat(np.array(list(counts), dtype=np.int8), list(counts.values())), classes),
        image_size=side,
        blocks=blocks,
    )


def _checked(key: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise UserError(f"{key} = {value} asked of the synthetic set; allowed: {least} to {most}")
    return value


def _draw(seed: int, label: int, part: Part, count: int, side: int) -> Pixels:
    """Draws `count` images of one class as uint8 [count, side, side, 3]."""
    knobs = np.random.default_rng([seed, label, part, 0]).random((count, _KNOBS), dtype=np.float32)
    noise = np.random.default_rng([seed, label, part, 1]).random((count, side, side, 3), dtype=np.float32)
    filling, shape = CLASS_NAMES[label].split()
    unused = iter(range(_KNOBS))

    def knob(low: float, high: float) -> _Field:
        """One number per image, [count, 1, 1], to be combined with the pixels' coordinates."""
        return np.float32(low) + np.float32(high - low) * knobs[:, next(unused), None, None]

    def colour(middle: _Field, spread: float) -> _Field:
        return middle + np.stack([knob(-spread, spread) for _ in range(3)], axis=-1)

    def turned(x: _Field, y: _Field, most: float) -> tuple[_Field, _Field]:
        """The coordinates turned either way by up to `most` (the tangent of half the angle)."""
        t, one = knob(-most, most), np.float32(1)
        cosine, sine = (one - t * t) / (one + t * t), (t + t) / (one + t * t)
        return cosine * x - sine * y, sine * x + cosine * y

    line = (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side)
    x, y = line[None, None, :], line[None, :, None]

    grey = np.full(3, 0.5, dtype=np.float32)
    tint = _TINTS[label]

    u, v = turned(x, y, 1.0)
    pace = knob(1.0, 4.0)
    texture = np.where(_wave(u * pace + knob(0, 1)), knob(0.0, 0.25), np.float32(0))
    ground = colour(grey, 0.2) + (texture + x * knob(-0.3, 0.3) + y * knob(-0.3, 0.3))[..., None]

    radius = knob(0.28, 0.45)
    a, b = turned(x - knob(0.35, 0.65), y - knob(0.35, 0.65), 0.25)
    inside = SHAPES[shape](a / radius, b / radius)
    u, v = turned(a, b, 1.0)
    pace = knob(5.0, 8.0)
    second = FILLINGS[filling](u * pace + knob(0, 1), v * pace + knob(0, 1))
    picture = np.where(inside[..., None], np.where(second[..., None], colour(grey, 0.4), colour(tint, 0.1)), ground)

    u, _ = turned(x - knob(0.2, 0.8), y - knob(0.2, 0.8), 1.0)  # a bar, in the half of the images where its width is above 0
    picture = np.where((abs(u) < knob(-0.06, 0.06))[..., None], colour(grey, 0.5), picture)

    picture = picture * knob(0.7, 1.0)[..., None] + (noise - np.float32(0.5)) * knob(0.05, 0.25)[..., None]
    return (np.clip(picture, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
