"""Results that are not ours: any Ray Tune folder, and the text logs of pytorch/examples' imagenet/main.py. Never opens a pickle."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis.design import Design
from analysis.files import BATCH_BYTES, GONE, Batch, parse_files, read, repeated, try_read
from analysis.run import FIXED_TYPES, Problem, Run
from tune_ablation.errors import UserError
from tune_ablation.models import parse_cell_key
from tune_ablation.records import HIGHER_IS_BETTER, METRICS
from tune_ablation.storage import Storage

if TYPE_CHECKING:
    from tune_ablation.experiment import Level  # read for its types alone: a folder that is not ours is read without loading pydantic

RESULT_FILE = "result.json"
PARAMS_FILE = "params.json"
STATE_PREFIX = "experiment_state-"
LOG_ENDINGS = (".log", ".txt", ".out")

RAYS_OWN = frozenset(
    {
        *("timestamp", "time_this_iter_s", "time_total_s", "time_since_restore", "iterations_since_restore", "training_iteration"),
        *("pid", "timesteps_total", "timesteps_since_restore", "episodes_total", "warmup_time", "done", "trial_num"),
    }
)
"""Numbers that Ray itself writes into every result; none of them is a metric."""

_CONFIG = b'"config": '
_DECODER = json.JSONDecoder()
_LOSSES = re.compile(r"loss|err|perplexity|mse|mae|nll", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """How a Ray Tune folder's columns are to be read; a column is a key of the results or of the parameters, ``a/b`` for ``b`` in ``a``.

    Attributes:
        metrics: what was measured, the one to compare on first; ``name``, ``name:max`` or ``name:min`` (left out: ``min`` where the name
            speaks of a loss or an error). Empty: the only number that is there.
        cells: the parameters whose combinations are the cells; empty: all trials are one cell.
        baseline: ``factor=level`` each; empty: the first level of the last factor.
        epoch: counts the rows of a trial.
        lr: the learning rate.
        seed: what tells the repetitions of a cell apart; without it trials are taken for a search, and are not paired.
        seconds: time an epoch took.
    """

    metrics: tuple[str, ...] = ()
    cells: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    epoch: str = "training_iteration"
    lr: str = "lr"
    seed: str | None = None
    seconds: str = "time_this_iter_s"


@dataclass(frozen=True)
class _Found:
    """What a trial's folder says of it besides its curves."""

    file: str
    trial: str
    params: Mapping[str, Any]
    levels: Mapping[str, Level]
    stage: str
    seed: Any
    lr: float | None


def load_ray(storage: Storage, names: Sequence[str], columns: Columns) -> Run:
    """Read a Ray Tune folder from its ``result.json`` and ``params.json`` files alone.

    Bare NaN and Infinity are read as no value, and a trial whose metric is one of them in its last row counts as diverged. A torn last
    line is left out; of an epoch that is there twice the last one counts. How long a trial was meant to train is not known: it counts as
    finished where it ends.

    Args:
        storage: the folder.
        names: the files in it.
        columns: what to read as what.

    Raises:
        UserError: no trial can be read, or a column asked for is in none of them.
    """
    files = sorted(name for name in names if name.rpartition("/")[2] == RESULT_FILE)
    reader = _RowReader(storage, files)
    sample = reader.sample()
    if sample is None:
        raise UserError(f"{storage.root}: no result in it: none of its {len(files)} {RESULT_FILE} holds a whole line")
    metrics = _metrics(columns, sample, storage.root)
    if _get(sample, columns.epoch) is None:
        allowed = ", ".join(sorted(sample))
        raise UserError(f"{storage.root}: --epoch-column: given {columns.epoch!r}, which no result has, allowed: {allowed}")
    wanted = {name: name for name in metrics} | {"epoch": columns.epoch, "epoch_seconds": columns.seconds}
    curves, configs, wrong = reader.rows(wanted, sample)
    gone = {place for place, what in wrong.items() if what == GONE}  # a folder that is no trial's: one there is always has this file
    problems = [Problem(files[place], what, _folder(files[place]) or storage.root) for place, what in wrong.items() if place not in gone]
    needed = [*columns.cells, *filter(None, (columns.seed,))]
    found: dict[int, _Found] = {}
    for place, (file, params) in enumerate(zip(files, configs, strict=True)):
        if place in gone:
            continue
        if not params or any(_get(params, name) is None for name in needed):
            params = {**reader.first_row(file), **params, **_params(storage, file, problems)}  # noqa: PLW2901 - completed
        levels = {factor: _level(_get(params, factor)) for factor in columns.cells}
        seed = _get(params, columns.seed) if columns.seed else None
        stage = "search" if columns.seed is None else "confirm"
        found[place] = _Found(file, _folder(file) or storage.root, params, levels, stage, seed, _number(_get(params, columns.lr)))
    _check_columns(found.values(), columns.cells, columns, storage.root)
    design = _design(storage.root, list(found.values()), columns.cells, metrics, columns)
    return _run(storage.root, design, found, curves, problems)


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def _params(storage: Storage, file: str, problems: list[Problem]) -> dict[str, Any]:
    """The parameters in the file beside a result file, which also says so of itself where that file is damaged."""
    name = f"{file.removesuffix(RESULT_FILE)}{PARAMS_FILE}"
    content = read(storage, name)
    params = _row(content) if content is not None else {}
    if params is None:
        problems.append(Problem(name, "not JSON; the results' own config is read instead"))
    return params or {}


def _get(content: Mapping[str, Any], path: str | None) -> Any:
    """The value under a key, or under ``a/b`` in nested tables; ``config/`` in front is what Ray's own tables say."""
    if path is None:
        return None
    if path in content:
        return content[path]
    value: Any = content
    for part in path.removeprefix("config/").split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None


def _level(value: object) -> Level:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return "none" if value is None else json.dumps(value, default=str)
    return value


def _metrics(columns: Columns, sample: Mapping[str, Any], where: str) -> dict[str, bool]:
    numbers = sorted(name for name, value in sample.items() if isinstance(value, (int, float)) and not isinstance(value, bool))
    candidates = [name for name in numbers if name not in RAYS_OWN and name != columns.epoch]
    if columns.metrics:
        given = {}
        for text in columns.metrics:
            name, _, mode = text.rpartition(":") if text.endswith((":max", ":min")) else (text, "", "")
            if _get(sample, name) is None and name not in sample:
                raise UserError(f"{where}: --metric: given {name!r}, which no result has, allowed: {', '.join(candidates)}")
            given[name] = mode == "max" if mode else METRICS.get(name, not _LOSSES.search(name))
        return given
    if len(candidates) != 1:
        raise UserError(f"{where}: --metric is needed: which of {', '.join(candidates) or 'no numbers at all'}?")
    return {candidates[0]: not _LOSSES.search(candidates[0])}


def _check_columns(found: Iterable[_Found], factors: Sequence[str], columns: Columns, where: str) -> None:
    every = list(found)
    for option, name in [*(("--cells", factor) for factor in factors), *([("--seed-column", columns.seed)] if columns.seed else [])]:
        if all(_get(one.params, name) is None for one in every):
            allowed = sorted({key for one in every for key in one.params if key not in RAYS_OWN})
            raise UserError(f"{where}: {option}: given {name!r}, which no trial has, allowed: {', '.join(allowed) or 'nothing'}")


def _design(where: str, found: Sequence[_Found], factors: Sequence[str], metrics: Mapping[str, bool], columns: Columns) -> Design:
    levels = sorted({tuple(one.levels.values()) for one in found}, key=lambda values: [(isinstance(value, str), value) for value in values])
    cells = {cell_key(dict(zip(factors, values, strict=True))): dict(zip(factors, values, strict=True)) for values in levels}
    baseline: dict[str, Level] = {}
    for text in columns.baseline:
        factor, separator, level = text.partition("=")
        allowed = {str(values[factor]): values[factor] for values in cells.values()} if factor in factors else {}
        if not separator or level not in allowed:
            listed = ", ".join(f"{name}={value[name]}" for name in factors for value in cells.values())
            raise UserError(f"--baseline: given {text!r}, allowed: {listed or 'none, for there are no --cells'}")
        baseline[factor] = allowed[level]
    if not baseline and factors:
        baseline = {factors[-1]: next(iter(cells.values()))[factors[-1]]}
    return _foreign_design(where, cells, baseline, metrics, next(iter(metrics)))


def _foreign_design(
    where: str, cells: Mapping[str, Mapping[str, Level]], baseline: Mapping[str, Level], metrics: Mapping[str, bool], primary: str
) -> Design:
    losses = [name for name, higher in metrics.items() if not higher and "loss" in name]
    loss = "test_loss" if "test_loss" in losses else next((name for name in losses if not name.startswith("train")), None)
    name = where.rstrip("/").rpartition("/")[2]
    return Design(name, "", cells, baseline, metrics, primary, loss, objective=primary)


def cell_key(levels: Mapping[str, Level]) -> str:
    """A cell's name: the report's own where the factors are depth and head, the level alone where the factor is ``cell``."""
    if set(levels) == {"depth", "head"}:
        return f"resnet{levels['depth']}_{levels['head']}"
    if set(levels) == {"cell"}:
        return str(levels["cell"])
    return "_".join(f"{factor}={level}" for factor, level in levels.items()) or "all"


def _run(where: str, design: Design, found: Mapping[int, _Found], curves: pl.DataFrame, problems: list[Problem]) -> Run:
    """Put what was read into the frames that our own records come as."""
    seeds = _seed_numbers([one.seed for one in found.values()])
    rows = []
    taken: dict[tuple[str, str, int | None], str] = {}
    counts: dict[tuple[str, str], int] = {}
    for place, one in found.items():
        cell = cell_key(one.levels)
        seed = seeds.get(_named(one.seed)) if one.seed is not None else None
        key = (cell, one.stage, seed)
        if seed is not None and key in taken and one.stage == "confirm":
            problems.append(Problem(one.file, f"has the cell and seed of {taken[key]}: give --cells or --seed-column that tell them apart"))
            continue
        taken[key] = one.trial
        number = counts[cell, one.stage] = counts.get((cell, one.stage), -1) + 1
        number = seed if seed is not None and one.stage == "confirm" else number
        rows.append((place, one.trial, cell, one.stage, number, seed, one.lr))
    schema = {"file": pl.Int64} | {name: FIXED_TYPES[name] for name in ("trial", "cell", "stage", "number", "seed", "lr")}
    trials = pl.DataFrame(rows, schema, orient="row")
    of, epoch = pl.col("file"), pl.col("epoch")
    epochs = (
        curves.sort(of, epoch, maintain_order=True)
        .filter(((of != of.shift(-1)) | (epoch != epoch.shift(-1))).fill_null(value=True))
        .with_columns(epoch.max().over("file").alias("epochs"))
        .join(trials, on="file", maintain_order="left")
        .drop("file")
    )
    plan = trials.select("trial", "cell", "stage", "number")
    if not epochs.height:
        first = f"; {problems[0].file}: {problems[0].what}" if problems else ""
        raise UserError(f"{where}: no result in it that can be read{first}")
    return Run(where, design, {}, None, plan, epochs, (), tuple(problems))


def _seed_numbers(given: Iterable[object]) -> dict[int | str, int]:
    """A whole number for every seed: itself, or its place among all where any is something else."""
    distinct = {_named(seed) for seed in given if seed is not None}
    whole = [seed for seed in distinct if isinstance(seed, int)]
    if len(whole) == len(distinct):
        return {seed: seed for seed in whole}
    return {seed: place for place, seed in enumerate(sorted(distinct, key=str))}


def _named(seed: object) -> int | str:
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else json.dumps(seed, default=str)


class _RowReader:
    """Reads the rows of many ``result.json`` files: many at once by polars where they are sound, one by one where they are not."""

    def __init__(self, storage: Storage, files: Sequence[str]) -> None:
        self._storage = storage
        self._files = files

    def sample(self) -> dict[str, Any] | None:
        """The last whole row of the first file that has one: it names the columns."""
        for file in self._files:
            content = try_read(self._storage, file)
            lines = [] if isinstance(content, str) else content.splitlines()
            for line in reversed(lines):
                row = _row(line)
                if row:
                    return row
        return None

    def first_row(self, file: str) -> dict[str, Any]:
        """The first row of a file; empty where there is none."""
        content = try_read(self._storage, file)
        return {} if isinstance(content, str) else _row(content.partition(b"\n")[0]) or {}

    def rows(self, wanted: Mapping[str, str], sample: Mapping[str, Any]) -> tuple[pl.DataFrame, list[dict[str, Any]], dict[int, str]]:
        """All rows.

        Args:
            wanted: name of each column in the result, and its path in the files; ``epoch`` is among them.
            sample: any row, which tells a key with a slash in it from a path.

        Returns:
            ``file`` (its place among the files), the columns wanted (numbers; null where missing or not finite) and ``diverged``; the
            config that each file's first row repeats; what is wrong with a file, by its place.
        """
        parser = _Parser({name: (path,) if path in sample else tuple(path.split("/")) for name, path in wanted.items()})
        frame, unread = parse_files(self._storage, self._files, parser.parse, BATCH_BYTES)
        epoch = pl.col("epoch").cast(pl.Int64, strict=False)
        frame = frame.with_columns(epoch).filter(pl.col("epoch").is_not_null())
        last = pl.col("epoch") == pl.col("epoch").max().over("file")
        diverged = pl.col("file").is_in(list(parser.diverged)) & last if parser.diverged else pl.lit(value=False)
        configs = [parser.configs.get(place, {}) for place in range(len(self._files))]
        return frame.with_columns(diverged.alias("diverged")), configs, unread | parser.wrong


def _row(line: bytes) -> dict[str, Any] | None:
    """A line as Python's own reader takes it, NaN and all; None where it is no row."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _config(content: bytes) -> dict[str, Any]:
    """The config that Ray repeats in every row, from the first, without reading the rest of it; empty where that does not work."""
    place = content.find(_CONFIG, 0, content.find(b"\n"))
    if place < 0:
        return {}
    try:
        config, _ = _DECODER.raw_decode(content[place + len(_CONFIG) : content.find(b"\n")].decode())
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


class _Parser:
    """Turns the text of result files into frames of ``file`` and the columns wanted.

    Attributes:
        wrong: what is wrong with a file, by its number.
        diverged: files in whose last row a metric is no finite number.
        configs: the config that a file's first row repeats, by its number.
    """

    def __init__(self, paths: Mapping[str, tuple[str, ...]]) -> None:
        self.wrong: dict[int, str] = {}
        self.diverged: set[int] = set()
        self.configs: dict[int, dict[str, Any]] = {}
        self._paths = paths
        self._schema = {"file": pl.Int64(), **{name: pl.Float64() for name in paths}}
        self._metrics = [path for name, path in paths.items() if name not in {"epoch", "epoch_seconds"}]
        tree: dict[str, Any] = {}
        for path in paths.values():
            place = tree
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = pl.Float64()
        self._read_schema = {name: _struct(value) for name, value in tree.items()}

    def parse(self, batch: Batch) -> pl.DataFrame:
        """Parse files, given by number and content: together where all are sound JSON, else those that are not by themselves."""
        self.configs |= {file: _config(content) for file, content in batch}
        whole = [(file, _whole_lines(content)) for file, content in batch]
        frame = self._fast(whole)
        if frame is not None:  # sound JSON throughout: there was no NaN either
            return frame
        return self._in_parts([(file, self._without_nan(file, content)) for file, content in whole])

    def _in_parts(self, batch: Batch) -> pl.DataFrame:
        frame = self._fast(batch)
        if frame is not None:
            return frame
        if len(batch) == 1:
            return pl.DataFrame(self._slowly(*batch[0]), self._schema, strict=False)
        half = len(batch) // 2
        return pl.concat([self._in_parts(batch[:half]), self._in_parts(batch[half:])])

    def _fast(self, batch: Batch) -> pl.DataFrame | None:
        """All files as one text; None where that is not a table line by line."""
        lines = [content.count(b"\n") for _, content in batch]
        if not any(lines):
            return pl.DataFrame(schema=self._schema)
        try:
            frame = pl.read_ndjson(b"".join(content for _, content in batch), schema=self._read_schema)
        except pl.exceptions.PolarsError:
            return None
        if frame.height != sum(lines):
            return None
        file = repeated("file", [file for file, _ in batch], lines)
        return frame.select(file, *(_field(path).alias(name) for name, path in self._paths.items()))

    def _slowly(self, file: int, content: bytes) -> list[dict[str, Any]]:
        rows = []
        for number, line in enumerate(content.splitlines(), 1):
            row = _row(line) if line.strip() else {}
            if row is None:
                self.wrong[file] = f"line {number} is not JSON; left out"
            elif row:
                rows.append({"file": file, **self._values(row)})
        return rows

    def _values(self, row: Mapping[str, Any]) -> dict[str, float | None]:
        return {name: _number(_at(row, path)) for name, path in self._paths.items()}

    def _without_nan(self, file: int, content: bytes) -> bytes:
        """The text with what is wanted, and null for what is not finite, in place of the lines that hold a bare NaN or Infinity."""
        if not _strange(content):
            return content
        lines = content.split(b"\n")
        for number, line in enumerate(lines):
            row = _row(line) if _strange(line) else None
            if row is not None:
                lines[number] = self._as_json(row)
        values = next((_row(line) for line in reversed(content.splitlines()) if line.strip()), None) or {}
        if any(isinstance(value, float) and not math.isfinite(value) for value in (_at(values, path) for path in self._metrics)):
            self.diverged.add(file)
        return b"\n".join(lines)

    def _as_json(self, row: Mapping[str, Any]) -> bytes:
        tree: dict[str, Any] = {}
        for path in self._paths.values():
            place = tree
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = _number(_at(row, path))
        return json.dumps(tree).encode()


def _struct(value: Any) -> pl.DataType:
    return pl.Struct({name: _struct(inner) for name, inner in value.items()}) if isinstance(value, dict) else value


def _field(path: tuple[str, ...]) -> pl.Expr:
    expression = pl.col(path[0])
    for part in path[1:]:
        expression = expression.struct.field(part)
    return expression


def _at(row: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    value: Any = row
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _whole_lines(content: bytes) -> bytes:
    """A file's text without a torn last line."""
    if not content or content.endswith(b"\n"):
        return content
    kept, newline, last = content.rpartition(b"\n")
    return content + b"\n" if _row(last) is not None else kept + newline


def _strange(content: bytes) -> bool:
    return b"NaN" in content or b"Infinity" in content


LOG_METRICS: dict[str, bool] = {
    f"{split}_{measure}": HIGHER_IS_BETTER[measure] for split in ("train", "test") for measure in ("loss", "acc1", "acc5")
}
"""What imagenet/main.py prints: running averages while it trains, and those of its validation set, here called test."""

_METERS = {"Loss": "loss", "Acc@1": "acc1", "Acc@5": "acc5"}
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
_METER = re.compile(rf"(\S+)\s+{_NUMBER}\s*\(\s*({_NUMBER})\)")
_TRAIN = re.compile(r"^Epoch: \[(\d+)\]\[\s*\d+/(\d+)\](.*)$")
_TEST = re.compile(r"^Test: \[\s*\d+/\d+\](.*)$")
_TOTAL = re.compile(rf"^\s*\*\s+Acc@1\s+({_NUMBER})\s+Acc@5\s+({_NUMBER})")
_MODEL = re.compile(r"=> (?:creating|using pre-trained) model '([^']+)'|(?:-a|--arch)[ =](\S+)")
_LR = re.compile(rf"(?:--lr|--learning-rate)[ =]({_NUMBER})")
_SEED = re.compile(r"seed[-_= ]?(\d+)", re.IGNORECASE)
_NAMED = re.compile(r"^(resnet\d+(?:_[a-z]+)?)")


def load_logs(storage: Storage, names: Sequence[str]) -> Run:
    """Read text logs of pytorch/examples ``imagenet/main.py``, one file a run.

    ``Epoch: [e][i/n] ... Loss v (avg) Acc@1 v (avg)`` lines give the running training averages, the last of an epoch counts;
    ``Test: [i/n] ...`` the test loss, as far as the last such line had averaged it; `` *   Acc@1 ... Acc@5 ...`` ends an epoch. An epoch
    without that line is left out; of one that is there twice (a resumed run) the last counts. Cell and seed come from the file's name
    (``resnet18_maxpool_seed-1.log``), else the cell from the model that the log names.

    Args:
        storage: the folder.
        names: the log files in it.

    Raises:
        UserError: none of them holds an epoch.
    """
    rows: list[dict[str, Any]] = []
    found: dict[int, _Found] = {}
    problems: list[Problem] = []
    for name in sorted(names):
        content = try_read(storage, name)
        if isinstance(content, str):
            problems.append(Problem(name, content))
            continue
        text = content.decode("utf-8", errors="replace")
        epochs = _log_epochs(text)
        if not epochs:
            problems.append(Problem(name, "no whole epoch of imagenet/main.py in it"))
            continue
        stem = name.rpartition("/")[2].rpartition(".")[0]
        seed, lr = _SEED.search(stem), _LR.search(text)
        arch = {"cell": _log_arch(stem, text)}
        place = len(found)
        found[place] = _Found(name, name, {}, arch, "confirm", int(seed[1]) if seed else None, float(lr[1]) if lr else None)
        rows += [{"file": place, **epoch} for epoch in epochs.values()]
    if not found:
        raise UserError(f"{storage.root}: no results here: no log of imagenet/main.py with a whole epoch in it")
    schema = {"file": pl.Int64, "epoch": pl.Int64, "epoch_seconds": pl.Float64, "diverged": pl.Boolean}
    curves = pl.DataFrame(rows, {**schema, **dict.fromkeys(LOG_METRICS, pl.Float64)})
    found = _with_factors(found)
    cells = {cell_key(one.levels): one.levels for one in found.values()}
    heads = {levels.get("head") for levels in cells.values()}
    baseline: dict[str, Level] = {"head": "origin"} if "origin" in heads else {}
    return _run(storage.root, _foreign_design(storage.root, cells, baseline, LOG_METRICS, "test_acc1"), found, curves, problems)


def _log_arch(stem: str, text: str) -> str:
    named, model = _NAMED.match(stem), _MODEL.search(text)
    return named[1] if named else (model[1] or model[2]) if model else stem


def _with_factors(found: Mapping[int, _Found]) -> dict[int, _Found]:
    """Depth and head for cells of the report's names; as they are where any is another network."""
    try:
        known = {place: parse_cell_key(str(one.levels["cell"])) for place, one in found.items()}
    except UserError:
        return dict(found)
    return {place: replace(one, levels=dict(zip(("depth", "head"), known[place], strict=True))) for place, one in found.items()}


def _log_epochs(text: str) -> dict[int, dict[str, Any]]:
    epochs: dict[int, dict[str, Any]] = {}
    current: dict[str, Any] | None = None
    for line in text.splitlines():
        if train := _TRAIN.match(line):
            number, batches = int(train[1]) + 1, int(train[2])
            if current is None or current["epoch"] != number:
                current = {"epoch": number, "epoch_seconds": None, "diverged": False}
            averages = dict(_METER.findall(train[3]))
            current |= _averages(averages, "train")
            if "Time" in averages:
                current["epoch_seconds"] = float(averages["Time"]) * batches
        elif current is not None and (test := _TEST.match(line)):
            current |= _averages(dict(_METER.findall(test[1])), "test")
        elif current is not None and (total := _TOTAL.match(line)):
            current |= {"test_acc1": float(total[1]), "test_acc5": float(total[2])}
            values = [current.get(name) for name in LOG_METRICS]
            current["diverged"] = any(value is not None and not math.isfinite(value) for value in values)
            epochs[current["epoch"]] = {
                name: None if name in LOG_METRICS and value is not None and not math.isfinite(value) else value
                for name, value in {**dict.fromkeys(LOG_METRICS), **current}.items()
            }
            current = None
    return epochs


def _averages(meters: Mapping[str, str], split: str) -> dict[str, float]:
    return {f"{split}_{name}": float(meters[meter]) for meter, name in _METERS.items() if meter in meters}
