"""What an experiment file may claim beforehand: each kind of claim, and what it must name. The analysis rules on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from tune_ablation.records import COSTS, DERIVED_METRICS, METRICS


def _a_level(given: object) -> object:
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise PydanticCustomError("level", "must be a number or a text")
    return given


Selector = Mapping[str, Annotated[int | float | str, PlainValidator(_a_level)]]
"""Levels that pick one cell: ``{ depth = 18, head = "origin" }``; factors with a single level may be left out."""

At = Literal["final", "best", "mean"]
"""Which value of a trial's curve: its last epoch, its best epoch, or the mean over its epochs."""


def _known_metric(name: str) -> str:
    allowed = METRICS | DERIVED_METRICS
    if name not in allowed:
        raise ValueError(f"allowed: {', '.join(allowed)}")
    return name


def _known_curve(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"allowed: {', '.join(METRICS)}")
    return name


Metric = Annotated[str, AfterValidator(_known_metric)]
Curve = Annotated[str, AfterValidator(_known_curve)]
OneOrMore = Annotated[
    tuple[Selector, ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, Mapping) else given),
    Field(min_length=1),
]


class _Claim(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    text: str = Field(min_length=1)

    def selectors(self) -> tuple[tuple[str, Selector], ...]:
        """Every cell the claim speaks of, with the key it stands under."""
        found: list[tuple[str, Selector]] = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Mapping):
                found.append((name, value))
            elif isinstance(value, tuple) and value and isinstance(value[0], Mapping):
                found += [(f"{name}[{index}]", one) for index, one in enumerate(value)]
        return tuple(found)


class Order(_Claim):
    """``better`` beats ``than`` (one cell, or several in falling order) on a metric: paired contrasts over confirm seeds."""

    kind: Literal["order"] = "order"
    metric: Metric
    at: At = "final"
    better: Selector
    than: OneOrMore


class Equivalent(_Claim):
    """Two cells differ by less than ``within`` on a metric."""

    kind: Literal["equivalent"]
    metric: Metric
    at: At = "final"
    cells: tuple[Selector, Selector]
    within: float = Field(gt=0)


class Turns(_Claim):
    """In every cell named, the mean curve gets better and then worse again (a test loss falls, then rises)."""

    kind: Literal["turns"]
    metric: Curve
    cells: OneOrMore


class Near(_Claim):
    """In every cell named, a metric is within ``within`` of ``value``."""

    kind: Literal["near"]
    metric: Metric
    at: At = "final"
    cells: OneOrMore
    value: float
    within: float = Field(gt=0)


class Bound(_Claim):
    """In every cell named, a metric is above, or below, a value: exactly one of ``above`` and ``below`` is given."""

    kind: Literal["bound"]
    metric: Metric
    at: At = "final"
    cells: OneOrMore
    above: float | None = None
    below: float | None = None

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"given above = {self.above} and below = {self.below}, exactly one of them must be given")
        return self


class Agree(_Claim):
    """Two metrics put the cells named in the same order."""

    kind: Literal["agree"]
    metrics: tuple[Metric, Metric]
    at: At = "final"
    cells: tuple[Selector, ...] = Field(min_length=2)


class Crossover(_Claim):
    """``early`` is ahead of ``late`` in the first epochs and behind it at the end, each time clear of zero."""

    kind: Literal["crossover"]
    metric: Curve
    early: Selector
    late: Selector


class Cost(_Claim):
    """A static figure of the first cell is equal to, or less or more than, the second's."""

    kind: Literal["cost"]
    quantity: Literal[COSTS]  # type: ignore[valid-type]  # one table of names; pydantic reads the tuple
    relation: Literal["equal", "less", "more"]
    cells: tuple[Selector, Selector]


class AllAbove(_Claim):
    """Every claim that stands before this one in the file holds."""

    kind: Literal["all_above"]


Claim = Order | Equivalent | Turns | Near | Bound | Agree | Crossover | Cost | AllAbove
KINDS: dict[str, type[_Claim]] = {
    "order": Order,
    "equivalent": Equivalent,
    "turns": Turns,
    "near": Near,
    "bound": Bound,
    "agree": Agree,
    "crossover": Crossover,
    "cost": Cost,
    "all_above": AllAbove,
}
