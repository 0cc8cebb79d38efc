"""The main job: takes an experiment from wherever it stands to its end, on this machine or on a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from tune_ablation import data, plan, results
from tune_ablation.errors import UserError
from tune_ablation.experiment import Experiment
from tune_ablation.lock import only_driver
from tune_ablation.runner import local_ray
from tune_ablation.runner.session import Session
from tune_ablation.runner.studies import write_studies
from tune_ablation.storage import Storage, open_storage

if TYPE_CHECKING:
    from tune_ablation.runner.searcher import PlanSearcher

TUNE_FOLDER = "ray"


@dataclass(frozen=True)
class Options:
    """How to run, as opposed to what: none of it changes a record.

    Attributes:
        storage_path: folder or URI below which the experiment's results folder stands.
        data: Tiny-ImageNet's folder or zip, the same path on every node; None for drawn images.
        cache: folder of decoded images.
        cpus_per_trial: CPU threads a trial.
        gpus_per_trial: GPUs a trial, fractions allowed; None takes one each where there are any.
        parallel: at most so many trials at once; None for as many as the resources allow.
        address: a running Ray cluster (``auto`` for the one of this machine); None starts Ray here.
        max_retries: how often a trial whose worker died is started again before it counts as failed.
        keep_checkpoints: keep the weights of finished trials.
        wait: wait for another driver on the same results folder to end, instead of refusing.
    """

    storage_path: str
    data: Path | None
    cache: Path
    cpus_per_trial: int = 1
    gpus_per_trial: float | None = None
    parallel: int | None = None
    address: str | None = None
    max_retries: int = 3
    keep_checkpoints: bool = False
    wait: bool = False


def run(experiment: Experiment, options: Options, console: Console, progress: data.Progress | None = None) -> int:
    """Finish the experiment.

    Args:
        experiment: what is asked.
        options: how to run it.
        console: where a person looks.
        progress: called while images are decoded.

    Returns:
        The exit code: 0 all trials finished, 1 some failed, 130 interrupted.

    Raises:
        UserError: something given does not fit; nothing that existed has been changed.
    """
    storage = open_storage(options.storage_path).child(experiment.name)
    gpus = _gpus()
    gpus_per_trial = _gpus_per_trial(options, gpus)
    _check_address(options.address)
    prepared = data.prepare(experiment.data, options.data, cache_dir=options.cache, progress=progress)
    results.check_batch_size(experiment, prepared)
    described = results.describe_data(experiment, prepared)
    stop = threading.Event()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    with only_driver(storage, stop, wait=options.wait, say=say) as claim:
        storage = storage.fenced(claim)
        found = results.take_up(storage, experiment, described, keep_checkpoints=options.keep_checkpoints)
        finished = plan.results_of(experiment, found.rows.values())
        before = f", {len(finished)} of them finished before" if finished else ""
        console.print(f"[bold]{experiment.name}[/bold]: {len(experiment.cells())} cells, {len(plan.all_keys(experiment))} trials{before}")
        interrupted = False
        if not plan.is_complete(experiment, finished):
            precision = found.header["precision"] if found.header is not None else _precision(experiment, gpus_per_trial)
            session = Session(
                experiment=experiment.resolved(),
                storage=storage.address,
                claim=claim,
                data=str(options.data.absolute()) if options.data is not None else None,
                cache=str(options.cache.absolute()),
                fingerprint=prepared.fingerprint,
                precision=precision,
                threads=options.cpus_per_trial,
                use_gpu=gpus_per_trial > 0,
                keep_checkpoints=options.keep_checkpoints,
            )
            # Counting the cells' costs imports torchvision, which takes as long as Ray takes to start: both at once.
            with ThreadPoolExecutor(1) as pool:
                cells = pool.submit(results.describe_cells, experiment, described["classes"], described["image_size"])
                with local_ray.started(options.address, _cpus(options, gpus_per_trial), say) as folder:
                    results.write_session(storage, experiment, found.header, cells.result(), described, precision, gpus)
                    finished, interrupted = _tune(experiment, session, options, gpus_per_trial, finished, storage, folder, stop, console)
        write_studies(experiment, finished, storage)
    if interrupted:
        console.print("Stopped. Everything done so far is kept; the same command goes on from here.")
        return 130
    return 0 if plan.is_complete(experiment, finished) else 1


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _gpus_per_trial(options: Options, gpus: list[str]) -> float:
    if options.gpus_per_trial is None:
        return 1.0 if gpus else 0.0
    if options.address is None and options.gpus_per_trial > len(gpus):
        raise UserError(f"--gpus-per-trial: given {options.gpus_per_trial:g}, this machine has {len(gpus)}")
    return options.gpus_per_trial


def _check_address(address: str | None) -> None:
    """Knock at a cluster's door: Ray itself would go on knocking for minutes."""
    host, separator, port = (address or "").rpartition(":")
    if not separator or "://" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(f"--address {address}: no Ray cluster there ({error})") from None


def _precision(experiment: Experiment, gpus_per_trial: float) -> str:
    import torch

    from tune_ablation.training.loop import resolve_precision

    if gpus_per_trial > 0 and not torch.cuda.is_available():  # a cluster's head without a GPU of its own
        return "bf16" if experiment.recipe.precision == "auto" else experiment.recipe.precision
    return resolve_precision(experiment.recipe.precision, torch.device("cuda" if gpus_per_trial > 0 else "cpu"))


def _tune(
    experiment: Experiment,
    session: Session,
    options: Options,
    gpus_per_trial: float,
    finished: dict[str, plan.Result],
    storage: Storage,
    folder: Path,
    stop: threading.Event,
    console: Console,
) -> tuple[dict[str, plan.Result], bool]:
    """Run what is left of the plan under Ray Tune; returns all results and whether it was interrupted."""
    import ray

    from tune_ablation.runner.progress import Board
    from tune_ablation.runner.searcher import PlanSearcher

    searcher = PlanSearcher(experiment, finished, options.parallel, options.max_retries)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_pending(experiment, options, gpus_per_trial, ray.cluster_resources()))  # type: ignore[no-untyped-call]  # ray's
    with Board(experiment, searcher, console) as board, _stop_signals(stop, board.say):
        searcher.listener = board
        searcher.stop = stop

        def note_failure(key: str, reason: str) -> None:
            if key not in searcher.failed:
                return  # it is tried again
            attempts = searcher.failures[key]
            board.say(f"{key} failed {attempts} times: {reason}")
            try:
                results.write_failure(storage, key, reason, attempts)
            except UserError as error:
                board.say(str(error))

        _fit(session, options, gpus_per_trial, searcher, note_failure, stop, storage, folder)
    if searcher.halted is not None:
        raise UserError(f"{searcher.halted}; everything done so far is kept, and the same command goes on from here")
    return searcher.results, stop.is_set()


def _pending(experiment: Experiment, options: Options, gpus_per_trial: float, resources: dict[str, float]) -> int:
    """Trials to queue beyond those that run: none here, where it would only mean waiting actors; all on a cluster that may grow."""
    widest = len(experiment.cells()) * max(experiment.search.parallel_per_cell, len(experiment.confirm.seeds))
    if options.address is None:
        slots = resources.get("CPU", 1) // options.cpus_per_trial
        if gpus_per_trial:
            slots = min(slots, resources.get("GPU", 0) // gpus_per_trial)
        widest = min(widest, int(slots))
    return max(1, min(widest, options.parallel or widest))


def _cpus(options: Options, gpus_per_trial: float) -> int:
    """How many CPUs a Ray started here may give away: all there are, or more where more are asked for."""
    cpus = max(os.cpu_count() or 1, options.cpus_per_trial)
    if gpus_per_trial == 0 and options.parallel is not None:
        cpus = max(cpus, options.parallel * options.cpus_per_trial)
    return cpus


def _fit(
    session: Session,
    options: Options,
    gpus_per_trial: float,
    searcher: PlanSearcher,
    note_failure: Callable[[str, str], None],
    stop: threading.Event,
    storage: Storage,
    folder: Path,
) -> None:
    from ray import tune

    from tune_ablation.runner import controller
    from tune_ablation.runner.failures import FailureCallback, Interruption
    from tune_ablation.runner.trainable import AblationTrainable

    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    trainable = tune.with_resources(
        tune.with_parameters(AblationTrainable, session=session), {"cpu": options.cpus_per_trial, "gpu": gpus_per_trial}
    )
    if storage.folder is not None:
        storage.delete(TUNE_FOLDER)
        folder = storage.folder
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(folder),
            verbose=0,
            stop=Interruption(stop),
            callbacks=[FailureCallback(note_failure)],
            failure_config=tune.FailureConfig(max_failures=0),  # the searcher hands a failed trial out again
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    with controller.in_place():
        tuner.fit()


def _trial_name(trial: Any) -> str:
    key, failures = str(trial.config["key"]), trial.config["failures"]
    return key.replace("/", "__") + (f"__{failures}" if failures else "")


@contextmanager
def _stop_signals(stop: threading.Event, say: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for a clean stop; the second one does not wait for it."""

    def ask(signum: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set():
            os._exit(128 + signum)  # the records are safe at every moment; nothing is owed a farewell
        stop.set()
        say("Stopping: running trials end their epoch and are saved first (once more to stop at once) ...")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
