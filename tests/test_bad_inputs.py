"""Bad input of every kind gets one line that says what was given and what is allowed, exit code 2, and nothing that existed is lost."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import analysis.cli
from tune_ablation import cli
from tune_ablation.lock import LOCK_FILE
from tune_ablation.records import SCHEMA

GRID = "name = 'x'\n[grid]\ndepth = [18]\n"
RUN = ("run", "asked.toml")
REAL = "name = 'x'\n[grid]\ndepth = [18]\n[data]\ndataset = 'tiny-imagenet'\n"


def text(content: str | bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def archive(**members: str) -> Callable[[Path], None]:
    """A zip with these members; ``__`` stands for ``/``."""

    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as opened:
            for name, content in members.items():
                opened.writestr(f"tiny-imagenet-200/{name.replace('__', '/')}.txt", content)

    return write


def cut(path: Path) -> None:
    archive(wnids="n01\n")(path)
    path.write_bytes(path.read_bytes()[:-30])


def climbing(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("tiny-imagenet-200/wnids.txt", "../../n01\n")
        opened.writestr("tiny-imagenet-200/../../outside.txt", "x")


@dataclass(frozen=True)
class Bad:
    """A command that must be refused: its arguments, what stands in the folder it runs in, and words of the message."""

    arguments: tuple[str, ...]
    says: tuple[str, ...]
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Callable[[list[str]], int] = cli.main


def asked(content: str | bytes, *says: str) -> Bad:
    """An experiment file that is refused; the message names it."""
    return Bad(RUN, ("asked.toml", *says), {"asked.toml": text(content)})


def flag(*arguments: str, says: str | tuple[str, ...]) -> Bad:
    return Bad(("run", "quickstart", *arguments), (says,) if isinstance(says, str) else says)


def real(name: str, write: Callable[[Path], None], *says: str) -> Bad:
    """Tiny-ImageNet that is not as it should be."""
    return Bad((*RUN, "--data", name), (name, *says), {"asked.toml": text(REAL), name: write})


def header(content: object) -> Bad:
    written = content if isinstance(content, str) else json.dumps(content)
    return Bad(("run", "quickstart"), ("run.json",), {"results/quickstart/run.json": text(written)})


def analysed(*arguments: str, says: str) -> Bad:
    return Bad(arguments, (says,), program=analysis.cli.main)


BAD: dict[str, Bad] = {
    # experiment files
    "broken TOML": asked("name = 'x'\n[grid\n", "not valid TOML"),
    "not text": asked(b"\xff\xfe\x00", "not a text file in UTF-8"),
    "empty": asked("", "name: missing"),
    "no grid": asked("name = 'x'\n", "grid: missing"),
    "empty grid": asked("name = 'x'\n[grid]\n", "grid: given no factor"),
    "a factor without levels": asked("name = 'x'\n[grid]\ndepth = []\n", "grid.depth: given no level"),
    "unknown key": asked("foo = 1\n" + GRID, "unknown key 'foo'"),
    "unknown head": asked("name = 'x'\n[grid]\nhead = ['avgpool']\n", "allowed: origin, maxpool, dropout"),
    "unknown depth": asked("name = 'x'\n[grid]\ndepth = [20]\n", "allowed: 18, 34, 50, 101, 152"),
    "a level twice": asked("name = 'x'\n[grid]\ndepth = [18, 18]\n", "grid.depth"),
    "a name that leaves the folder": asked(GRID.replace("'x'", "'../x'"), "name: given"),
    "low above high": asked(GRID + "[search]\nlr = { low = 1.0, high = 0.1 }\n", "low = 1 must be below high = 0.1"),
    "a learning rate of zero": asked(GRID + "[search]\nlr = { low = 0.0, high = 0.1 }\n", "search.lr"),
    "a test objective": asked(GRID + "[search]\nobjective = 'test_acc1'\n", "never used to choose"),
    "unknown sampler": asked(GRID + "[search]\nsampler = 'bayes'\n", "search.sampler", "tpe"),
    "a seed twice": asked(GRID + "[confirm]\nseeds = [1, 1]\n", "confirm.seeds"),
    "no epochs": asked(GRID + "[recipe]\nepochs = 0\n", "recipe.epochs"),
    "unknown schedule": asked(GRID + "[recipe]\nschedule = 'linear'\n", "recipe.schedule", "cosine"),
    "unknown data set": asked(GRID + "[data]\ndataset = 'mnist'\n", "data.dataset", "tiny-imagenet"),
    "a baseline out of the grid": asked(GRID + "[baseline]\nhead = 'maxpool'\n", "baseline"),
    "a claim about no level": asked(
        GRID + "[[claims]]\ntext = 't'\nmetric = 'test_acc1'\nbetter = { depth = 20 }\nthan = { depth = 18 }\n", "claims[0]"
    ),
    "a claim of no kind": asked(GRID + "[[claims]]\ntext = 't'\nkind = 'wish'\n", "claims[0]"),
    # flags
    "unknown experiment": Bad(("run", "nope"), ("depth_x_head, depth_x_head_small, quickstart",)),
    "missing file": Bad(("run", "nope.toml"), ("no such experiment file",)),
    "a folder for a file": Bad(("run", "folder.toml"), ("folder.toml",), {"folder.toml": Path.mkdir}),
    "unknown command": Bad(("rnu",), ("choose from",)),
    "no experiment": Bad(("run",), ("EXPERIMENT",)),
    "unknown flag": flag("--foo", says="--foo"),
    "parallel 0": flag("--parallel", "0", says="whole numbers from 1"),
    "parallel x": flag("--parallel", "x", says="--parallel"),
    "negative retries": flag("--max-retries", "-1", says="--max-retries"),
    "negative GPUs": flag("--gpus-per-trial", "-1", says="--gpus-per-trial"),
    "one and a half GPUs": flag("--gpus-per-trial", "1.5", says="a fraction of one GPU, or a whole number"),
    "no value to set": flag("--set", "recipe.epochs", says="key.path=value"),
    "wrong value to set": flag("--set", "recipe.epochs=many", says="recipe.epochs"),
    "batch too large": flag("--set", "recipe.batch_size=5000", says="recipe.batch_size: given 5000, allowed: up to"),
    "storage not writable": flag("--storage-path", "/dev/null/results", says="/dev/null/results"),
    "storage of no known kind": flag("--storage-path", "ftp://x/y", says="ftp"),
    "no such cluster": flag("--address", "127.0.0.1:1", says="no Ray cluster there"),
    "unknown network": Bad(("train", "-a", "resnet19"), ("resnet19",)),
    "negative learning rate": Bad(("train", "-a", "resnet18", "--lr", "-1"), ("recipe.lr",)),
    # data
    "data missing": Bad(("run", "depth_x_head"), ("data download",)),
    "data nowhere": Bad(("run", "depth_x_head", "--data", "nowhere.zip"), ("nowhere.zip",)),
    "data for drawn images": flag("--data", "x.zip", says="synthetic"),
    "text for an archive": real("tiny.zip", text("hello")),
    "a truncated archive": real("tiny.zip", cut),
    "an archive of something else": real("tiny.zip", archive(readme="hello")),
    "an archive without images": real("tiny.zip", archive(wnids="n01\n", words="n01\tcat\n", val__val_annotations="")),
    "an archive that climbs out": real("tiny.zip", climbing),
    "an empty folder": real("tiny", Path.mkdir),
    # environment and what stands there already
    "a cache that is a file": Bad(("run", "quickstart"), ("taken",), {"taken": text("mine")}, {"TUNE_ABLATION_CACHE": "taken"}),
    "results that are a file": Bad(("run", "quickstart"), ("results",), {"results": text("mine")}),
    "a damaged run header": header("{"),
    "an empty run header": header(""),
    "a newer run header": header({"schema": SCHEMA + 1}),
    "a run header of something else": header({"schema": SCHEMA}),
    # the analysis
    "no such results": analysed("nowhere", says="nowhere"),
    "no results asked for": analysed(says="RESULTS"),
    "nothing in it": analysed(".", says="no results"),
    "results of no known kind": analysed("ftp://x/y", says="ftp"),
}


def standing(folder: Path) -> dict[str, str]:
    """Every file below a folder, and its content's digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "cache" not in path.relative_to(folder).parts and path.name != LOCK_FILE
    }


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line_and_nothing_is_lost(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = BAD[case]
    monkeypatch.chdir(tmp_path)
    for name, value in {"TUNE_ABLATION_CACHE": str(tmp_path / "cache"), **bad.environment}.items():
        monkeypatch.setenv(name, value)
    for name, write in bad.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name)
    before = standing(tmp_path)
    code = bad.program(list(bad.arguments))
    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("error: "), printed.err
    assert printed.err.count("\n") == 1, printed.err
    for words in bad.says:
        assert words in printed.err
    assert "Traceback" not in printed.err + printed.out
    after = standing(tmp_path)
    assert after == before, "nothing that existed is lost, and nothing is begun"


def test_there_are_many_kinds() -> None:
    assert len(BAD) >= 40
