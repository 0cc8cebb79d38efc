"""What each factor does by itself, and what two do together: main effects and two-factor interactions, paired by seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import polars as pl

from analysis import compare
from analysis.design import Design

if TYPE_CHECKING:
    from tune_ablation.experiment import Level  # read for its types alone: a folder that is not ours is read without loading pydantic

Weights = Mapping[str, float]
"""How much each cell counts in an effect; the weights sum to 0."""

COLUMNS = pl.Schema(
    {"effect": pl.String(), "kind": pl.String(), "factors": pl.List(pl.String), "levels": pl.List(pl.String), "cells": pl.Int64()}
)


def effects(trials: pl.DataFrame, design: Design, quantity: str, *, higher_is_better: bool) -> pl.DataFrame:
    """Main effects and two-factor interactions on a quantity.

    For every factor with more than one level, against its reference level (the baseline's, else the first):

    - main effect of a level: the mean over the cells with that level less the mean over the same cells with the reference level;
    - interaction of two levels of two factors: how much more the first does at the second than at the second's reference, a difference
      of differences, ``(ab - a0) - (0b - 00)``, averaged over the other factors' levels.

    Other factors' levels weigh equally, and only those combinations count for which the grid has every cell needed. Each effect is taken
    within a seed, from all its cells at that seed, and then over seeds: a seed that lacks one of the cells does not count.

    Returns:
        A row for each: ``effect`` in words, ``kind`` (``main`` or ``interaction``), ``factors``, ``levels``, ``cells`` (how many it takes),
        and the columns of ``compare.contrasts`` from ``n`` on; Holm over all rows. ``verdict`` says of a main effect whether the level is
        better or worse than the reference, of an interaction whether the two together are better or worse than the sum of both.
    """
    values = compare.long_values(trials, [quantity]).filter(pl.col("value").is_not_null() & pl.col("seed").is_not_null())
    described: list[dict[str, object]] = []
    weighted: list[pl.DataFrame] = []
    for text, kind, factors, levels, weights in _effects(design):
        described.append({"effect": text, "kind": kind, "factors": factors, "levels": list(map(str, levels)), "cells": len(weights)})
        weighted.append(_by_seed(values, weights).with_columns(pl.lit(text).alias("effect")))
    frame = pl.DataFrame(described, COLUMNS)
    seeds = pl.concat(weighted) if weighted else pl.DataFrame(schema={"value": pl.Float64, "reference": pl.Float64, "effect": pl.String})
    return compare.judged(frame.with_columns(pl.lit(quantity).alias("quantity")), seeds, ["effect"], {quantity: higher_is_better})


def _effects(design: Design) -> Iterator[tuple[str, str, list[str], Sequence[Level], Weights]]:
    for factor in design.varied:
        reference, *others = design.levels(factor)
        for level in others:
            if weights := _weights(design, {factor: (level, reference)}):
                yield f"{factor} = {level}, not {reference}", "main", [factor], (level,), weights
    for first, second in itertools.combinations(design.varied, 2):
        (reference_1, *others_1), (reference_2, *others_2) = design.levels(first), design.levels(second)
        for one, two in itertools.product(others_1, others_2):
            if weights := _weights(design, {first: (one, reference_1), second: (two, reference_2)}):
                text = f"{first} = {one} with {second} = {two}"
                yield text, "interaction", [first, second], (one, two), weights


def _weights(design: Design, contrast: Mapping[str, tuple[Level, Level]]) -> Weights:
    """Weights of the cells in a contrast of levels; empty where the grid lacks the cells."""
    others = [factor for factor in design.factors if factor not in contrast]
    backgrounds = list(dict.fromkeys(tuple(levels[factor] for factor in others) for levels in design.cells.values()))
    found: list[dict[str, float]] = []
    for background in backgrounds:
        signed: dict[str, float] = {}
        for places in itertools.product((0, 1), repeat=len(contrast)):
            chosen = {factor: levels[place] for (factor, levels), place in zip(contrast.items(), places, strict=True)}
            cell = design.pick({**dict(zip(others, background, strict=True)), **chosen})
            if cell is None:
                break
            signed[cell] = (-1.0) ** sum(places)
        else:
            found.append(signed)
    return {cell: weight / len(found) for signed in found for cell, weight in signed.items()}


def _by_seed(values: pl.DataFrame, weights: Weights) -> pl.DataFrame:
    """The two sides of an effect at every seed that has all its cells: ``value`` and ``reference``."""
    weight = pl.DataFrame(list(weights.items()), {"cell": pl.String, "weight": pl.Float64}, orient="row")
    part = pl.col("value") * pl.col("weight")
    return (
        values.join(weight, on="cell")
        .sort("seed", "cell")
        .group_by("seed", maintain_order=True)
        .agg(
            pl.len().alias("cells"),
            part.filter(pl.col("weight") > 0).sum().alias("value"),
            (-part).filter(pl.col("weight") < 0).sum().alias("reference"),
        )
        .filter(pl.col("cells") == len(weights))
        .select("value", "reference")
    )
