"""The figures: there where there is something to draw, true to the frames, one look a cell everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import vl_convert

from analysis.analyse import analyse
from analysis.figures import MOST_CELLS, drawn, figures, seed_bands
from analysis.load import load
from analysis.style import Figure, styles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.analysis.conftest import Folder, MakeFolder, RayFolder

ALL = {
    "contrasts",
    "cells",
    "curves_loss",
    "curves_acc1",
    "curves_acc5",
    "curves_f1",
    "gap",
    "reached",
    "learning_rates",
    "costs",
    "contrasts_secondary",
}


def by_name(folder: Folder) -> dict[str, Figure]:
    return {figure.name: figure for figure in figures(folder.analysed())}


def values(view: dict[str, Any]) -> list[dict[str, Any]]:
    """Every row drawn in a view."""
    inline = [row for layer in [view, *view["layer"]] for row in layer.get("data", {}).get("values", [])]
    return inline + [row for rows in view.get("datasets", {}).values() for row in rows]


def test_a_finished_experiment_has_every_figure_and_each_compiles(full: Folder) -> None:
    full.add_costs()
    found = by_name(full)
    assert set(found) == ALL
    for figure in found.values():
        assert figure.sentence.endswith(".")
        assert "<svg" in vl_convert.vegalite_to_svg(figure.chart().to_dict())
        for view in figure.views():
            assert values(view), figure.name
            vl_convert.vegalite_to_vega(view)


def test_of_one_unfinished_trial_nothing_is_drawn(make_folder: MakeFolder) -> None:
    folder = make_folder()
    folder.add("resnet18_origin", "search", 0, {"val_acc1": [10.0]})
    assert by_name(folder) == {}


def channels(node: Any, name: str) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == name and isinstance(value, dict))
        for value in node.values():
            yield from channels(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from channels(value, name)


def test_a_cell_looks_the_same_in_every_figure(full: Folder) -> None:
    looks = styles(cell.key for cell in full.experiment.cells())
    seen = 0
    full.add_costs()
    for figure in by_name(full).values():
        whole = figure.chart().to_dict()
        for channel, attribute in (("color", "colour"), ("strokeDash", "dash"), ("shape", "symbol")):
            for encoding in channels(whole, channel):
                if encoding.get("field") == "cell":
                    seen += 1
                    scale = encoding["scale"]
                    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {
                        cell: getattr(look, attribute) for cell, look in looks.items()
                    }
    assert seen > 10


def test_a_page_s_view_is_as_wide_as_its_place_says_what_it_shows_and_leaves_the_key_to_the_page(full: Folder) -> None:
    for figure in by_name(full).values():
        for view in figure.views():
            assert view["width"] == "container"
            assert figure.sentence in view["description"]
            assert not [
                encoding for name in ("color", "strokeDash", "shape") for encoding in channels(view, name) if encoding.get("legend")
            ]


def test_seed_bands_are_the_mean_the_range_and_a_centred_moving_mean() -> None:
    epochs = range(1, 7)
    rows = [("a", f"t{seed}", seed, epoch, "m", float(epoch**2 + seed)) for seed in (0, 1, 5) for epoch in epochs]
    frame = pl.DataFrame(rows, ["cell", "trial", "seed", "epoch", "metric", "value"], orient="row")
    bands = seed_bands(frame.sample(fraction=1, shuffle=True, seed=1))
    assert bands["mean"].to_list() == [epoch**2 + 2 for epoch in epochs]
    assert bands["low"].to_list() == [epoch**2 for epoch in epochs]
    assert bands["high"].to_list() == [epoch**2 + 5 for epoch in epochs]
    means = [epoch**2 + 2 for epoch in epochs]
    windows = [means[max(0, at - 1) : at + 2] for at in range(6)]
    assert bands["smooth"].to_list() == pytest.approx([sum(window) / len(window) for window in windows])


def test_a_wild_first_epoch_does_not_flatten_the_others_and_the_sentence_says_so(make_folder: MakeFolder) -> None:
    folder = make_folder(recipe={"epochs": 12})
    for seed in folder.experiment.confirm.seeds:
        folder.add("resnet18_origin", "confirm", seed, {"test_loss": [900.0, *[2.0 + 0.1 * epoch for epoch in range(11)]]})
    figure = by_name(folder)["curves_loss"]
    (_, view) = figure.views()
    top = view["layer"][0]["encoding"]["y"]["scale"]["domain"][1]
    assert top < 10
    assert "leaves out extreme values" in figure.sentence


def test_an_accuracy_is_never_cut(full: Folder) -> None:
    for name in ("curves_acc1", "curves_acc5", "curves_f1"):
        assert "leaves out" not in by_name(full)[name].sentence


def test_the_sentences_say_what_the_frames_say(full: Folder) -> None:
    found = full.analysed()
    figure = by_name(full)
    best = found.summaries.filter(pl.col("quantity") == "test_acc1_final").sort("mean", descending=True).row(0, named=True)
    assert f"{best['cell']} has the highest mean, {best['mean']:.4g}" in figure["cells"].sentence
    verdicts = found.contrasts["verdict"].value_counts().rows()
    assert all(f"{number} {verdict}" in figure["contrasts"].sentence for verdict, number in verdicts)


def test_diverged_search_trials_are_marked_as_such(full: Folder) -> None:
    full.add("resnet18_maxpool", "search", 1, {"val_acc1": [1.0]}, lr=0.9, diverged=True)
    figure = by_name(full)["learning_rates"]
    assert "1 trial of 4 diverged" in figure.sentence
    marked = [row for view in figure.views() for row in values(view) if row.get("diverged")]
    assert [(row["cell"], row["lr"], row["objective"]) for row in marked] == [("resnet18_maxpool", 0.9, None)]


def test_the_learning_rates_axis_shows_the_whole_range_searched(full: Folder) -> None:
    searched = full.experiment.search.lr
    (view, *_) = by_name(full)["learning_rates"].views()
    assert view["layer"][0]["encoding"]["x"]["scale"]["domain"] == [searched.low, searched.high]


def test_of_very_many_cells_the_baseline_and_the_best_are_drawn(ray: RayFolder) -> None:
    for number in range(60):
        ray.add({"width": number, "seed": 0}, [{"accuracy": float(number)}])
    from analysis.foreign import Columns

    (run,) = load([str(ray.path)], Columns(metrics=("accuracy",), cells=("width",), baseline=("width=3",), seed="seed")).runs
    cells = drawn(analyse(run))
    assert len(cells) == MOST_CELLS
    levels = [run.design.cells[cell]["width"] for cell in cells]
    assert set(levels) == {3, *range(60 - MOST_CELLS + 1, 60)}
