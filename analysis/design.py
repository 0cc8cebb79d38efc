"""What was compared with what: cells and their levels, the baseline, the metrics. The same words for our runs and for foreign ones."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune_ablation.records import METRICS

if TYPE_CHECKING:  # read for its types alone: a folder that is not ours is read without loading pydantic
    from tune_ablation.claims import Claim
    from tune_ablation.experiment import Experiment, Level

Pair = tuple[str, str]
"""A cell, and the one it is held against."""


@dataclass(frozen=True)
class Design:
    """What an experiment compares.

    Attributes:
        name: of the experiment, or of the folder or file that the records are from.
        question: what it asks; may be empty.
        cells: levels of every cell by its key, in the design's order; every cell has the same factors.
        baseline: the levels that make a cell a baseline.
        metrics: the metric columns of the epochs, and whether higher is better.
        primary: the metric that contrasts, effects and targets are about unless another is asked for.
        loss: the metric whose lowest point is the turning epoch; None where there is none.
        objective: the metric that chose the search's winner.
        seeds: the confirm seeds asked for; empty where that is not known.
        claims: what was claimed beforehand.
    """

    name: str
    question: str
    cells: Mapping[str, Mapping[str, Level]]
    baseline: Mapping[str, Level]
    metrics: Mapping[str, bool]
    primary: str
    loss: str | None
    objective: str
    seeds: tuple[int, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the factors."""
        return tuple(next(iter(self.cells.values()), {}))

    def levels(self, factor: str) -> tuple[Level, ...]:
        """The levels of a factor, the baseline's first, then in the order of the cells."""
        found = dict.fromkeys(levels[factor] for levels in self.cells.values())
        first = [self.baseline[factor]] if self.baseline.get(factor) in found else []
        return tuple(dict.fromkeys([*first, *found]))

    @property
    def varied(self) -> tuple[str, ...]:
        """The factors with more than one level."""
        return tuple(factor for factor in self.factors if len(self.levels(factor)) > 1)

    def pick(self, selector: Mapping[str, Level]) -> str | None:
        """The first cell with the levels named; None where no cell has them."""
        return next((cell for cell, levels in self.cells.items() if _has(levels, selector)), None)

    @property
    def baseline_cells(self) -> tuple[str, ...]:
        """Every cell with the baseline's levels: one for each combination of the other factors."""
        return tuple(cell for cell, levels in self.cells.items() if _has(levels, self.baseline))

    def baseline_pairs(self) -> tuple[Pair, ...]:
        """Every other cell with the baseline of its own levels otherwise (of its depth, where the baseline names a head)."""
        pairs = [(cell, self.pick({**levels, **self.baseline})) for cell, levels in self.cells.items()]
        return tuple((cell, base) for cell, base in pairs if base is not None and base != cell)

    def all_pairs(self) -> tuple[Pair, ...]:
        """Every pair of cells, the later one held against the earlier."""
        return tuple((later, earlier) for earlier, later in itertools.combinations(self.cells, 2))


def _has(levels: Mapping[str, Level], selector: Mapping[str, Level]) -> bool:
    return all(levels.get(name) == level for name, level in selector.items())


def of_experiment(experiment: Experiment) -> Design:
    """The design of one of our experiments."""
    return Design(
        name=experiment.name,
        question=experiment.question,
        cells={cell.key: cell.levels for cell in experiment.cells()},
        baseline=experiment.baseline_levels(),
        metrics=METRICS,
        primary="test_acc1",
        loss="test_loss",
        objective=experiment.search.objective,
        seeds=experiment.confirm.seeds,
        claims=experiment.claims,
    )
