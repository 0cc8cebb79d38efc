"""The figures: from an analysis to Altair charts, each with a sentence that says what to see in it.

A figure is one or more panels of a single view each, so that a page can lay them side by side or one below the other as wide as it is.
A cell has the same colour, dash pattern and symbol in all of them, whatever else is drawn.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from analysis import compare
from analysis.analyse import Analysis
from analysis.curves import GAPS, curve_names, gaps
from analysis.style import CROSS, INK, LEGEND, LINE_LEGEND, LINES, PICKED, SHADES, Figure, Panel, styles
from analysis.words import capitalised, count, label

MOST_CELLS = 24
"""More cells than this cannot be told apart in one figure: the best ones are drawn."""

MOST_METRICS = 8
"""Of foreign results, metrics drawn by epoch."""

SMOOTHED_SHARE = 1 / 6
"""The moving mean that smooths a curve is as wide as this share of its epochs, an odd number of at least three."""

SPLITS = ("train_eval", "train", "val", "test")
"""What a metric's name may begin with; the longest that fits counts."""

SENTENCES = {
    "loss": "Test loss that turns upward while training loss still falls is overfitting",
    "acc1": "Accuracy on the training images against accuracy on the test images, both in eval mode",
}
"""What to look for in a metric's curves."""


def drawn(found: Analysis) -> list[str]:
    """The cells that are drawn: all, or of very many the best by the quantity compared, and the baselines first."""
    cells = list(found.design.cells)
    if len(cells) <= MOST_CELLS:
        return cells
    ranked = found.summaries.filter((pl.col("quantity") == found.quantity) & pl.col("mean").is_not_null())
    best = ranked.sort("mean", descending=found.higher_is_better)["cell"].to_list() or (
        found.cells.sort("objective", descending=found.higher_is_better, nulls_last=True)["cell"].to_list()
    )
    chosen = set(itertools.islice(dict.fromkeys([*found.design.baseline_cells[: MOST_CELLS // 2], *best, *cells]), MOST_CELLS))
    return [cell for cell in cells if cell in chosen]


class _Drawing:
    """What all figures of one analysis share: its cells, and how they look."""

    def __init__(self, found: Analysis) -> None:
        self.found = found
        self.cells = drawn(found)
        self.looks = styles(found.design.cells)
        self.percent = " (%)" if found.run.experiment is not None else ""

    def colour(self, legend: alt.Legend | None = None) -> alt.Color:
        return alt.Color("cell:N", scale=self._scale("colour"), legend=legend)

    def dash(self) -> alt.StrokeDash:
        return alt.StrokeDash("cell:N", scale=self._scale("dash"), legend=LINE_LEGEND)

    def symbol(self, legend: alt.Legend | None = None) -> alt.Shape:
        return alt.Shape("cell:N", scale=self._scale("symbol"), legend=legend)

    def _scale(self, what: str) -> alt.Scale:
        return alt.Scale(domain=self.cells, range=[getattr(self.looks[cell], what) for cell in self.cells])

    def of_drawn(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.filter(pl.col("cell").is_in(self.cells))

    def unit(self, metric: str) -> str:
        return f"{label(metric)}{self.percent if 'loss' not in metric else ''}"


def figures(found: Analysis) -> list[Figure]:
    """Every figure that the results have the figures for, in the order of the report."""
    drawing = _Drawing(found)
    by_epoch = [*_curves(drawing), _gap(drawing), _reached(drawing)]
    drawn = [_forest(drawing), _heatmap(drawing), *by_epoch, _responses(drawing), _costs(drawing), _secondary(drawing)]
    return [figure for figure in drawn if figure is not None]


def _rows(frame: pl.DataFrame) -> alt.InlineData:
    """Inline data; what is not finite is left out, for JSON has no such number."""
    return alt.InlineData(values=[{name: _plain(value) for name, value in row.items()} for row in frame.iter_rows(named=True)])


def _plain(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _span(values: pl.Series) -> tuple[float, float]:
    return float(values.min()), float(values.max())  # type: ignore[arg-type]  # floats, and some of them


def _picked() -> alt.Parameter:
    return alt.param(name=PICKED, value=None)


def _shown(full: float, faint: float = 0.06) -> Any:
    """Opacity of what belongs to a cell: as given, all but gone while another cell is picked."""
    return alt.condition(f"{PICKED} == null || {PICKED} == datum.cell", alt.value(full), alt.value(faint))


# --- contrasts -----------------------------------------------------------------------------------------------------------------------


def _forest(drawing: _Drawing) -> Figure | None:
    found = drawing.found
    known = drawing.of_drawn(found.contrasts).filter(pl.col("mean").is_not_null())
    if known.is_empty():
        return None
    verdicts = known["verdict"].to_list()
    told = ", ".join(f"{verdicts.count(name)} {name}" for name in compare.VERDICTS if name in verdicts)
    better = "right" if found.higher_is_better else "left"
    return Figure(
        "contrasts",
        f"Contrasts in {label(found.quantity)}",
        f"Each cell less the one it is held against, mean and 95 % paired interval over seeds: {told}. To the {better} of zero is better; "
        "an interval that crosses zero shows no difference that could be told from seed noise, and after Holm's adjustment even "
        "one that does not cross it may be inconclusive.",
        (_forest_panel(drawing, known, label(found.quantity)),),
        height=max(90, 44 * known.height),
        columns=1,
    )


def _forest_panel(drawing: _Drawing, contrasts: pl.DataFrame, title: str) -> Panel:
    rows = contrasts.with_columns(
        (pl.col("cell") + " - " + pl.col("against")).alias("contrast"),
        pl.col("low").fill_null(pl.col("mean")),
        pl.col("high").fill_null(pl.col("mean")),
        (pl.col("cell") + " - " + pl.col("against") + ": " + pl.col("verdict")).alias("name"),
    ).select("contrast", "name", "cell", "mean", "low", "high", "n", "verdict", "t_p_holm")
    order = rows["contrast"].to_list()
    base = alt.Chart(_rows(rows)).encode(
        y=alt.Y("contrast:N", sort=order, title=None, axis=alt.Axis(labels=False, ticks=False)),
        tooltip=["contrast:N", "mean:Q", "low:Q", "high:Q", "n:Q", alt.Tooltip("t_p_holm:Q", title="p (Holm)"), "verdict:N"],
        opacity=_shown(1.0, 0.15),
    )
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(color=INK, strokeDash=[3, 3]).encode(x="zero:Q")
    interval = base.mark_rule(strokeWidth=2.5).encode(
        x=alt.X("low:Q", title="difference", axis=alt.Axis(tickCount=8)), x2="high:Q", color=drawing.colour()
    )
    point = base.mark_point(filled=True, size=110, opacity=1).encode(x="mean:Q", color=drawing.colour(), shape=drawing.symbol())
    named = base.mark_text(align="left", dx=5, dy=-13, fontSize=11, color=INK).encode(x=alt.value(0), text="name:N")
    return Panel(title, alt.LayerChart(layer=[zero, interval, point, named]).add_params(_picked()))


def _secondary(drawing: _Drawing) -> Figure | None:
    found = drawing.found
    known = drawing.of_drawn(found.secondary).filter(pl.col("mean").is_not_null())
    if known.is_empty():
        return None
    told = known.filter(pl.col("verdict") != "inconclusive").height
    panels = [_forest_panel(drawing, rows, label(str(quantity))) for (quantity,), rows in known.group_by("quantity", maintain_order=True)]
    return Figure(
        "contrasts_secondary",
        "Contrasts in other quantities",
        "The same pairs on other quantities, a family of their own: "
        f"{told} of {known.height} contrasts are decided. Of a loss, a gap or a time, less is better.",
        tuple(panels),
        height=max(90, 44 * max(known["quantity"].value_counts()["count"].to_list())),
    )


# --- heatmap -------------------------------------------------------------------------------------------------------------------------


def _heatmap(drawing: _Drawing) -> Figure | None:
    found, design = drawing.found, drawing.found.design
    known = found.summaries.filter((pl.col("quantity") == found.quantity) & pl.col("mean").is_not_null())
    if known.is_empty() or not design.varied or len(design.cells) > MOST_CELLS:
        return None
    across = design.varied[1] if len(design.varied) > 1 else design.varied[0]
    down = design.varied[0] if len(design.varied) > 1 else None
    others = [factor for factor in design.varied if factor not in {across, down}]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in known.iter_rows(named=True):
        levels = design.cells[row["cell"]]
        place = ", ".join(f"{name} = {levels[name]}" for name in others)
        band = "" if row["low"] is None else f"[{row['low']:.4g}, {row['high']:.4g}]"
        rows.setdefault(place, []).append(
            {
                "across": str(levels[across]),
                "down": str(levels[down]) if down else label(found.quantity),
                "mean": _plain(row["mean"]),
                "text": f"{row['mean']:.4g}",
                "band": band,
                "n": row["n"],
                "cell": row["cell"],
            }
        )
    best = known.sort("mean", descending=found.higher_is_better).row(0, named=True)
    low, high = _span(known["mean"])
    domain = [low, high if high > low else low + 1]
    panels = [_heatmap_panel(drawing, place or label(found.quantity), values, across, down, domain) for place, values in rows.items()]
    n_down = len(design.levels(down)) if down else 1
    named = f"{down} and {across}" if down else across
    return Figure(
        "cells",
        f"{capitalised(label(found.quantity))} by {named}",
        f"The mean over seeds with its 95 % t interval: {best['cell']} has the {'highest' if found.higher_is_better else 'lowest'} mean, "
        f"{best['mean']:.4g}. Intervals of cells say how well each is known; whether two differ is for the paired contrasts to say.",
        tuple(panels),
        height=max(80, 64 * n_down),
        columns=min(2, len(panels)),
    )


def _heatmap_panel(
    drawing: _Drawing, title: str, values: list[dict[str, Any]], across: str, down: str | None, domain: list[float]
) -> Panel:
    design = drawing.found.design
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("across:N", sort=[str(level) for level in design.levels(across)], title=across, axis=alt.Axis(labelAngle=0)),
        y=alt.Y("down:N", sort=[str(level) for level in design.levels(down)] if down else None, title=down),
        tooltip=["cell:N", "mean:Q", alt.Tooltip("band:N", title="95 % interval"), "n:Q"],
        opacity=_shown(1.0, 0.25),
    )
    shades = SHADES if drawing.found.higher_is_better else SHADES[::-1]
    shade = base.mark_rect(stroke="white").encode(color=alt.Color("mean:Q", scale=alt.Scale(range=shades, domain=domain), legend=None))
    mean = base.mark_text(dy=-7, fontSize=14, fontWeight="bold", color=INK).encode(text="text:N")
    band = base.mark_text(dy=10, fontSize=11, color=INK).encode(text="band:N")
    return Panel(title, alt.LayerChart(layer=[shade, mean, band]).add_params(_picked()))


# --- by epoch ------------------------------------------------------------------------------------------------------------------------


def _curves(drawing: _Drawing) -> list[Figure | None]:
    """A figure a metric, its splits side by side on one scale."""
    design = drawing.found.design
    measured: dict[str, list[str]] = {}
    for metric in design.metrics:
        split, name = next(((split, metric.removeprefix(split + "_")) for split in SPLITS if metric.startswith(split + "_")), ("", metric))
        if drawing.found.run.experiment is None or split in {"train_eval", "test"}:
            measured.setdefault(name, []).append(metric)
    return [_by_epoch(drawing, name, metrics, SENTENCES.get(name)) for name, metrics in itertools.islice(measured.items(), MOST_METRICS)]


def _gap(drawing: _Drawing) -> Figure | None:
    return _by_epoch(drawing, "gap", list(gaps(drawing.found.design)), "The overfitting gap, training and test both measured in eval mode")


def _by_epoch(drawing: _Drawing, name: str, metrics: Sequence[str], what: str | None) -> Figure | None:
    found = drawing.found
    bands = drawing.of_drawn(seed_bands(found.curves)).filter(pl.col("metric").is_in(list(metrics)))
    present = [metric for metric in metrics if metric in set(bands["metric"])]
    if not present:
        return None
    last = bands.filter((pl.col("metric") == present[-1]) & (pl.col("epoch") == pl.col("epoch").max().over("cell")))
    higher = curve_names(found.design)[present[-1]]
    best = last.sort("mean", "cell", descending=[higher, False]).row(0, named=True)
    sharing = not all(metric in GAPS for metric in present)  # a gap in loss and one in accuracy have no scale in common
    panels, cut = [], False
    for metric in present:
        of_metric = bands.filter(pl.col("metric") == metric)
        limits, outside = _limits(bands if sharing else of_metric)
        cut = cut or outside
        panels.append(_curve_panel(drawing, of_metric, metric, limits))
    beyond = " The frame leaves out extreme values; the tables and files have them." if cut else ""
    return Figure(
        f"curves_{name}" if sharing else name,
        f"{capitalised(label(name))} by epoch" if sharing else "Overfitting gap by epoch",
        f"{what + '. ' if what else ''}{best['cell']} ends with the {'highest' if higher else 'lowest'} mean {label(present[-1])}, "
        f"{best['mean']:.4g}. Thin: the mean over seeds; bold: its moving mean; band: lowest to highest seed.{beyond}",
        tuple(panels),
    )


def _limits(bands: pl.DataFrame) -> tuple[list[float], bool]:
    """What a frame shows, and whether that leaves anything out: a few wild epochs must not flatten all others.

    Everything, unless what lies beyond Tukey's outer fences (1977: the quartiles of the means, and 3 times their distance beyond either)
    would take more than half of the frame.
    """
    lowest, highest = _span(pl.concat([bands["low"], bands["high"]]))
    first, third = bands["mean"].quantile(0.25) or 0.0, bands["mean"].quantile(0.75) or 0.0
    margin = 3 * (third - first)
    low, high = max(lowest, first - margin), min(highest, third + margin)
    cut = margin > 0 and high - low < (highest - lowest) / 2
    return ([low, high] if cut else [lowest, highest]), cut


def seed_bands(curves: pl.DataFrame) -> pl.DataFrame:
    """Mean and range over seeds by epoch, raw and smoothed.

    Args:
        curves: from ``analysis.curves.by_epoch``.

    Returns:
        ``cell``, ``metric``, ``epoch``, ``n``, ``mean``, ``low``, ``high`` (lowest and highest seed), ``smooth``: the centred moving
        mean of ``mean`` over ``SMOOTHED_SHARE`` of the cell's epochs, of those there are at either end.
    """
    keys = ["cell", "metric", "epoch"]
    value = pl.col("value")
    found = curves.group_by(keys).agg(n=value.len(), mean=value.mean(), low=value.min(), high=value.max()).sort(keys)
    smooth = []
    for _, rows in found.group_by("cell", "metric", maintain_order=True):
        width = 2 * round(max(rows.height * SMOOTHED_SHARE, 3) // 2) + 1
        smooth.append(rows.with_columns(smooth=pl.col("mean").rolling_mean(width, min_samples=1, center=True)))
    return pl.concat(smooth) if smooth else found.with_columns(smooth=pl.col("mean"))


def _curve_panel(drawing: _Drawing, bands: pl.DataFrame, metric: str, limits: list[float]) -> Panel:
    scale = alt.Scale(domain=limits, nice=True, zero=False)
    base = alt.Chart(_rows(bands.drop("metric"))).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d")), color=drawing.colour(LINE_LEGEND)
    )
    band = base.mark_area(clip=True).encode(
        y=alt.Y("low:Q", scale=scale, title=drawing.unit(metric)), y2="high:Q", opacity=_shown(0.13, 0.02)
    )
    raw = base.mark_line(strokeWidth=1, clip=True).encode(y="mean:Q", opacity=_line("raw", 0.55))
    smooth = base.mark_line(strokeWidth=2.5, clip=True).encode(y="smooth:Q", strokeDash=drawing.dash(), opacity=_line("smoothed", 1.0))
    touched = base.mark_circle(size=80, clip=True).encode(
        y="mean:Q",
        opacity=alt.value(0),
        tooltip=[
            "cell:N",
            "epoch:Q",
            "mean:Q",
            alt.Tooltip("low:Q", title="lowest seed"),
            alt.Tooltip("high:Q", title="highest seed"),
            "n:Q",
        ],
    )
    return Panel(
        label(metric), alt.LayerChart(layer=[band, raw, smooth, touched]).add_params(_picked(), alt.param(name=LINES, value="both"))
    )


def _line(kind: str, full: float) -> Any:
    wanted = f"({LINES} == 'both' || {LINES} == '{kind}')"
    return alt.condition(f"{wanted} && ({PICKED} == null || {PICKED} == datum.cell)", alt.value(full), alt.value(0.04))


def _reached(drawing: _Drawing) -> Figure | None:
    found = drawing.found
    known = drawing.of_drawn(found.reached)
    if known.is_empty() or found.target is None:
        return None
    last = known.filter(pl.col("epoch") == pl.col("epoch").max().over("cell"))
    whole = last.filter(pl.col("share") == 1).height
    chart = (
        alt.Chart(_rows(known))
        .mark_line(interpolate="step-after", strokeWidth=2.5)
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1, format="d")),
            y=alt.Y("share:Q", title="share of seeds", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1.02], nice=False)),
            color=drawing.colour(LINE_LEGEND),
            strokeDash=drawing.dash(),
            opacity=_shown(0.9),
            tooltip=["cell:N", "epoch:Q", alt.Tooltip("share:Q", format=".0%"), alt.Tooltip("of:Q", title="seeds")],
        )
    )
    return Figure(
        "reached",
        "Share of seeds that reached the target by epoch",
        f"The target is {found.target:.4g}{' %' if drawing.percent else ''} {label(found.design.primary)}. In {whole} of "
        f"{count(last.height, 'cell')} every seed reached it. A line that ends below 100 %: some seeds never got there.",
        (Panel(f"target: {found.target:.4g} {label(found.design.primary)}", alt.LayerChart(layer=[chart]).add_params(_picked())),),
        columns=1,
    )


# --- the search, and what cells cost -------------------------------------------------------------------------------------------------


def _responses(drawing: _Drawing) -> Figure | None:
    found = drawing.found
    known = drawing.of_drawn(found.responses).filter(pl.col("lr").is_not_null() & (pl.col("lr") > 0))
    if known.is_empty():
        return None
    low, high = _span(known["objective"].drop_nulls()) if known["objective"].count() else (0.0, 1.0)
    worst = low if found.design.metrics[found.design.objective] else high
    placed = known.with_columns(pl.col("objective").fill_null(worst).alias("y")).sort("cell", "lr")
    searched = found.run.experiment.search.lr if found.run.experiment is not None else None
    low_lr, high_lr = _span(known["lr"])
    domain = [low_lr, high_lr] if searched is None else [min(low_lr, searched.low), max(high_lr, searched.high)]
    cells = [cell for cell in drawing.cells if cell in set(known["cell"])]
    diverged = known.filter("diverged").height
    panels = [_response_panel(drawing, placed.filter(pl.col("cell") == cell), cell, domain, [low, high]) for cell in cells]
    lost = (
        f"{count(diverged, 'trial')} of {known.height} diverged (crosses, drawn at the worst value seen)."
        if diverged
        else "No trial diverged."
    )
    return Figure(
        "learning_rates",
        "Learning-rate response of every cell",
        f"The {label(found.design.objective)} that each search trial ended with, by its learning rate; the ring marks the winner. {lost} "
        "A winner at the edge of the range means that the range was too narrow for its cell.",
        tuple(panels),
        height=170,
        columns=3,
    )


def _response_panel(drawing: _Drawing, rows: pl.DataFrame, cell: str, across: list[float], up: list[float]) -> Panel:
    style = drawing.looks[cell]
    base = alt.Chart(_rows(rows)).encode(
        x=alt.X(
            "lr:Q",
            title="learning rate",
            scale=alt.Scale(type="log", domain=across, nice=False, padding=8),
            axis=alt.Axis(format="~g", tickCount=4),
        ),
        y=alt.Y("y:Q", title=drawing.unit(drawing.found.design.objective), scale=alt.Scale(domain=up, nice=True, zero=False)),
        tooltip=["cell:N", "number:Q", alt.Tooltip("lr:Q", title="learning rate"), alt.Tooltip("objective:Q"), "diverged:N", "winner:N"],
        opacity=_shown(1.0, 0.15),
    )
    sound = base.transform_filter("!datum.diverged")
    layers: list[alt.Chart] = []
    if not rows["diverged"].all():
        layers += [
            sound.mark_line(strokeWidth=1, color=style.colour),
            sound.mark_point(filled=True, size=60, color=style.colour, shape=style.symbol),
        ]
    if rows["winner"].any():
        layers.append(base.transform_filter("datum.winner").mark_point(filled=False, size=260, strokeWidth=2, color=INK, shape="circle"))
    if rows["diverged"].any():
        layers.append(base.transform_filter("datum.diverged").mark_point(size=50, strokeWidth=2.5, stroke=INK, shape=CROSS))
    return Panel(cell, alt.LayerChart(layer=layers).add_params(_picked()))


def _costs(drawing: _Drawing) -> Figure | None:
    found = drawing.found
    figures = found.summaries.filter((pl.col("quantity") == found.quantity) & pl.col("mean").is_not_null())
    known = drawing.of_drawn(figures).join(found.costs, on="cell")
    if known.is_empty():
        return None
    rows = known.select(
        "cell", "mean", pl.col("low").fill_null(pl.col("mean")), pl.col("high").fill_null(pl.col("mean")), "params", "flops"
    )
    cheapest = rows.sort("params").row(0, named=True)
    best = rows.sort("mean", descending=found.higher_is_better).row(0, named=True)
    times = f", which has {best['params'] / cheapest['params']:.2g} times the parameters of {cheapest['cell']}, the smallest"
    return Figure(
        "costs",
        f"{capitalised(label(found.quantity))} against static cost",
        "Mean and 95 % interval over seeds, against parameters and FLOPs of one image's forward pass. Best is "
        f"{best['cell']}{times if best['cell'] != cheapest['cell'] else ', the smallest network of all'}.",
        tuple(_cost_panel(drawing, rows, name) for name in ("params", "flops")),
    )


def _cost_panel(drawing: _Drawing, rows: pl.DataFrame, cost: str) -> Panel:
    base = alt.Chart(_rows(rows)).encode(
        x=alt.X(
            f"{cost}:Q", title=label(cost), scale=alt.Scale(type="log", nice=False, padding=20), axis=alt.Axis(format="~s", tickCount=5)
        ),
        color=drawing.colour(LEGEND),
        opacity=_shown(1.0, 0.1),
        tooltip=["cell:N", alt.Tooltip(f"{cost}:Q", format=","), "mean:Q", "low:Q", "high:Q"],
    )
    interval = base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", title=drawing.unit(drawing.found.quantity), scale=alt.Scale(zero=False)), y2="high:Q"
    )
    point = base.mark_point(filled=True, size=110).encode(y="mean:Q", shape=drawing.symbol(LEGEND))
    return Panel(label(cost), alt.LayerChart(layer=[interval, point]).add_params(_picked()))
