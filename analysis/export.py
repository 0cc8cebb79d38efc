"""The report as files: HTML, Markdown, every figure as PNG and SVG, and the frames for whoever wants to compute on."""

import io
import re
from collections.abc import Iterable, Sequence

import polars as pl
import vl_convert

from analysis.analyse import Analysis
from analysis.curves import with_gaps
from analysis.document import document
from analysis.markdown import markdown
from analysis.page import page
from analysis.style import Figure
from tune_ablation.storage import Storage

SCALE = 1.5
"""Pixels of a PNG for each of the figure's own."""


def write(found: Sequence[Analysis], unreadable: Iterable[str], storage: Storage) -> list[str]:
    """Write the report of several experiments into a folder, over an earlier one.

    Returns:
        The names of the files: ``report.html``, ``report.md``, ``figures/*.png`` and ``.svg``, ``epochs.parquet`` (every epoch record
        with its gaps), ``trials.parquet`` (every per-trial quantity), ``cells.csv`` (every quantity of every cell over its seeds).
    """
    content = document(found, unreadable)
    pictures: dict[int, str] = {}
    files: dict[str, bytes] = {}
    several = len(content.experiments) > 1
    for place, experiment in enumerate(content.experiments, start=1):
        for figure in experiment.figures:
            name = f"figures/{f'{place}-{_slug(experiment.name)}-' if several else ''}{figure.name}"
            pictures[id(figure)] = f"{name}.svg"
            files |= _drawn(figure, name)
    files["report.html"] = page(content).encode()
    files["report.md"] = markdown(content, pictures).encode()
    files["epochs.parquet"] = _parquet([_named(with_gaps(one.run.epochs, one.design), one) for one in found])
    files["trials.parquet"] = _parquet([_named(one.trials, one) for one in found])
    files["cells.csv"] = pl.concat([_named(cells(one), one) for one in found], how="diagonal_relaxed").write_csv().encode()
    for name, content_of in files.items():
        storage.write(name, content_of)
    return list(files)


def _drawn(figure: Figure, name: str) -> dict[str, bytes]:
    svg = vl_convert.vegalite_to_svg(figure.chart().to_dict(validate=False))
    return {f"{name}.svg": svg.encode(), f"{name}.png": vl_convert.svg_to_png(svg, scale=SCALE)}


def cells(found: Analysis) -> pl.DataFrame:
    """One row per cell: its levels, counts and learning rate, and ``<quantity>_<n|mean|sd|low|high>`` of every quantity."""
    levels = pl.DataFrame(
        [{"cell": cell, **{factor: str(level) for factor, level in of_cell.items()}} for cell, of_cell in found.design.cells.items()]
    )
    figures = ("n", "mean", "sd", "low", "high")
    wide = found.summaries.pivot("quantity", index="cell", values=list(figures))
    quantities = found.summaries["quantity"].unique(maintain_order=True)
    renamed = {f"{figure}_{quantity}": f"{quantity}_{figure}" for quantity in quantities for figure in figures}
    ordered = wide.select("cell", *renamed).rename(renamed)
    joined = levels.join(found.cells, on="cell", how="left", maintain_order="left").join(
        found.costs, on="cell", how="left", maintain_order="left"
    )
    return joined.join(ordered, on="cell", how="left", maintain_order="left")


def _named(frame: pl.DataFrame, found: Analysis) -> pl.DataFrame:
    """The frame with the experiment's name in front, so that frames of several can be told apart."""
    return frame.select(pl.lit(found.design.name).alias("experiment"), pl.exclude("experiment"))


def _parquet(frames: Sequence[pl.DataFrame]) -> bytes:
    buffer = io.BytesIO()
    pl.concat(frames, how="diagonal_relaxed").write_parquet(buffer)
    return buffer.getvalue()


def _slug(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-").lower() or "experiment"
