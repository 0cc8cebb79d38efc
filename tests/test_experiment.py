"""The experiment file: what is accepted, what is refused and how, and what a grid unfolds into."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune_ablation import plan
from tune_ablation.data import DATASETS
from tune_ablation.data.augment import AUGMENTATIONS
from tune_ablation.errors import UserError
from tune_ablation.experiment import FACTORS, OBJECTIVES, Experiment, differences, find, parse, read, shipped_names
from tune_ablation.models import DEPTHS, HEADS, STEMS
from tune_ablation.records import EVALUATED
from tune_ablation.samplers import SAMPLERS
from tune_ablation.training.schedules import SCHEDULES

SMALL = """
name = "small"

[grid]
depth = [18, 50]
head = ["origin", "maxpool"]

[[claims]]
text = "Averaging beats the maximum"
metric = "test_acc1"
better = { depth = 18, head = "origin" }
than = { depth = 18, head = "maxpool" }
"""
CLAIM = 'claims = [{ text = "t", metric = "test_acc1", better = { depth = 18, head = "origin" }, than = { depth = 50, head = "origin" } }]'


def write(folder: Path, text: str) -> Path:
    path = folder / "asked.toml"
    path.write_text(text, encoding="utf-8")
    return path


def content(**changes: Any) -> dict[str, Any]:
    return tomllib.loads(SMALL) | changes


def refusal(path: Path | str, *given: str) -> str:
    with pytest.raises(UserError) as caught:
        read(str(path), given)
    message = str(caught.value)
    assert "\n" not in message, "a refusal is one line"
    return message


# (--set given, words that the one line must hold: the key, what was given, what is allowed)
WRONG_VALUES: list[tuple[str, list[str]]] = [
    ("recipe.epoch=3", ["'recipe.epoch'", "allowed", "epochs"]),
    ("recipes.epochs=3", ["'recipes'", "allowed", "recipe"]),
    ("search.lr.lo=0.1", ["'search.lr.lo'", "allowed", "low, high, log"]),
    ("data.path=x", ["'data.path'", "allowed", "dataset"]),
    ("name=''", ["name", '""', "letters"]),
    ("name=a/b", ["--set name=a/b", "TOML value"]),
    ('name="a/b"', ["name", '"a/b"', "letters"]),
    ('name=".."', ["name", '".."', "starting with"]),
    ('name="a\\nb"', ["name", "letters"]),
    ("name=3", ["name", "3", "string"]),
    ("question=3", ["question", "3", "string"]),
    ("seed=-1", ["seed", "-1", "0"]),
    ("data=3", ["data", "3", "table"]),
    ("data.dataset=imagenet", ["data.dataset", '"imagenet"', *DATASETS]),
    ("data.classes=1", ["data.classes", "1", "2"]),
    ("data.val_per_class=0", ["data.val_per_class", "0", "1"]),
    ("data.image_size=8", ["data.image_size", "8", "32"]),
    ("model.depth=20", ["model.depth", "20", *map(str, DEPTHS)]),
    ("model.head=alexnet", ["model.head", '"alexnet"', *HEADS]),
    ("model.stem=large", ["model.stem", '"large"', *STEMS]),
    ("model.width=0", ["model.width", "0", "1"]),
    ("grid.depth=[20]", ["grid.depth", "20", *map(str, DEPTHS)]),
    ("grid.depth=['18']", ["grid.depth", '"18"', "integer"]),
    ("grid.depth=[true]", ["grid.depth", "true", "integer"]),
    ("grid.depth=[18.0]", ["grid.depth", "18.0", "integer"]),
    ("grid.depth=[[18]]", ["grid.depth", "[18]", "integer"]),
    ("grid.depth=[18, 18]", ["grid.depth", "[18, 18]", "once"]),
    ("grid.depth=18", ["grid.depth", "18", "list"]),
    ("grid.depth=[]", ["grid.depth", "no level"]),
    ("grid.head=['origin', 'alexnet']", ["grid.head", '"alexnet"', *HEADS]),
    ("grid.augment=['flip']", ["grid.augment", '"flip"', *AUGMENTATIONS]),
    ("grid.width=[0]", ["grid.width", "0", "1"]),
    ("grid.lr=[0.1]", ["grid", "'lr'", "allowed", *FACTORS]),
    ("grid={}", ["grid", "no factor", *FACTORS]),
    ("grid=[]", ["grid", "[]", "table"]),
    ("recipe.epochs=0", ["recipe.epochs", "0", "1"]),
    ("recipe.epochs='3'", ["recipe.epochs", '"3"', "integer"]),
    ("recipe.epochs=true", ["recipe.epochs", "true", "integer"]),
    ("recipe.batch_size=1", ["recipe.batch_size", "1", "2"]),
    ("recipe.schedule=linear", ["recipe.schedule", '"linear"', *SCHEDULES]),
    ("recipe.warmup_epochs=30", ["recipe", "warmup_epochs = 30", "epochs = 30"]),
    ("recipe.step_gamma=1.0", ["recipe.step_gamma", "1.0", "1"]),
    ("recipe.augment=cutmix", ["recipe.augment", '"cutmix"', *AUGMENTATIONS]),
    ("recipe.momentum=1.0", ["recipe.momentum", "1.0", "1"]),
    ("recipe.weight_decay=-1e-4", ["recipe.weight_decay", "-0.0001", "0"]),
    ("recipe.weight_decay=nan", ["recipe.weight_decay", "NaN", "finite"]),
    ("recipe.precision=fp16", ["recipe.precision", '"fp16"', "auto, fp32, bf16"]),
    ("recipe.lr=0.1", ["recipe.lr", "0.1", "trials_per_cell = 8"]),
    ("search.trials_per_cell=0", ["recipe.lr", "left out", "trials_per_cell = 0"]),
    ("search.trials_per_cell=-1", ["search.trials_per_cell", "-1", "0"]),
    ("search.parallel_per_cell=0", ["search.parallel_per_cell", "0", "1"]),
    ("search.sampler=grid", ["search.sampler", '"grid"', *SAMPLERS]),
    ("search.objective=test_acc1", ["search.objective", '"test_acc1"', "never used to choose", *OBJECTIVES]),
    ("search.objective=train_eval_acc1", ["search.objective", '"train_eval_acc1"', *OBJECTIVES]),
    ("search.objective=acc1", ["search.objective", '"acc1"', *OBJECTIVES]),
    ("search.lr={low = 1.0, high = 0.1}", ["search.lr", "low = 1", "high = 0.1", "below"]),
    ("search.lr={low = 0.1, high = 0.1}", ["search.lr", "low = 0.1", "below"]),
    ("search.lr.low=0.0", ["search.lr.low", "0.0", "greater than 0"]),
    ("search.lr.high=inf", ["search.lr.high", "Infinity", "finite"]),
    ("search.lr.log='yes'", ["search.lr.log", '"yes"', "boolean"]),
    ("search.lr=0.1", ["search.lr", "0.1", "table"]),
    ("confirm.seeds=[]", ["confirm.seeds", "[]", "at least 1"]),
    ("confirm.seeds=[1, 1]", ["confirm.seeds", "[1, 1]", "once"]),
    ("confirm.seeds=[-1]", ["confirm.seeds[0]", "-1", "0"]),
    ("confirm.seeds=[2147483648]", ["confirm.seeds[0]", "2147483648", "2147483648"]),
    ("confirm.seeds=3", ["confirm.seeds", "3", "list"]),
    ("baseline.width=64", ["baseline", "'width'", "allowed", "depth, head"]),
    ("baseline.head=alexnet", ["baseline.head", '"alexnet"', *HEADS]),
    ("baseline.depth=34", ["baseline", "34", "no cell"]),
    ("baseline.depth=[18]", ["baseline.depth", "[18]", "integer"]),
    ("claims=3", ["claims", "3", "list"]),
    ("claims=[3]", ["claims[0]", "3", "table"]),
]


@pytest.mark.parametrize(("setting", "words"), WRONG_VALUES, ids=[setting for setting, _ in WRONG_VALUES])
def test_a_wrong_value_is_refused_by_file_key_given_and_allowed(tmp_path: Path, setting: str, words: list[str]) -> None:
    path = write(tmp_path, SMALL)
    message = refusal(path, setting)
    assert setting.startswith("name=a/b") or str(path) in message
    missing = [word for word in words if word not in message]
    assert not missing, message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["name", "missing"]),
        ('name = "x"', ["grid", "missing"]),
        ('name = "x"\n[grid]\n', ["grid", "no factor"]),
        ("name = ", ["not valid TOML", "end of document"]),
        ('name = "x"\nname = "y"\n', ["not valid TOML", "line 2"]),
        ("[grid\n", ["not valid TOML", "line 1"]),
        ('name = "x"\n[grid]\ndepth = [18, \n', ["not valid TOML"]),
        (f"seed = {'9' * 5000}", ["not valid TOML", "digits"]),
        (f"seed = {'[' * 5000}{']' * 5000}", ["not valid TOML", "recursion"]),
        ("name = 2020-01-01\n[grid]\ndepth = [18]\n", ["name", "2020-01-01", "string"]),
        ('name = "x"\n[grid]\n"a\\nb" = [18]\n', ["grid", r"'a\nb'", "allowed"]),
        ('name = "x"\n"a\\nb" = 1\n[grid]\ndepth = [18]\n', ["a\\nb", "allowed"]),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, text: str, words: list[str]) -> None:
    path = write(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert all(word in message for word in words), message


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "caf\xe9"\n')
    assert "UTF-8" in refusal(path)
    assert "byte 11" in refusal(path)


@pytest.mark.parametrize(
    "name", ["no_such", "", "..", "/", "../quickstart", "a\0b", "x" * 300, "tests", "no_such.toml", "y" * 300 + ".toml"]
)
def test_an_unknown_experiment_is_refused(name: str) -> None:
    message = refusal(name)
    assert "no such experiment file" in message or all(known in message for known in shipped_names())


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    assert "no such experiment file" in refusal(tmp_path / "folder.toml")


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("recipe.epochs", "key.path=value"),
        ("=3", "key.path=value"),
        ("recipe..epochs=3", "key.path=value"),
        (".epochs=3", "key.path=value"),
        ("recipe.epochs=", "neither a TOML value nor a bare word"),
        ("recipe.epochs=[1", "neither a TOML value nor a bare word"),
        ("recipe.epochs=3 4", "neither a TOML value nor a bare word"),
        ("recipe.epochs=3\nname = 'other'", "more than one value"),
        (f"seed={'9' * 5000}", "neither a TOML value nor a bare word"),
        ("name.first=3", "name is not a table"),
        ("claims.first=3", "claims is not a table"),
    ],
)
def test_a_malformed_setting_is_refused(tmp_path: Path, setting: str, word: str) -> None:
    with pytest.raises(UserError, match=word):
        read(str(write(tmp_path, SMALL)), [setting])


def test_settings_override_values_tables_and_each_other_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    asked = read(
        str(path),
        [
            "recipe.epochs=3",
            "recipe.epochs=4",
            "data.dataset=tiny-imagenet",
            "search.lr.high=0.5",
            "search.lr={low = 0.01, high = 0.2}",
            "grid.depth=[34]",
            'question="How?"',
            " confirm.seeds = [7, 8]",
            "recipe.momentum=0",
            "claims=[]",
        ],
    )
    assert asked.recipe.epochs == 4
    assert asked.data.dataset == "tiny-imagenet"
    assert (asked.search.lr.low, asked.search.lr.high) == (0.01, 0.2)
    assert asked.grid["depth"] == (34,)
    assert asked.question == "How?"
    assert asked.confirm.seeds == (7, 8)
    assert asked.recipe.momentum == 0
    assert path.read_text(encoding="utf-8") == SMALL


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_experiment_is_valid_and_has_its_files_name(name: str) -> None:
    asked = read(name)
    assert asked.name == name
    assert find(name).stem == name
    assert len(asked.cells()) == 6
    assert asked.claims


def test_the_shipped_experiments_are_all_there() -> None:
    assert {"quickstart", "depth_x_head", "depth_x_head_small"} <= set(shipped_names())


def test_a_shipped_file_is_also_read_by_its_path() -> None:
    assert read(str(find("quickstart"))) == read("quickstart")


def test_only_name_and_grid_are_needed() -> None:
    asked = parse({"name": "x", "grid": {"depth": [18]}}, "x")
    assert [cell.key for cell in asked.cells()] == ["resnet18_origin"]
    assert asked.search.objective == "val_acc1"


def test_cells_are_the_product_in_the_files_order() -> None:
    asked = parse(content(), "x")
    assert [cell.key for cell in asked.cells()] == ["resnet18_origin", "resnet18_maxpool", "resnet50_origin", "resnet50_maxpool"]
    assert [dict(cell.levels) for cell in asked.cells()][1] == {"depth": 18, "head": "maxpool"}


def test_further_factors_stand_in_the_key_and_reach_model_and_recipe() -> None:
    grid = {"augment": ["none", "flip-crop"], "width": [8, 16], "head": ["maxpool"], "weight_decay": [0.0, 1e-4]}
    asked = parse({"name": "x", "model": {"depth": 34}, "grid": grid}, "x")
    cells = asked.cells()
    assert len(cells) == 8
    assert cells[0].key == "resnet34_maxpool_augment=none_width=8_weight_decay=0.0"
    assert len({cell.key for cell in cells}) == 8
    for cell in cells:
        assert (cell.model.depth, cell.model.head) == (34, "maxpool")
        assert cell.model.width == cell.levels["width"]
        assert cell.recipe.augment == cell.levels["augment"]
        assert cell.recipe.weight_decay == cell.levels["weight_decay"]
        assert list(cell.levels)[:2] == ["depth", "head"]
    assert sum(cell.matches({"width": 8}) for cell in cells) == 4


@pytest.mark.parametrize("factor", FACTORS)
def test_every_factor_can_be_varied(factor: str) -> None:
    levels: dict[str, list[Any]] = {
        "depth": list(DEPTHS),
        "head": list(HEADS),
        "stem": list(STEMS),
        "augment": list(AUGMENTATIONS),
        "schedule": list(SCHEDULES),
        "width": [8, 16],
        "batch_size": [32, 64],
        "momentum": [0.0, 0.9],
        "weight_decay": [0.0, 1e-4],
    }
    asked = parse({"name": "x", "grid": {factor: levels[factor]}}, "x")
    assert [cell.levels[factor] for cell in asked.cells()] == levels[factor]


def test_the_baseline_is_the_one_stated_or_the_first_level_of_the_last_factor_that_varies() -> None:
    assert parse(content(), "x").baseline_levels() == {"head": "origin"}
    assert parse(content(grid={"head": ["origin", "maxpool"], "depth": [50, 18], "width": [8]}), "x").baseline_levels() == {"depth": 50}
    assert parse(content(baseline={"head": "maxpool"}), "x").baseline_levels() == {"head": "maxpool"}
    assert parse({"name": "x", "grid": {"depth": [18]}}, "x").baseline_levels() == {"depth": 18}


@pytest.mark.parametrize("name", shipped_names())
def test_the_resolved_experiment_survives_json(name: str) -> None:
    asked = read(name)
    again = parse(json.loads(json.dumps(asked.resolved())), "header")
    assert again.resolved() == asked.resolved()
    assert again.digest() == asked.digest()
    assert again.cells() == asked.cells()
    assert [type(claim) for claim in again.claims] == [type(claim) for claim in asked.claims]
    assert differences(asked.resolved(), again.resolved()) == []


def test_the_digest_knows_no_key_order_and_no_default_written_out() -> None:
    given = content(recipe={"epochs": 3, "batch_size": 8}, confirm={"seeds": [1]})
    turned = {key: dict(reversed(value.items())) if key == "recipe" else value for key, value in reversed(given.items())}
    assert parse(given, "x").digest() == parse(turned, "x").digest()
    assert parse(given | {"model": {"width": 64}}, "x").digest() == parse(given, "x").digest()
    assert parse(given | {"model": {"width": 32}}, "x").digest() != parse(given, "x").digest()


def changed(**changes: Any) -> list[str]:
    return differences(parse(content(), "x").resolved(), parse(content(**changes), "x").resolved())


def test_more_seeds_and_more_levels_only_grow_an_experiment() -> None:
    assert changed(confirm={"seeds": [0, 1, 2, 3, 4, 5, 6, 7]}) == []
    assert changed(confirm={"seeds": [9, 4, 3, 2, 1, 0]}) == []
    assert changed(grid={"depth": [18, 50, 152], "head": ["origin", "maxpool", "dropout"]}) == []


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"confirm": {"seeds": [0, 1, 2, 3]}}, "confirm.seeds: was [0, 1, 2, 3, 4], now [0, 1, 2, 3]"),
        ({"grid": {"depth": [18, 34], "head": ["origin", "maxpool"]}}, "grid.depth: was [18, 50], now [18, 34]"),
        ({"recipe": {"epochs": 31}}, "recipe.epochs: was 30, now 31"),
        ({"seed": 1}, "seed: was 0, now 1"),
        ({"data": {"classes": 7}}, "data.classes: was left out, now 7"),
        ({"search": {"lr": {"low": 1e-4, "high": 1.0}}}, "search.lr.low: was 0.001, now 0.0001"),
        ({"question": "Why?"}, 'question: was "", now "Why?"'),
        ({"baseline": {"head": "maxpool"}}, 'baseline.head: was "origin", now "maxpool"'),
        (tomllib.loads(CLAIM), "claims[0].text: was"),
        ({"claims": []}, "claims[0].text: was"),
        (
            {"grid": {"depth": [18, 50], "head": ["origin", "maxpool"], "width": [64]}, "claims": content()["claims"]},
            "grid.width: was left out, now [64]",
        ),
    ],
)
def test_any_other_difference_is_shown(changes: dict[str, Any], shown: str) -> None:
    assert any(line.startswith(shown) for line in changed(**changes)), changed(**changes)


def test_no_test_metric_can_be_searched_for() -> None:
    assert all(objective.startswith("val_") for objective in OBJECTIVES)
    for split in set(EVALUATED) - {"val"}:
        with pytest.raises(UserError):
            parse(content(search={"objective": f"{split}_loss"}), "x")


KEYS = st.sampled_from(
    [
        *FACTORS,
        *Experiment.model_fields,
        "lr",
        "low",
        "high",
        "epochs",
        "seeds",
        "kind",
        "text",
        "metric",
        "better",
        "than",
        "cells",
        "x",
        "",
        "a\nb",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.dates()
    | st.sampled_from([*HEADS, *SAMPLERS, *OBJECTIVES, *SCHEDULES, "order", "agree", "cost", "turns", "near", "test_acc1", "final"])
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=8)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here]
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in pairs:
        found += places(item, (*here, key))
    return found


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copied = value.copy()
    copied[place[0]] = replaced(value[place[0]], place[1:], new)
    return copied


DECLARED = parse(content(), "here").resolved() | {"claims": []}


def is_a_place(table: Any, key: str) -> bool:
    """Whether a dotted key is in a table."""
    for index, quoted, plain in re.findall(r"\[(\d+)\]|\"((?:[^\"\\]|\\.)*)\"|([\w-]+)", key):
        if index:
            if index == "0" and isinstance(table, dict):
                continue  # one cell may stand where a list of them may
            if not isinstance(table, list) or int(index) >= len(table):
                return False
            table = table[int(index)]
        else:
            name = json.loads(f'"{quoted}"') if quoted or not plain else plain
            if not isinstance(table, dict) or name not in table:
                return False
            table = table[name]
    return True


def names_its_key(message: str, asked: Any) -> bool:
    """Whether a refusal begins with a key that the table has, or lacks and should have."""
    unknown = re.match(r"unknown key '(.*)', allowed: ", message)
    key = unknown[1] if unknown else message.partition(": ")[0]
    if message.startswith(f"{key}: missing"):
        return is_a_place(asked, key.rpartition(".")[0])
    return is_a_place(asked, key) or (not unknown and is_a_place(DECLARED, key))


def accepted_and_planned_or_refused(asked: Any) -> None:
    try:
        experiment = parse(asked, "fuzzed.toml")
    except UserError as error:
        refused: str | None = str(error)
    else:
        refused = None
    if refused is not None:
        assert "\n" not in refused
        assert refused.startswith("fuzzed.toml: ")
        assert names_its_key(refused.removeprefix("fuzzed.toml: "), asked), refused
        return
    assert len(set(plan.all_keys(experiment))) == len(plan.all_keys(experiment))
    if experiment.search.trials_per_cell < 50:  # more of them would all be right as well, and take their time
        assert plan.ready(experiment, {})
    assert parse(json.loads(json.dumps(experiment.resolved())), "again").digest() == experiment.digest()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_table_is_either_planned_or_refused(asked: dict[str, Any]) -> None:
    accepted_and_planned_or_refused({"name": "x", "grid": {"depth": [18]}} | asked)


MUTATED = [tomllib.loads(find(name).read_text(encoding="utf-8")) for name in ("quickstart", "depth_x_head")]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_any_mutation_of_a_valid_file_is_either_planned_or_refused(data: st.DataObject) -> None:
    asked: Any = data.draw(st.sampled_from(MUTATED))
    asked = asked | {"search": {"trials_per_cell": 2, "sampler": "random", "lr": {"low": 0.1, "high": 1.0}}}
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(places(asked)[1:]))
        asked = replaced(asked, place, data.draw(VALUES))
        if data.draw(st.booleans()):
            asked = asked | {data.draw(KEYS): data.draw(VALUES)}
    accepted_and_planned_or_refused(asked)
