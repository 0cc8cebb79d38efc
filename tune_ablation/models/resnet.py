"""ResNet from torchvision's own blocks, with a free width, stem and head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

if TYPE_CHECKING:
    from tune_ablation.models import Depth, Stem
    from tune_ablation.models.heads import HeadBuilder

BLOCKS: dict[str, type[BasicBlock | Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class GlobalMaxPool2d(nn.AdaptiveMaxPool2d):
    """``AdaptiveMaxPool2d(1)`` as a reduction: faster, and deterministic on a GPU, where that pool's gradient is not.

    Tied maxima share the gradient; behind a ReLU only ties above zero carry one.
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, C, 1, 1]``."""
        return torch.amax(x, dim=(2, 3), keepdim=True)


class Backbone(nn.Module):
    """All of a ResNet but its head: the stem and four stages, made in torchvision's order under torchvision's names."""

    def __init__(self, depth: Depth, stem: Stem, *, width: int) -> None:
        super().__init__()
        block = BLOCKS[depth.block]
        self.conv1 = nn.Conv2d(3, width, stem.kernel, stem.stride, padding=stem.kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if stem.max_pool else None
        self.layer1, channels = _stage(block, width, width, depth.layers[0], stride=1)
        self.layer2, channels = _stage(block, channels, 2 * width, depth.layers[1], stride=2)
        self.layer3, channels = _stage(block, channels, 4 * width, depth.layers[2], stride=2)
        self.layer4, channels = _stage(block, channels, 8 * width, depth.layers[3], stride=2)
        self.channels = channels

    def features(self, images: Tensor) -> Tensor:
        """The last feature map, ``[B, channels, h, w]``, of images ``[B, 3, H, W]``."""
        x: Tensor = self.relu(self.bn1(self.conv1(images)))
        if self.maxpool is not None:
            x = self.maxpool(x)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x


class ResNet(Backbone):
    """A ResNet with its head.

    Random weights are drawn in torchvision's order, ResNet's own linear layer included, and only then do the head's
    further layers draw theirs: from the same seed every head gets the same backbone.
    """

    def __init__(self, depth: Depth, stem: Stem, head: HeadBuilder, *, width: int, num_classes: int, image_size: int) -> None:
        super().__init__(depth, stem, width=width)
        linear = nn.Linear(self.channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.pool, self.fc = head(linear, *feature_map_size(depth, stem, image_size))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, 3, H, W]``."""
        x = self.features(images)
        if self.pool is not None:
            x = self.pool(x)
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


def feature_map_size(depth: Depth, stem: Stem, image_size: int) -> tuple[int, int]:
    """Height and width of the last feature map of a square image, from a forward pass without values."""
    with torch.device("meta"), torch.no_grad():  # meta tensors have a shape but no values, and draw no random numbers
        narrow = Backbone(depth, stem, width=1).eval()
        height, width = narrow.features(torch.empty(1, 3, image_size, image_size)).shape[2:]
    return height, width


def _stage(block: type[BasicBlock | Bottleneck], in_channels: int, planes: int, blocks: int, stride: int) -> tuple[nn.Sequential, int]:
    """A stage's blocks, and how many channels they put out."""
    out_channels = planes * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    first = block(in_channels, planes, stride, downsample)
    return nn.Sequential(first, *(block(out_channels, planes) for _ in range(blocks - 1))), out_channels
