"""Augmentation: every registered one keeps its promises, and each image is moved on its own and by the book."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from tune_ablation.data.augment import AUGMENTATIONS, CROP_PADDING, RESIZED_LOG_RATIO, RESIZED_SCALE

SIDE = 32
RANDOM = [name for name in AUGMENTATIONS if name != "none"]


def augmented(name: str, images: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return AUGMENTATIONS[name](images, torch.Generator().manual_seed(seed))


def pictures(count: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """[B, 3, H, W]: where each pixel comes from, column + 1 and row + 1, beside a random channel."""
    images = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))
    images[:, 0] = torch.arange(width) + 1.0
    images[:, 1] = torch.arange(height)[:, None] + 1.0
    return images.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(5, SIDE, SIDE), (1, 64, 64), (3, 48, 32)])
def test_shape_type_and_memory_layout_stay(name: str, shape: tuple[int, int, int]) -> None:
    images = pictures(*shape)
    before = images.clone()
    made = augmented(name, images)
    assert made.shape == images.shape
    assert made.dtype == torch.float32
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before), "the batch given is not written to"
    assert bool(torch.isfinite(made).all())


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_alone_decides(name: str) -> None:
    images = pictures(8)
    torch.manual_seed(1)
    first = augmented(name, images)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, augmented(name, images))
    torch.set_rng_state(state)
    augmented(name, images)
    assert torch.equal(torch.get_rng_state(), state), "global randomness is left alone"
    assert torch.equal(first, augmented(name, images, seed=1)) == (name == "none")


@pytest.mark.parametrize("name", RANDOM)
def test_equal_images_of_one_batch_come_out_different(name: str) -> None:
    made = augmented(name, pictures(1).expand(40, -1, -1, -1))
    assert len({image.numpy().tobytes() for image in made}) > 30


def test_none_changes_nothing() -> None:
    images = pictures(2)
    assert torch.equal(augmented("none", images), images)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48)])
def test_flip_crop_is_a_flip_a_padding_and_a_cut_of_every_image(height: int, width: int) -> None:
    images, reach_y, reach_x = pictures(200, height, width), round(height * CROP_PADDING), round(width * CROP_PADDING)
    flips, shifts = 0, set()
    for image, made in zip(images.numpy(), augmented("flip-crop", images).numpy(), strict=True):
        centre_y, centre_x = height // 2, width // 2
        columns = made[0, centre_y]
        flipped = bool(columns[centre_x + 1] < columns[centre_x])
        column, row = int(columns[centre_x]) - 1, int(made[1, centre_y, centre_x]) - 1
        shift_x = (width - 1 - column if flipped else column) - centre_x
        shift_y = row - centre_y
        assert abs(shift_x) <= reach_x
        assert abs(shift_y) <= reach_y
        # the slow way: one image, NumPy, no index arithmetic shared with the code under test
        mirrored = np.flip(image, axis=2) if flipped else image
        padded = np.pad(mirrored, ((0, 0), (reach_y, reach_y), (reach_x, reach_x)))
        top, left = reach_y + shift_y, reach_x + shift_x
        np.testing.assert_array_equal(made, padded[:, top : top + height, left : left + width])
        flips += flipped
        shifts |= {("x", shift_x), ("y", shift_y)}
    assert 70 < flips < 130
    assert shifts == {("x", step) for step in range(-reach_x, reach_x + 1)} | {("y", step) for step in range(-reach_y, reach_y + 1)}


def test_random_resized_crop_is_a_bilinear_cut_of_every_image() -> None:
    """The first two channels tell where each output pixel was read; SciPy reads the third there."""
    images = pictures(100)
    mirrored, areas, ratios = 0, [], []
    for image, made in zip(images.numpy(), augmented("random-resized-crop", images).numpy(), strict=True):
        columns, rows = made[0] - 1.0, made[1] - 1.0
        read = ndimage.map_coordinates(image[2].astype(np.float64), [rows, columns], order=1, mode="nearest")
        np.testing.assert_allclose(made[2], read, atol=1e-4)
        # an axis-parallel window, evenly sampled: away from the rim, where reading stops at the outermost pixel centres
        np.testing.assert_allclose(columns, np.broadcast_to(columns[0], columns.shape), atol=1e-4)
        np.testing.assert_allclose(rows, np.broadcast_to(rows[:, :1], rows.shape), atol=1e-4)
        steps_x, steps_y = np.diff(columns[0])[1:-1], np.diff(rows[:, 0])[1:-1]
        np.testing.assert_allclose(steps_x, steps_x[0], atol=1e-3)
        np.testing.assert_allclose(steps_y, steps_y[0], atol=1e-3)
        mirrored += bool(steps_x[0] < 0)
        areas.append(abs(steps_x[0]) * steps_y[0])
        ratios.append(np.log(abs(steps_x[0]) / steps_y[0]))
        assert abs(steps_x[0]) <= 1 + 1e-3
        assert steps_y[0] <= 1 + 1e-3
    assert 30 < mirrored < 70
    assert RESIZED_SCALE[0] * 0.98 < min(areas) < 0.4
    assert 0.8 < max(areas) <= RESIZED_SCALE[1] * 1.001
    # a window never leaves the image, so where both wish for more the ratio gives way; it is never past its bounds
    assert RESIZED_LOG_RATIO[0] / 1 - 0.01 < min(ratios) < -0.15
    assert 0.15 < max(ratios) < RESIZED_LOG_RATIO[1] + 0.01


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_even_image_stays_even_inside(name: str) -> None:
    made = augmented(name, torch.full((20, 3, SIDE, SIDE), 0.7).contiguous(memory_format=torch.channels_last))
    rim = round(SIDE * CROP_PADDING)
    torch.testing.assert_close(made[:, :, rim:-rim, rim:-rim], torch.full_like(made[:, :, rim:-rim, rim:-rim], 0.7))
