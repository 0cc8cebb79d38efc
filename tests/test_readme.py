"""Every command of the README and of docs/ runs as it stands there, shortened by further settings where it would take long."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tune_ablation import experiment

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["data.classes=3", "data.train_per_class=8", "data.val_per_class=4", "data.test_per_class=4", "model.width=4"]
SHORT += ["recipe.epochs=1", "recipe.batch_size=8", "search.trials_per_cell=1", "confirm.seeds=[0]", "grid.depth=[18]"]
ELSEWHERE = {
    "make quickstart": "test_make_quickstart",
    "make test": "what runs this",
    "python -m tune_ablation": "test_make_quickstart",
    "python -m tune_ablation data download": "tests/data/test_download.py, against a server on loopback",
    "ray up --yes cluster.yaml": "tests/test_cluster.py",
    "python -m analysis ~/ray_results/my_tune_run": "test_results_of_other_programs_are_read",
    "python -m analysis logs/": "test_results_of_other_programs_are_read",
}


def commands(text: str) -> list[str]:
    """The command lines of all bash blocks, comments off."""
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line with this interpreter's programs first on the path."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}  # these tests run under make
    environment = inherited | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TUNE_ABLATION_CACHE": str(folder / "cache")}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=280)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder; commands that build on one another find each other's results."""
    return tmp_path_factory.mktemp("user")


RUNS = [line for line in commands(README) if line.startswith(("python -m tune_ablation run", "python -m analysis results"))]


# The analysis reads what the run before it left; the other runs differ from that one in their file alone.
@pytest.mark.parametrize("line", [line if "small" in line else pytest.param(line, marks=pytest.mark.slow) for line in RUNS])
def test_run_and_analysis_commands_work(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    words = shlex.split(line)
    if "analysis" in words and experiment.read(Path(words[3]).name).data.dataset == "tiny-imagenet":
        request.getfixturevalue("tiny_imagenet_part")  # without it there was no run to analyse
    if "run" in words:
        asked = experiment.read(words[words.index("run") + 1])
        line += "".join(f" --set {shlex.quote(setting)}" for setting in SHORT)
        if asked.data.dataset == "tiny-imagenet":
            line += f" --data {request.getfixturevalue('tiny_imagenet_part')}"
    done = run(line, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


LOG = """Epoch: [0][10/10]\tTime  0.100 ( 0.200)\tLoss 4.10e+00 (4.70e+00)\tAcc@1   9.00 (  6.00)\tAcc@5  20.00 ( 15.00)
Test: [4/4]\tTime  0.2 ( 0.2)\tLoss 4.2000e+00 (4.1000e+00)\tAcc@1  12.00 ( 11.00)\tAcc@5  30.00 ( 29.00)
 *   Acc@1 11.060 Acc@5 29.130
"""


@pytest.mark.parametrize(
    "line", [line for line in commands(README) if line.startswith(("python -m analysis ~", "python -m analysis logs"))]
)
def test_results_of_other_programs_are_read(line: str, tmp_path: Path) -> None:
    for width, depth, seed in itertools.product((1, 2), (1, 2), (0, 1)):
        trial = tmp_path / "ray_results" / "my_tune_run" / f"trial_{width}_{depth}_{seed}"
        trial.mkdir(parents=True)
        (trial / "params.json").write_text(json.dumps({"width": width, "depth": depth, "seed": seed}))
        (trial / "result.json").write_text(json.dumps({"training_iteration": 1, "accuracy": 0.1 * width * depth + 0.01 * seed}) + "\n")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "resnet18.log").write_text(LOG)
    done = run(f"HOME={tmp_path}; {line}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my_tune_run" in done.stdout or "11.06" in done.stdout


@pytest.mark.parametrize("line", re.findall(r"^\| `(tune-ablation[^`]*)`", README, flags=re.MULTILINE))
def test_every_command_of_the_table_exists(line: str, folder: Path) -> None:
    words = [word for word in shlex.split(line) if word.islower() and not word.startswith("-")]
    commands_only = words[: 3 if "data" in words else 2]
    done = run(f"{' '.join(commands_only)} --help", folder)
    assert done.returncode == 0, done.stderr
    for option in re.findall(r"(--?[a-z-]+)", " ".join(shlex.split(line)[1:])):
        assert option in done.stdout or option.startswith("-a"), option


def test_no_command_is_left_out() -> None:
    covered = ("python -m tune_ablation run", "python -m analysis", "ray exec", *ELSEWHERE)
    assert [line for line in commands(README) if not line.startswith(covered)] == []


def test_the_readmes_experiment_file_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", README, flags=re.DOTALL)
    path = tmp_path / "my_ablation.toml"
    path.write_text(block)
    assert len(experiment.read(str(path)).cells()) == 4


def test_every_link_and_picture_is_there() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_make_quickstart(tmp_path: Path) -> None:
    copy = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    # The set-up itself is what made the environment that this runs in.
    environment = tmp_path / "venv"
    environment.symlink_to(sys.prefix)
    (Path(sys.prefix) / "ready").touch()
    done = run(f"cd {copy} && make quickstart VENV={environment}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resnet50_dropout" in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80 and "make" not in line] == []
