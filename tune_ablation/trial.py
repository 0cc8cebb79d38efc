"""One trial of the plan, ready to train: what the Tune trainable does for many, and ``train`` for one without Ray."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from tune_ablation import plan, results
from tune_ablation.data.batches import Batches
from tune_ablation.lock import only_driver
from tune_ablation.records import TRIALS_FOLDER
from tune_ablation.training.loop import Training, TrialSpec, resolve_precision
from tune_ablation.training.stored import StoredTraining

if TYPE_CHECKING:
    from tune_ablation.data import PreparedData
    from tune_ablation.experiment import Experiment
    from tune_ablation.storage import Storage


def spec_of(experiment: Experiment, trial: plan.Trial) -> TrialSpec:
    """What the training needs to know of a trial of the plan."""
    return TrialSpec(
        experiment=experiment.name,
        trial=trial.key,
        cell=trial.cell.key,
        factors=trial.cell.levels,
        stage=trial.stage,
        number=trial.number,
        seed=trial.seed,
        lr=trial.lr,
        model=trial.cell.model,
        recipe=trial.cell.recipe,
    )


def begin(
    experiment: Experiment,
    trial: plan.Trial,
    batches: Batches,
    storage: Storage,
    *,
    precision: str,
    keep_checkpoint: bool,
) -> StoredTraining:
    """Begin a trial, or go on with it from its folder.

    Args:
        experiment: whose trial it is.
        trial: which.
        batches: the images, on the device to train on.
        storage: the experiment's results folder.
        precision: ``fp32`` or ``bf16``.
        keep_checkpoint: keep the weights once it is finished.
    """
    first = trial.number == (0 if experiment.search.trials_per_cell and trial.stage == "search" else experiment.confirm.seeds[0])
    return StoredTraining(
        Training(spec_of(experiment, trial), batches, precision),
        storage.child(f"{TRIALS_FOLDER}/{trial.key}"),
        keep_checkpoint=keep_checkpoint,
        graph=first and trial.stage == ("search" if experiment.search.trials_per_cell else "confirm"),
    )


def train_alone(
    experiment: Experiment,
    prepared: PreparedData,
    storage: Storage,
    *,
    threads: int,
    keep_checkpoint: bool,
    on_epoch: Callable[[dict[str, Any]], None],
    say: Callable[[str], None],
    wait: bool = False,
) -> None:
    """Run an experiment whose trials are all known beforehand, one after another in this process.

    Args:
        experiment: one with ``search.trials_per_cell = 0``.
        prepared: its images.
        storage: its results folder.
        threads: CPU threads.
        keep_checkpoint: keep the weights of finished trials.
        on_epoch: called with each new record row.
        say: told what a person should know.
        wait: wait for another driver on the same folder to end.

    Raises:
        UserError: the folder holds results of something else, or another driver is at work in it.
    """
    results.check_batch_size(experiment, prepared)
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = results.describe_data(experiment, prepared)
    stop = threading.Event()
    with only_driver(storage, stop, wait=wait, say=say) as claim:
        storage = storage.fenced(claim)
        found = results.take_up(storage, experiment, data, keep_checkpoints=keep_checkpoint)
        precision = found.header["precision"] if found.header is not None else resolve_precision(experiment.recipe.precision, device)
        gpus = [torch.cuda.get_device_name(device)] if device.type == "cuda" else []
        cells = results.describe_cells(experiment, data["classes"], data["image_size"])
        results.write_session(storage, experiment, found.header, cells, data, precision, gpus)
        batches = Batches(prepared, device)
        for trial in plan.ready(experiment, plan.results_of(experiment, found.rows.values())):
            stored = begin(experiment, trial, batches, storage, precision=precision, keep_checkpoint=keep_checkpoint)
            try:
                while not stored.training.finished and not stop.is_set():
                    stored.step()
                    on_epoch(stored.training.rows[-1])
            finally:
                stored.close()
