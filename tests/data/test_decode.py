"""Decoding on many processes gives what decoding on one gives: the same blocks in the same order, the same complaints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tune_ablation.data.decode import BadImageError, decode, decode_blocks, usable_workers

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def blocks(make_jpeg: Callable[..., bytes]) -> list[list[bytes]]:
    rng = np.random.default_rng(3)
    return [[make_jpeg(rng, grey=number % 5 == 0) for number in range(size)] for size in (40, 40, 40, 40, 40, 40, 7)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_blocks_come_in_order_whoever_decodes_them(workers: int, blocks: list[list[bytes]]) -> None:
    decoded = list(decode_blocks(blocks, 64, workers))
    assert [len(block) for block in decoded] == [len(block) for block in blocks]
    for pixels, jpegs in zip(decoded, blocks, strict=True):
        np.testing.assert_array_equal(pixels, decode(jpegs, 64))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("bad", [b"", b"\xff\xd8\xff", b"GIF89a"])
def test_the_first_bad_image_is_found_by_its_place_among_all(bad: bytes, workers: int, blocks: list[list[bytes]]) -> None:
    damaged = [list(block) for block in blocks]
    damaged[2][5] = damaged[4][0] = bad
    with pytest.raises(BadImageError) as caught:
        list(decode_blocks(damaged, 64, workers))
    assert caught.value.position == 85
    assert caught.value.why.startswith("cannot be decoded as a JPEG")


def test_leaving_early_leaves_no_decoder_behind(blocks: list[list[bytes]]) -> None:
    # A decoder left running, or a pipe left open, is a ResourceWarning, which fails the test.
    decoding = decode_blocks(blocks, 64, 2)
    next(iter(decoding))
    del decoding


def test_the_machine_has_at_least_one_worker() -> None:
    assert 1 <= usable_workers() <= 16
