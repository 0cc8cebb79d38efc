"""The experiment file: what is asked. Reads the TOML, checks every key and value, and unfolds the grid into cells."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from tune_ablation.claims import KINDS, Claim
from tune_ablation.data import DATASETS
from tune_ablation.data.augment import AUGMENTATIONS
from tune_ablation.errors import UserError
from tune_ablation.models import DEPTHS, HEADS, STEMS
from tune_ablation.records import HIGHER_IS_BETTER
from tune_ablation.samplers import SAMPLERS
from tune_ablation.training.schedules import SCHEDULES

Level = int | float | str
OBJECTIVES = tuple(f"val_{measure}" for measure in HIGHER_IS_BETTER)
PRECISIONS = ("auto", "fp32", "bf16")

_HERE = Path(__file__).parent
SHIPPED = next((folder for folder in (_HERE / "experiments", _HERE.parent / "experiments") if folder.is_dir()), _HERE)
"""The experiments that come with the package: inside it once installed, beside it in a checkout."""


def _one_of(allowed: Collection[Level]) -> AfterValidator:
    def check(given: Level) -> Level:
        if given not in allowed:
            raise ValueError(f"allowed: {', '.join(map(str, allowed))}")
        return given

    return AfterValidator(check)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Table):
    """What images, how many of them, and which are held out for tuning.

    ``classes``, ``train_per_class`` and ``test_per_class`` cut a slice from the data set; left out, all of it is used.
    ``seed`` draws the slice and the held-out images (and the synthetic images themselves), never anything else.
    """

    dataset: Annotated[str, _one_of(DATASETS)] = "synthetic"
    classes: int | None = Field(default=None, ge=2)
    train_per_class: int | None = Field(default=None, ge=1)
    val_per_class: int = Field(default=50, ge=1)
    test_per_class: int | None = Field(default=None, ge=1)
    image_size: int = Field(default=64, ge=32, le=512)
    seed: int = Field(default=0, ge=0)


class Model(_Table):
    """The network where the grid does not vary it; ``width`` is the base width (64 is the standard ResNet)."""

    depth: Annotated[int, _one_of(DEPTHS)] = 18
    head: Annotated[str, _one_of(HEADS)] = "origin"
    width: int = Field(default=64, ge=1, le=1024)
    stem: Annotated[str, _one_of(STEMS)] = "plain"


class Recipe(_Table):
    """How every cell is trained: SGD; the learning rate comes from the search.

    ``lr`` fixes it for all cells instead, where ``search.trials_per_cell`` is 0.

    ``step`` multiplies the learning rate by ``step_gamma`` every ``step_epochs``; every schedule starts with a linear warm-up
    over ``warmup_epochs``.
    """

    epochs: int = Field(default=30, ge=1, le=100_000)
    batch_size: int = Field(default=256, ge=2)
    schedule: Annotated[str, _one_of(SCHEDULES)] = "constant"
    warmup_epochs: int = Field(default=0, ge=0)
    step_epochs: int = Field(default=30, ge=1)
    step_gamma: float = Field(default=0.1, gt=0, lt=1)
    augment: Annotated[str, _one_of(AUGMENTATIONS)] = "none"
    lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    precision: Annotated[str, _one_of(PRECISIONS)] = "auto"

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_epochs >= self.epochs > 1:
            raise ValueError(f"warmup_epochs = {self.warmup_epochs} must be below epochs = {self.epochs}")
        return self


class LearningRate(_Table):
    """The range searched, ends included; ``log`` draws its logarithm evenly."""

    low: float = Field(default=1e-3, gt=0)
    high: float = Field(default=1.0, gt=0)
    log: bool = True

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        return self


class Search(_Table):
    """How Optuna tunes the learning rate inside each cell.

    Of a cell's trials ``parallel_per_cell`` may run at once: trial n knows the results of trials 0 .. n - parallel_per_cell. The
    first ``warmup_trials`` are drawn without a model (left out: a third of ``trials_per_cell``).
    """

    objective: str = "val_acc1"
    trials_per_cell: int = Field(default=8, ge=0, le=10_000)
    parallel_per_cell: int = Field(default=1, ge=1)
    sampler: Annotated[str, _one_of(SAMPLERS)] = "tpe"
    warmup_trials: int | None = Field(default=None, ge=1)
    lr: LearningRate = LearningRate()

    @field_validator("objective")
    @classmethod
    def _is_a_val_metric(cls, given: str) -> str:
        if given not in OBJECTIVES:
            test = " (the test split is reported, never used to choose anything)" if given.startswith("test") else ""
            raise ValueError(f"allowed: {', '.join(OBJECTIVES)}{test}")
        return given

    @property
    def warmup(self) -> int:
        """Trials drawn before the sampler's model takes over."""
        return self.warmup_trials or max(1, self.trials_per_cell // 3)

    @property
    def maximise(self) -> bool:
        """Whether a higher objective is better."""
        return HIGHER_IS_BETTER[self.objective.removeprefix("val_")]


class Confirm(_Table):
    """The seeds on which every cell's winner is retrained."""

    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)

    @field_validator("seeds")
    @classmethod
    def _each_once(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(given)) < len(given):
            raise ValueError("each seed may stand in the list once")
        return given


FACTORS: dict[str, type[Model] | type[Recipe]] = {
    **dict.fromkeys(("depth", "head", "width", "stem"), Model),
    **dict.fromkeys(("augment", "schedule", "batch_size", "momentum", "weight_decay"), Recipe),
}
"""What a grid may vary, and the table of the file that gives the value where it does not."""


@dataclass(frozen=True)
class Cell:
    """One combination of levels.

    Attributes:
        levels: level of every factor, ``depth`` and ``head`` always among them.
        model: the network this cell trains.
        recipe: how it is trained.
    """

    levels: Mapping[str, Level]
    model: Model
    recipe: Recipe

    @property
    def key(self) -> str:
        """The report's name for it: ``resnet18_maxpool``; further factors follow as ``_factor=level``."""
        further = "".join(f"_{name}={level}" for name, level in self.levels.items() if name not in ("depth", "head"))
        return f"resnet{self.model.depth}_{self.model.head}{further}"

    def matches(self, selector: Mapping[str, Level]) -> bool:
        """Whether the cell has every level that the selector names."""
        return all(self.levels.get(name) == level for name, level in selector.items())


class Experiment(_Table):
    """One experiment file, resolved: every value stated or defaulted, and checked."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")
    question: str = ""
    seed: int = Field(default=0, ge=0)
    data: Data = Data()
    model: Model = Model()
    grid: dict[str, tuple[Any, ...]]  # levels are checked against their factor's own table below
    baseline: dict[str, Any] = {}
    recipe: Recipe = Recipe()
    search: Search = Search()
    confirm: Confirm = Confirm()
    claims: tuple[SerializeAsAny[Claim], ...] = ()

    @field_validator("claims", mode="before")
    @classmethod
    def _by_kind(cls, given: object) -> object:
        if not isinstance(given, tuple):
            raise ValueError(f"claims: given {_given(given)}, must be a list of tables, [[claims]]")  # noqa: TRY004 - pydantic's
        read = []
        for index, claim in enumerate(given):
            if not isinstance(claim, dict):
                raise ValueError(f"claims[{index}]: given {_given(claim)}, must be a table")  # noqa: TRY004 - pydantic's
            kind = claim.get("kind", "order")
            if not isinstance(kind, str) or kind not in KINDS:
                raise ValueError(f"claims[{index}].kind: given {_given(kind)}, allowed: {', '.join(KINDS)}")
            try:
                read.append(KINDS[kind].model_validate(claim))
            except ValidationError as error:
                raise ValueError(_explain(error, KINDS[kind], f"claims[{index}].")) from None
        return tuple(read)

    @model_validator(mode="after")
    def _grid_is_one(self) -> Self:
        if not self.grid:
            raise ValueError(f"grid: given no factor, allowed: one or more of {', '.join(FACTORS)}")
        for factor, levels in self.grid.items():
            if factor not in FACTORS:
                raise ValueError(f"grid: unknown factor {factor!r}, allowed: {', '.join(FACTORS)}")
            if not levels:
                raise ValueError(f"grid.{factor}: given no level, one or more are needed")
            for level in levels:
                _check_level(factor, level, f"grid.{factor}")
            if len(set(levels)) < len(levels):
                raise ValueError(f"grid.{factor}: given {list(levels)}, each level may stand in the list once")
        return self

    @model_validator(mode="after")
    def _lr_comes_from_one_place(self) -> Self:
        if (self.recipe.lr is None) == (self.search.trials_per_cell == 0):
            raise ValueError(
                f"recipe.lr: given {_shown(self.recipe.lr)} with search.trials_per_cell = {self.search.trials_per_cell}; "
                "a learning rate is either searched for, or fixed with trials_per_cell = 0"
            )
        return self

    @model_validator(mode="after")
    def _selectors_fit(self) -> Self:
        _check_selector(self, self.baseline, "baseline")
        for index, claim in enumerate(self.claims):
            for where, selector in claim.selectors():
                place = f"claims[{index}].{where}"
                _check_selector(self, selector, place)
                chosen = [cell.key for cell in self.cells() if cell.matches(selector)]
                if len(chosen) > 1:
                    raise ValueError(f"{place}: given {selector}, which picks {len(chosen)} cells: {', '.join(chosen)}")
        return self

    def cells(self) -> tuple[Cell, ...]:
        """Every combination of levels, the last factor of the file varying fastest."""
        grid: dict[str, tuple[Level, ...]] = {"depth": (self.model.depth,), "head": (self.model.head,)} | self.grid
        cells = []
        for combination in itertools.product(*grid.values()):
            levels = dict(zip(grid, combination, strict=True))
            chosen = {table: {name: level for name, level in levels.items() if FACTORS[name] is table} for table in (Model, Recipe)}
            cells.append(
                Cell(
                    levels,
                    self.model.model_copy(update=chosen[Model]),
                    self.recipe.model_copy(update=chosen[Recipe]),
                )
            )
        return tuple(cells)

    def baseline_levels(self) -> dict[str, Level]:
        """The levels that make a cell the baseline: those stated, or the first level of the last factor that varies."""
        varied = [factor for factor, levels in self.grid.items() if len(levels) > 1] or list(self.grid)
        return dict(self.baseline) or {varied[-1]: self.grid[varied[-1]][0]}

    def resolved(self) -> dict[str, Any]:
        """The whole experiment as plain JSON data, defaults included; a baseline left out is written down, so growth cannot move it."""
        return self.model_dump(mode="json") | {"baseline": self.baseline_levels()}

    def digest(self) -> str:
        """A SHA-256 of the resolved experiment."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()


def _check_level(factor: str, level: Level, place: str) -> None:
    table = FACTORS[factor]
    try:
        table.model_validate({factor: level})
    except ValidationError as error:
        raise ValueError(f"{place}: {_explain(error, table).partition(': ')[2]}") from None


def _check_selector(experiment: Experiment, selector: Mapping[str, Level], place: str) -> None:
    known = {"depth", "head"} | set(experiment.grid)
    for factor, level in selector.items():
        if factor not in known:
            raise ValueError(f"{place}: {factor!r} is not a factor of this grid, allowed: {', '.join(sorted(known))}")
        _check_level(factor, level, f"{place}.{factor}")
    if place == "baseline" and selector and not any(cell.matches(selector) for cell in experiment.cells()):
        raise ValueError(f"baseline: given {dict(selector)}, which no cell of the grid has")


def read(name_or_path: str, settings: Iterable[str] = ()) -> Experiment:
    """Read and check an experiment.

    Args:
        name_or_path: a shipped experiment's name, or the path of a TOML file.
        settings: ``key.path=value`` each, put over the file's values; the value is TOML, a bare word a string.

    Raises:
        UserError: no such experiment, broken TOML, or a wrong key, level or value.
    """
    path = find(name_or_path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    except (ValueError, RecursionError) as error:  # beside TOML's own: a number of thousands of digits, lists in lists in lists
        raise UserError(f"{path}: not valid TOML: {error}") from None
    return with_settings(content, settings, str(path))


def with_settings(content: dict[str, Any], settings: Iterable[str], where: str) -> Experiment:
    """``parse`` after putting ``key.path=value`` settings over the content."""
    for setting in settings:
        _apply(content, setting)
    return parse(content, where)


def parse(content: Mapping[str, Any], where: str) -> Experiment:
    """Check an experiment's content, as read from TOML or from a run header; ``where`` names it in messages.

    Raises:
        UserError: a wrong key, level or value.
    """
    try:
        return Experiment.model_validate(_frozen(content))
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, Experiment)}") from None


def find(name_or_path: str) -> Path:
    """The file of an experiment given by name or path."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or _is_file(path):
        if not _is_file(path):
            raise UserError(f"{path}: no such experiment file")
        return path
    shipped = SHIPPED / f"{name_or_path}.toml"
    if not re.fullmatch(r"[\w.-]+", name_or_path) or not _is_file(shipped):
        raise UserError(f"unknown experiment {name_or_path!r}: neither a file nor one of those shipped: {', '.join(shipped_names())}")
    return shipped


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for the file system, a folder that may not be entered
        return False


def shipped_names() -> tuple[str, ...]:
    """Names of the experiments that come with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps ``new`` from continuing ``old`` (both resolved): a line for each value that differs.

    More confirm seeds and more levels only grow an experiment, so they are not listed; fewer are.
    """
    found = []
    old_values, new_values = dict(_leaves(old)), dict(_leaves(new))
    for key in dict.fromkeys((*old_values, *new_values)):
        before, after = old_values.get(key), new_values.get(key)
        if before == after:
            continue
        may_grow = key == "confirm.seeds" or key.startswith("grid.")
        if may_grow and isinstance(before, list) and isinstance(after, list) and set(map(repr, before)) <= set(map(repr, after)):
            continue
        found.append(f"{key}: was {_shown(before)}, now {_shown(after)}")
    return found


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif name == "claims" and isinstance(value, list):
            for index, claim in enumerate(value):
                yield from _leaves(claim, f"claims[{index}].")
        else:
            yield f"{prefix}{name}", value


def _shown(value: object) -> str:
    return "left out" if value is None else json.dumps(value)


def _frozen(value: Any) -> Any:
    """The same with every list as a tuple, as strict validation wants them."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _apply(content: dict[str, Any], setting: str) -> None:
    key, separator, text = setting.partition("=")
    names = key.strip().split(".")
    if not separator or not all(names):
        raise UserError(f"--set {setting}: not of the form key.path=value, e.g. --set recipe.epochs=3")
    try:
        parsed = tomllib.loads(f"value = {text}")
        if len(parsed) > 1:
            raise UserError(f"--set {key}: given {text!r}, which is more than one value")
        value = parsed["value"]
    except (ValueError, RecursionError):
        if not re.fullmatch(r"[A-Za-z][\w.-]*", text.strip()):
            raise UserError(f"--set {setting}: {text!r} is neither a TOML value nor a bare word") from None
        value = text.strip()
    table = content
    for name in names[:-1]:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"--set {setting}: {name} is not a table of the experiment file")
    table[names[-1]] = value


def _explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """The first of pydantic's complaints in this project's form: key (``prefix`` before it), what was given, what is allowed."""
    first, *more = error.errors()
    sentence = _sentence(first, model, prefix)
    return sentence + (f" (and {len(more)} more)" if more and not prefix else "")  # what is inside another's is counted there


_WORDS = {
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "tuple_type": "must be a list",
    "string_pattern_mismatch": "must be letters, digits, '_', '.' and '-', starting with a letter or digit",
}
"""This project's words for pydantic's complaints; the others only lose their capital."""


def _sentence(detail: ErrorDetails, model: type[BaseModel], prefix: str) -> str:
    own_key = "".join(f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}" for part in detail["loc"]).lstrip(".")
    key = (prefix + own_key).rstrip(".")
    reason = str(detail.get("ctx", {}).get("error", "")) or _WORDS.get(detail["type"], detail["msg"])
    reason = re.sub(r"^[A-Z]\w+ should (be|have)", r"must \1", reason).replace(" after validation", "")
    if detail["type"] == "extra_forbidden":
        return f"unknown key '{key}', allowed: {', '.join(_table_at(model, detail['loc'][:-1]).model_fields)}"
    if detail["type"] == "missing":
        return f"{key}: missing, it has no default"
    if detail["type"] == "value_error" and not key:
        return reason
    if key == "claims":
        return reason if detail["type"] == "value_error" else f"claims: {reason}"
    if isinstance(detail["input"], (dict, BaseModel)) and detail["type"] == "value_error":
        return f"{key}: {reason}"
    return f"{key}: given {_given(detail['input'])}, {reason}"


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else json.dumps(key)


def _given(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _table_at(model: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation if isinstance(part, str) else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model
