"""Augmentations of a whole batch at once, each image with randomness of its own. torch is imported when one is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CROP_PADDING = 1 / 8
"""Zero padding around an image before the random crop, as a share of its side (4 pixels at 32, 8 at 64)."""

RESIZED_SCALE = (0.25, 1.0)
RESIZED_LOG_RATIO = (-0.2877, 0.2877)
"""Share of the area and logarithm of the aspect ratio (3/4 to 4/3) that a random resized crop keeps."""


def _none(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    del generator
    return images


def _flip_crop(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images, then shift each by up to an eighth of its side, zeros coming in."""
    import torch

    count, _, height, width = images.shape
    flip = torch.rand(count, generator=generator) < 0.5
    reach = (round(height * CROP_PADDING), round(width * CROP_PADDING))
    shift_y = torch.randint(-reach[0], reach[0] + 1, (count, 1), generator=generator)
    shift_x = torch.randint(-reach[1], reach[1] + 1, (count, 1), generator=generator)
    rows = torch.arange(height) + shift_y
    columns = torch.arange(width) + shift_x
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    columns = torch.where(flip[:, None], width - 1 - columns, columns)
    index, rows, columns, inside = (part.to(images.device, non_blocking=True) for part in (torch.arange(count), rows, columns, inside))
    # Indexing the NHWC view moves whole pixels; permuting back keeps channels_last without a copy.
    pixels = images.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
    return (pixels * inside[..., None].to(pixels.dtype)).permute(0, 3, 1, 2)


def _random_resized_crop(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cut a window of random area and aspect ratio out of each image, mirror half, resample bilinearly to the full size."""
    import torch
    from torch.nn import functional

    count = len(images)
    low, high = RESIZED_SCALE
    area = torch.empty(count).uniform_(low, high, generator=generator)
    ratio = torch.empty(count).uniform_(*RESIZED_LOG_RATIO, generator=generator).exp()
    scale_x = (area * ratio).sqrt().clamp(max=1.0)
    scale_y = (area / ratio).sqrt().clamp(max=1.0)
    offset_x = (torch.rand(count, generator=generator) * 2 - 1) * (1 - scale_x)
    offset_y = (torch.rand(count, generator=generator) * 2 - 1) * (1 - scale_y)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = scale_x * mirror, offset_x
    theta[:, 1, 1], theta[:, 1, 2] = scale_y, offset_y
    grid = functional.affine_grid(theta.to(images.device, non_blocking=True), list(images.shape), align_corners=False)
    cut = functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.contiguous(memory_format=torch.channels_last)


AUGMENTATIONS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "none": _none,
    "flip-crop": _flip_crop,
    "random-resized-crop": _random_resized_crop,
}
"""Name -> function from (normalised float images [B, 3, H, W], a CPU generator) to images of the same shape.

The random numbers are drawn on the CPU, so that the same seed gives the same augmentation on every device.
"""
