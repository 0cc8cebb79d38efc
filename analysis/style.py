"""How the figures look: one colour, dash pattern and symbol a cell, in every figure; and what a figure consists of."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

COLOURS = ("#001eff", "#ff5a0f", "#3ca578", "#870000", "#e14bff", "#3c0f78", "#9669a5", "#5a1e3c")
"""Chosen by search so that any two lie far apart (30 in CIELAB) for full colour vision, protanopia, deuteranopia and tritanopia alike, and
each has a contrast of 3 to 1 with white at least (WCAG 2.2, 1.4.11)."""

DASHES = ([1, 0], [7, 2], [2, 2], [9, 2, 2, 2])
SYMBOLS = {
    "circle": "M5,0A5,5,0,1,1,-5,0A5,5,0,1,1,5,0",
    "square": "M-4.5,-4.5h9v9h-9Z",
    "diamond": "M0,-6L5,0L0,6L-5,0Z",
    "triangle-up": "M0,-5L5.5,4.5H-5.5Z",
    "triangle-down": "M0,5L5.5,-4.5H-5.5Z",
    "triangle-right": "M5,0L-4.5,5.5V-5.5Z",
}
"""Vega's name of each and its outline as an SVG path, for a page's own key."""
CROSS = "M-1,-1L1,1M-1,1L1,-1"

LEGEND = alt.Legend(title=None, symbolOpacity=1)
LINE_LEGEND = alt.Legend(title=None, symbolOpacity=1, symbolType="stroke", symbolSize=300, symbolStrokeWidth=2.5)

PICKED, LINES = "picked", "lines"
"""Signals of every chart: the cell to bring out (null for all), and which lines of a curve to draw."""

INK = "#1a1a1a"
SHADES = ["#f4f7fc", "#7fa8dd"]
"""Of heatmaps, the worst and the best: light enough for ink on either."""

LOOK: dict[str, Any] = {
    "background": "white",
    "font": "Arial, sans-serif",
    "view": alt.ViewConfig(stroke="#c8c8c8"),
    "axis": alt.AxisConfig(
        labelColor=INK, titleColor=INK, gridColor="#e6e6e6", labelFontSize=11, titleFontSize=12, titleFontWeight="normal", labelOverlap=True
    ),
    "title": alt.TitleConfig(color=INK, fontSize=13),
    "legend": alt.LegendConfig(labelColor=INK, labelFontSize=11, labelLimit=300, orient="bottom", columns=3, symbolSize=90),
}
"""The configuration of every chart: white behind it whatever page it stands on, ink dark enough to read."""

WIDTH, HEIGHT = 360, 260
"""Of a panel in a picture file."""


@dataclass(frozen=True)
class Style:
    """How a cell looks in every figure."""

    colour: str
    dash: Sequence[int]
    symbol: str


@dataclass(frozen=True)
class Panel:
    """One view of a figure, without a size."""

    title: str
    chart: alt.LayerChart


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: its name as a file.
        title: what it shows.
        sentence: what to see in it, from the figures themselves.
        panels: its views.
        height: of each panel.
        columns: panels beside each other where there is room.
    """

    name: str
    title: str
    sentence: str
    panels: tuple[Panel, ...]
    height: int = HEIGHT
    columns: int = 2

    def chart(self) -> alt.ConcatChart:
        """The whole figure with its legend, for a picture file."""
        panels = [panel.chart.properties(width=WIDTH, height=self.height, title=panel.title) for panel in self.panels]
        whole = alt.ConcatChart(concat=panels, columns=self.columns, title=alt.Title(self.title, anchor="start", fontSize=15))
        configured: alt.ConcatChart = whole.configure(**LOOK)
        return configured

    def views(self) -> list[dict[str, Any]]:
        """Each panel as a Vega-Lite specification of its own, as wide as its container, without legend or title: a page has its own."""
        views = []
        for panel in self.panels:
            described = panel.chart.properties(
                width="container", height=self.height, description=f"{self.title}: {panel.title}. {self.sentence}"
            )
            view = described.configure(**LOOK).to_dict(validate=False)
            for layer in view["layer"]:
                for channel in ("color", "strokeDash", "shape"):
                    if "legend" in layer["encoding"].get(channel, {}):
                        layer["encoding"][channel]["legend"] = None
            views.append(view)
        return views


def styles(cells: Iterable[str]) -> dict[str, Style]:
    """Every cell's look, by its place in the design; all differ up to 24 cells."""
    looks = {}
    symbols = tuple(SYMBOLS)
    for place, cell in enumerate(cells):
        turn = place + place // len(COLOURS)
        looks[cell] = Style(COLOURS[place % len(COLOURS)], DASHES[turn % len(DASHES)], symbols[turn % len(symbols)])
    return looks
