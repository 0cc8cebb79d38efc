"""What may follow the backbone: one function a head, and the table of them, which loads without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Head(NamedTuple):
    """A head in two steps; between them the network flattens ``[B, C, h, w]`` to ``[B, C*h*w]``."""

    pool: nn.Module | None
    classifier: nn.Module


HeadBuilder = Callable[["nn.Linear", int, int], Head]
"""Makes a head from ResNet's own initialised ``Linear(C, num_classes)`` and the feature map's height and width."""


def origin(linear: nn.Linear, height: int, width: int) -> Head:  # noqa: ARG001  # pooling fits a map of any size
    """ResNet's: global average pooling, then one linear layer."""
    from torch import nn

    return Head(nn.AdaptiveAvgPool2d(1), linear)


def maxpool(linear: nn.Linear, height: int, width: int) -> Head:  # noqa: ARG001  # pooling fits a map of any size
    """Global max pooling, then one linear layer."""
    from tune_ablation.models.resnet import GlobalMaxPool2d

    return Head(GlobalMaxPool2d(), linear)


def dropout(linear: nn.Linear, height: int, width: int) -> Head:
    """AlexNet's on the unpooled map: three linear layers, dropout before the first two (Krizhevsky et al. 2012)."""
    from torch import nn

    channels = linear.in_features
    return Head(
        None,
        nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(channels * height * width, channels),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            linear,
        ),
    )


HEADS: dict[str, HeadBuilder] = {
    "origin": origin,
    "maxpool": maxpool,
    "dropout": dropout,
}
