"""Fixtures shared by all tests: the real data set where it can be had."""

from __future__ import annotations

from pathlib import Path

import pytest

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def tiny_imagenet_part() -> Path:
    """A zip that is by itself a complete Tiny-ImageNet of 50 classes (25,000 training, 2,500 val images)."""
    path = REAL_DATA / "tiny-imagenet-200.part1of4.zip"
    if not path.exists():
        pytest.skip(f"the real Tiny-ImageNet is not at {path}")
    return path
