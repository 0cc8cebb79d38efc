"""How long the analysis takes on a Ray Tune folder, from cold start to printed summary, against ray.tune.ExperimentAnalysis loading it.

``python benchmarks/analysis_speed.py [--trials 1000 3000 10000] [--folder FOLDER]`` writes folders of trials of 30 epochs as Ray
writes them (Ray's own Trial takes the results in and gives the experiment's state), runs both programs on each in turn, every time in a
fresh process, and prints medians of wall-clock and CPU seconds, peak memory, and how many times faster the analysis was.
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

EPOCHS = 30
CELLS = 6
HEADS = ("origin", "maxpool", "dropout")
METRICS = ("train_loss", "val_loss", "val_acc1", "test_loss", "test_acc1", "test_acc5")

OURS = ("-m", "analysis")
GIVEN = ("--metric", "test_acc1", "--metric", "test_loss", "--cells", "depth,head", "--seed-column", "seed")
RAYS_CODE = (
    "import sys, time; from ray.tune import ExperimentAnalysis; wall, cpu = time.perf_counter(), time.process_time(); "
    "count = len(ExperimentAnalysis(sys.argv[1]).trial_dataframes); print(time.perf_counter() - wall, time.process_time() - cpu, count)"
)
RAYS = ("-c", RAYS_CODE)
"""Constructing it reads every file; it prints what that took without its import."""


def write_folder(folder: Path, trials: int) -> None:
    """A Ray Tune folder of so many finished trials: six cells, the rest seeds."""
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial
    from ray.tune.registry import register_trainable

    register_trainable("train", lambda _config: None)
    draw = random.Random(0)  # noqa: S311 - curves to be read, not secrets
    states = []
    for number in range(trials):
        config = {
            "depth": (18, 50)[number % 2],
            "head": HEADS[number % CELLS // 2],
            "seed": number // CELLS,
            "lr": draw.uniform(1e-3, 1),
            "batch_size": 128,
            "weight_decay": 1e-4,
        }
        trial_id = f"{number:08x}"
        name = f"train_{trial_id}_{number}_" + ",".join(f"{key}={value}" for key, value in config.items())
        storage = StorageContext(str(folder.parent), folder.name, trial_dir_name=name)
        trial = Trial("train", config=config, trial_id=trial_id, storage=storage)
        trial.update_resources({"cpu": 1})
        rows = [_row(config, trial_id, epoch, draw) for epoch in range(1, EPOCHS + 1)]
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / name / "params.json").write_text(json.dumps(config, indent=2, sort_keys=True))
        for row in rows:
            trial.update_last_result(row)
        trial.set_status(Trial.TERMINATED)
        states.append(trial.get_json_state())
    state = {"trial_data": states, "runner_data": {}, "stats": {"start_time": 0.0}}
    (folder / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps(state))


def _row(config: dict[str, Any], trial_id: str, epoch: int, draw: random.Random) -> dict[str, Any]:
    """A result as a trial of Ray 2.60 reports it: what the training measured, then what Ray fills in."""
    return {
        **{name: draw.random() for name in METRICS},
        "timestamp": 1_700_000_000 + epoch,
        "checkpoint_dir_name": None,
        "done": epoch == EPOCHS,
        "training_iteration": epoch,
        "trial_id": trial_id,
        "date": "2026-01-01_00-00-00",
        "time_this_iter_s": draw.random(),
        "time_total_s": epoch + draw.random(),
        "pid": 100_000,
        "hostname": "node",
        "node_ip": "192.0.2.1",
        "config": config,
        "time_since_restore": epoch + draw.random(),
        "iterations_since_restore": epoch,
    }


@dataclass(frozen=True)
class Run:
    """What a program took: wall-clock and CPU seconds of the whole process, peak MiB, and the same seconds without its imports."""

    wall: float
    cpu: float
    peak: float
    load_wall: float
    load_cpu: float


def measure(program: Sequence[str], *arguments: str) -> Run:
    """Run a program in a fresh interpreter, from its start to its end."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *program, *arguments], stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None  # noqa: S101 - for the type checker
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"failed with status {status}: {' '.join(program)}")
    cpu = usage.ru_utime + usage.ru_stime
    load = [float(number) for number in printed.split()[:2]] if program is RAYS else [wall, cpu]
    return Run(wall, cpu, usage.ru_maxrss / 1024, *load)


def medians(runs: Sequence[Run]) -> Run:
    """The median of each figure by itself."""
    return Run(*(median(getattr(run, field.name) for run in runs) for field in fields(Run)))


def main() -> None:
    """Print a block for each number of trials."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--folder", type=Path, help="keep the folders here and use them again (default: a temporary folder)")
    parser.add_argument("--repeat", type=int, default=3, help="the median of so many runs counts (default: %(default)s)")
    options = parser.parse_args()
    print(
        f"{platform.platform()}, {os.cpu_count()} CPUs ({_processor()}), Python {platform.python_version()}, "
        f"polars {version('polars')}, ray {version('ray')}; medians of {options.repeat} runs, in turn"
    )
    print(
        "ray: the whole process, its import with it; load: ExperimentAnalysis(folder) by itself; the analysis is always the whole process"
    )
    heads = ("trials", "MB", "ours s", "CPU s", "MiB", "us/record", "ray s", "CPU s", "MiB", "load s", "load CPU")
    print(" ".join(f"{head:>9}" for head in heads), " times faster: wall   CPU  load wall  load CPU")
    with tempfile.TemporaryDirectory() as temporary:
        for trials in options.trials:
            folder = (options.folder or Path(temporary)) / f"ray-{trials}"
            if not folder.exists():
                write_folder(folder, trials)
            size = sum(file.stat().st_size for file in folder.glob("*/result.json")) / 1e6
            pairs = [(measure(OURS, str(folder), *GIVEN), measure(RAYS, str(folder))) for _ in range(options.repeat)]
            ours, rays = (medians(runs) for runs in zip(*pairs, strict=True))
            each = 1e6 * ours.wall / (trials * EPOCHS)
            figures = (size, ours.wall, ours.cpu, ours.peak, each, rays.wall, rays.cpu, rays.peak, rays.load_wall, rays.load_cpu)
            ratios = (rays.wall / ours.wall, rays.cpu / ours.cpu, rays.load_wall / ours.wall, rays.load_cpu / ours.cpu)
            print(f"{trials:9}", *(f"{figure:9.2f}" for figure in figures), "     ", *(f"{ratio:9.1f}" for ratio in ratios), flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
