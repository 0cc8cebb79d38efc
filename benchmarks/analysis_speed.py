"""How long the analysis takes on a Ray Tune folder, from cold start to printed summary, against ray.tune.ExperimentAnalysis loading it.

``python benchmarks/analysis_speed.py [--trials 1000 3000 10000] [--folder FOLDER]`` writes folders of trials of 30 epochs as Ray writes
them (its own Trial class gives the experiment state), times both in fresh processes, and prints seconds and peak memory.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPOCHS = 30
CELLS = 6
HEADS = ("origin", "maxpool", "dropout")
METRICS = ("train_loss", "val_acc1", "test_loss", "test_acc1")

OURS = (
    "import sys; from analysis.cli import main; "
    "sys.exit(main([sys.argv[1], '--metric', 'test_acc1', '--metric', 'test_loss', '--cells', 'depth,head', '--seed-column', 'seed']))"
)
RAYS = "import sys; from ray.tune import ExperimentAnalysis; print(len(ExperimentAnalysis(sys.argv[1]).trial_dataframes))"


def write_folder(folder: Path, trials: int) -> None:
    """A Ray Tune folder of so many finished trials: six cells, the rest seeds."""
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial
    from ray.tune.registry import register_trainable

    register_trainable("train", lambda _config: None)
    draw = random.Random(0)  # noqa: S311 - curves to be read, not secrets
    states = []
    for number in range(trials):
        config = {"depth": (18, 50)[number % 2], "head": HEADS[number % CELLS // 2], "seed": number // CELLS, "lr": draw.uniform(1e-3, 1)}
        trial_id = f"{number:08x}"
        name = f"train_{trial_id}_{number}_" + ",".join(f"{key}={value}" for key, value in config.items())
        storage = StorageContext(str(folder.parent), folder.name, trial_dir_name=name)
        trial = Trial("train", config=config, trial_id=trial_id, storage=storage)
        trial.update_resources({"cpu": 1})
        rows = [_row(config, trial_id, epoch, draw) for epoch in range(1, EPOCHS + 1)]
        (folder / name).mkdir(parents=True)
        (folder / name / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / name / "params.json").write_text(json.dumps(config, indent=2, sort_keys=True))
        states.append(trial.get_json_state())
    state = {"trial_data": states, "runner_data": {}, "stats": {"start_time": 0.0}}
    (folder / "experiment_state-2026-01-01_00-00-00.json").write_text(json.dumps(state))


def _row(config: dict[str, Any], trial_id: str, epoch: int, draw: random.Random) -> dict[str, Any]:
    return {
        **{name: draw.random() for name in METRICS},
        "timestamp": 1_700_000_000 + epoch,
        "checkpoint_dir_name": None,
        "done": epoch == EPOCHS,
        "training_iteration": epoch,
        "trial_id": trial_id,
        "date": "2026-01-01_00-00-00",
        "time_this_iter_s": draw.random(),
        "time_total_s": float(epoch),
        "pid": 1000,
        "hostname": "node",
        "node_ip": "192.0.2.1",
        "config": config,
        "time_since_restore": float(epoch),
        "iterations_since_restore": epoch,
    }


def measure(code: str, folder: Path) -> tuple[float, float, float]:
    """Wall-clock seconds, CPU seconds and peak MiB of a fresh interpreter that runs the code."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"failed with status {status}: {code}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Print one line for each number of trials."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 3000, 10_000])
    parser.add_argument("--folder", type=Path, help="keep the folders here and use them again (default: a temporary folder)")
    parser.add_argument("--repeat", type=int, default=3, help="the fastest of so many runs counts (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        heads = ("trials", "MB", "ours", "CPU", "peak MiB", "us/record", "ray", "CPU", "peak MiB", "faster", "by CPU")
        print(" ".join(f"{head:>9}" for head in heads))
        for trials in options.trials:
            folder = (options.folder or Path(temporary)) / f"ray-{trials}"
            if not folder.exists():
                write_folder(folder, trials)
            size = sum(file.stat().st_size for file in folder.rglob("result.json")) / 1e6
            ours = min(measure(OURS, folder) for _ in range(options.repeat))
            rays = min(measure(RAYS, folder) for _ in range(options.repeat))
            each = 1e6 * ours[0] / (trials * EPOCHS)
            figures = (size, *ours, each, *rays, rays[0] / ours[0], rays[1] / ours[1])
            print(f"{trials:9}", *(f"{figure:9.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
