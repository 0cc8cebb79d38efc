"""The look of the figures: told apart by everyone, and the same cell always the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.style import COLOURS, INK, SHADES, styles

# Machado, Oliveira & Fernandes 2009, severity 1.0: linear RGB as seen with a colour vision deficiency.
SEEN = {
    "normal": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
WHITE = np.array([0.95047, 1.0, 1.08883])
CLEARLY_APART = 25.0
"""In CIELAB; 2.3 is a just noticeable difference."""


def linear(colour: str) -> NDArray[np.float64]:
    value = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(colour: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    light, dark = sorted((float(TO_XYZ[1] @ linear(one)) for one in (colour, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("vision", SEEN)
def test_any_two_colours_are_told_apart_whatever_the_colour_vision(vision: str) -> None:
    seen = [lab(SEEN[vision] @ linear(colour)) for colour in COLOURS]
    assert min(float(np.linalg.norm(first - second)) for first, second in itertools.combinations(seen, 2)) > CLEARLY_APART


@pytest.mark.parametrize("colour", COLOURS)
def test_a_line_stands_out_from_the_page(colour: str) -> None:
    assert contrast(colour, "#ffffff") >= 3


@pytest.mark.parametrize("shade", SHADES)
def test_words_on_a_heatmap_can_be_read(shade: str) -> None:
    assert contrast(INK, shade) >= 4.5


def test_up_to_24_cells_all_look_different_in_more_than_colour() -> None:
    looks = [(style.colour, tuple(style.dash), style.symbol) for style in styles(f"cell{number}" for number in range(24)).values()]
    assert len(set(looks)) == 24
    assert len({(dash, symbol) for _, dash, symbol in looks[:8]}) == 8, "neighbours differ without any colour"
