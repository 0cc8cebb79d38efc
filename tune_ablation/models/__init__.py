"""The networks under study: one table each of depths, stems and heads, and `build_model`, which joins them.

The tables load without torch, so that an experiment can be checked on a machine that has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from tune_ablation.errors import UserError
from tune_ablation.models.heads import HEADS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tune_ablation.models.resnet import ResNet

__all__ = [
    "DEFAULT_HEAD",
    "DEFAULT_STEM",
    "DEFAULT_WIDTH",
    "DEPTHS",
    "HEADS",
    "STEMS",
    "Cell",
    "Depth",
    "Stem",
    "build_model",
    "parse_cell_key",
]


@dataclass(frozen=True)
class Depth:
    """The block of a ResNet and how many of them each of its four stages stacks (He et al. 2015, table 1)."""

    block: Literal["basic", "bottleneck"]
    layers: tuple[int, int, int, int]


@dataclass(frozen=True)
class Stem:
    """The first convolution (an odd kernel, padded by half of it), and whether a 3x3 max pool of stride 2 follows."""

    kernel: int
    stride: int
    max_pool: bool


DEPTHS: dict[int, Depth] = {
    18: Depth("basic", (2, 2, 2, 2)),
    34: Depth("basic", (3, 4, 6, 3)),
    50: Depth("bottleneck", (3, 4, 6, 3)),
    101: Depth("bottleneck", (3, 4, 23, 3)),
    152: Depth("bottleneck", (3, 8, 36, 3)),
}

STEMS: dict[str, Stem] = {
    "plain": Stem(kernel=7, stride=2, max_pool=True),
    "small": Stem(kernel=3, stride=1, max_pool=False),
}

DEFAULT_HEAD = "origin"
DEFAULT_STEM = "plain"
DEFAULT_WIDTH = 64


class Cell(Protocol):
    """What `build_model` reads from a cell; a cell may also carry a ``width`` and a ``stem``."""

    @property
    def depth(self) -> int:
        """A key of `DEPTHS`."""

    @property
    def head(self) -> str:
        """A key of `HEADS`."""


def parse_cell_key(text: str) -> tuple[int, str]:
    """Depth and head of a cell's key: ``resnet50_dropout`` is ``(50, "dropout")``, ``resnet18`` is ``(18, "origin")``.

    Raises:
        UserError: The key is not ``resnet<depth>`` or ``resnet<depth>_<head>`` with a known depth and head.
    """
    keys = {f"resnet{depth}_{head}": (depth, head) for depth in DEPTHS for head in HEADS}
    keys |= {f"resnet{depth}": (depth, DEFAULT_HEAD) for depth in DEPTHS}
    if text not in keys:
        raise UserError(
            f"unknown network {text!r}: allowed are resnet<depth> and resnet<depth>_<head>, "
            f"with depth one of {_names(DEPTHS)} and head one of {_names(HEADS)}"
        )
    return keys[text]


def build_model(
    cell: Cell | str,
    num_classes: int,
    *,
    image_size: int = 64,
    width: int | None = None,
    stem: str | None = None,
) -> ResNet:
    """The network of a cell, freshly initialised from torch's global generator, in training mode.

    With head ``origin``, stem ``plain`` and width 64 it is torchvision's network, bit for bit from the same seed.
    From the same seed every head starts with the same backbone.

    Args:
        cell: A cell's key (see `parse_cell_key`), or an object with a depth and head, perhaps a width and stem.
        num_classes: How many logits an image gets; the network maps ``[B, 3, H, W]`` to ``[B, num_classes]``.
        image_size: Side in pixels of the square images; a flattening head fits this size alone.
        width: Planes of the first stage, 64 as a rule; the others have 2, 4 and 8 times as many. Overrides the cell's.
        stem: A key of `STEMS`, "plain" as a rule. Overrides the cell's.

    Raises:
        UserError: A depth, head or stem is unknown, or a size is not a positive whole number.
    """
    if isinstance(cell, str):
        depth, head = parse_cell_key(cell)
    else:
        depth, head = cell.depth, cell.head
        width = getattr(cell, "width", None) if width is None else width
        stem = getattr(cell, "stem", None) if stem is None else stem
    width = DEFAULT_WIDTH if width is None else width
    stem = DEFAULT_STEM if stem is None else stem

    known_depth = _known(DEPTHS, "depth", depth)
    known_stem = _known(STEMS, "stem", stem)
    known_head = _known(HEADS, "head", head)
    for name, value in {"num_classes": num_classes, "image_size": image_size, "width": width}.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name} of resnet{depth}_{head} is {value!r}: allowed are whole numbers from 1")

    from tune_ablation.models.resnet import ResNet

    return ResNet(known_depth, known_stem, known_head, width=width, num_classes=num_classes, image_size=image_size)


_Key = TypeVar("_Key", int, str)
_Entry = TypeVar("_Entry")


def _names(table: Mapping[_Key, object]) -> str:
    return ", ".join(map(str, table))


def _known(table: Mapping[_Key, _Entry], factor: str, given: _Key) -> _Entry:
    if given not in table:
        raise UserError(f"unknown {factor} {given!r}: allowed are {_names(table)}")
    return table[given]
