"""One trial's training: repeatable to the bit, resumable after every epoch, and measured by the book."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from tune_ablation.data import PreparedData
from tune_ablation.data.augment import AUGMENTATIONS
from tune_ablation.data.batches import Batches
from tune_ablation.models import HEADS
from tune_ablation.records import EVALUATED, METRICS, TIMES, dump_rows, load_rows
from tune_ablation.seeds import derived_seed
from tune_ablation.training import checkpoint
from tune_ablation.training.loop import Training, TrialSpec, device_name, resolve_precision
from tune_ablation.training.schedules import SCHEDULES

MakeSpec = Callable[..., TrialSpec]


def run(spec: TrialSpec, batches: Batches, precision: str = "fp32") -> Training:
    training = Training(spec, batches, precision)
    while not training.finished:
        training.run_epoch()
    return training


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def same_weights(one: Training, other: Training) -> bool:
    mine, theirs = one.model.state_dict(), other.model.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("head", HEADS)
def test_two_runs_give_the_same_bits(head: str, make_spec: MakeSpec, batches: Batches) -> None:
    spec = make_spec(head, augment="flip-crop")
    torch.manual_seed(1)
    first = run(spec, batches)
    torch.manual_seed(2)
    torch.rand(5)
    second = run(spec, batches)
    assert timeless(first.rows) == timeless(second.rows)
    assert same_weights(first, second)
    assert len({row["train_loss"] for row in first.rows}) == 3
    assert timeless(run(make_spec(head, augment="flip-crop", seed=4), batches).rows) != timeless(first.rows)


@pytest.mark.parametrize(("head", "schedule", "augment"), [*zip(HEADS, SCHEDULES, AUGMENTATIONS, strict=True)])
def test_saved_killed_and_loaded_at_any_epoch_gives_the_same(
    head: str, schedule: str, augment: str, make_spec: MakeSpec, batches: Batches
) -> None:
    spec = make_spec(head, schedule=schedule, augment=augment, warmup_epochs=1, step_epochs=1)
    undisturbed = run(spec, batches)
    training = Training(spec, batches)
    while not training.finished:
        content = checkpoint.dump(training.state_dict())
        torch.manual_seed(99)  # whatever the next process does before
        training = Training(spec, batches)
        training.load_state_dict(checkpoint.load(content))
        training.run_epoch()
    assert timeless(training.rows) == timeless(undisturbed.rows)
    assert same_weights(training, undisturbed)


RESUME = """
import sys
from pathlib import Path
import torch
from tune_ablation.data import prepare
from tune_ablation.data.batches import Batches
from tune_ablation.experiment import parse
from tune_ablation.records import dump_rows
from tune_ablation.training import checkpoint
from tune_ablation.training.loop import Training, TrialSpec
folder, cache, content = Path(sys.argv[1]), Path(sys.argv[2]), eval(sys.argv[3])
torch.set_num_threads(1)
experiment = parse(content, "x")
(cell,) = experiment.cells()
spec = TrialSpec("tiny", f"{cell.key}/confirm/seed-3", cell.key, cell.levels, "confirm", 3, 3, 0.05, cell.model, cell.recipe)
training = Training(spec, Batches(prepare(experiment.data, None, cache_dir=cache), torch.device("cpu")))
training.load_state_dict(checkpoint.load((folder / "checkpoint").read_bytes()))
while not training.finished:
    training.run_epoch()
(folder / "records").write_bytes(dump_rows(training.rows))
(folder / "weights").write_bytes(checkpoint.dump(training.state_dict()))
"""


def test_another_process_goes_on_to_the_same_bits(
    make_spec: MakeSpec, make_experiment: Callable[..., Any], batches: Batches, prepared: PreparedData, tmp_path: Path
) -> None:
    spec = make_spec("dropout", augment="flip-crop")
    undisturbed, broken = run(spec, batches), Training(spec, batches)
    broken.run_epoch()
    (tmp_path / "checkpoint").write_bytes(checkpoint.dump(broken.state_dict()))
    images = prepared.images
    assert isinstance(images, np.memmap)
    cache = Path(str(images.filename)).parents[1]
    content = make_experiment(head=("dropout",), augment="flip-crop").resolved()
    subprocess.run([sys.executable, "-c", RESUME, str(tmp_path), str(cache), repr(content)], check=True)
    assert timeless(load_rows((tmp_path / "records").read_bytes(), "x")) == timeless(undisturbed.rows)
    weights = checkpoint.load((tmp_path / "weights").read_bytes())["model"]
    assert all(torch.equal(weights[name], value) for name, value in undisturbed.model.state_dict().items())


class Watched(Batches):
    """Batches that remember the labels and images they trained on; the real ones in all else."""

    def __init__(self, data: PreparedData) -> None:
        super().__init__(data, torch.device("cpu"))
        self.seen: list[tuple[float, ...]] = []

    def train(
        self, batch_size: int, augment: str, order: torch.Generator, augmentation: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for images, labels in super().train(batch_size, augment, order, augmentation):
            self.seen.append((*labels.tolist(), *images.double().sum((1, 2, 3)).tolist()))
            yield images, labels


def test_every_head_sees_the_same_images_in_the_same_order(make_spec: MakeSpec, prepared: PreparedData) -> None:
    seen = []
    for head in HEADS:
        watched = Watched(prepared)
        run(make_spec(head, augment="random-resized-crop", lr=0.01), watched)
        seen.append(watched.seen)
    assert seen[0] == seen[1] == seen[2]
    assert len(set(seen[0])) == len(seen[0]) == 9, "and another order every epoch"
    other = Watched(prepared)
    run(make_spec("origin", augment="random-resized-crop", lr=0.01, seed=4), other)
    assert other.seen != seen[0]


@pytest.mark.parametrize("head", HEADS)
def test_a_diverging_rate_ends_the_trial_with_nulls(head: str, make_spec: MakeSpec, batches: Batches) -> None:
    training = run(make_spec(head, lr=1e4, epochs=20), batches)
    *before, last = training.rows
    assert last["diverged"]
    assert len(training.rows) < 20
    assert all(last[name] is None for name in METRICS)
    assert not any(row["diverged"] for row in before)
    assert all(math.isfinite(row[name]) for row in before for name in METRICS)
    assert load_rows(dump_rows(training.rows), "x") == training.rows
    assert training.finished


def test_a_diverged_trial_comes_back_from_its_checkpoint_as_finished(make_spec: MakeSpec, batches: Batches) -> None:
    spec = make_spec(lr=1e4, epochs=20)
    diverged, again = run(spec, batches), Training(spec, batches)
    again.load_state_dict(checkpoint.load(checkpoint.dump(diverged.state_dict())))
    assert again.finished
    assert again.rows == diverged.rows


def test_a_loss_that_explodes_without_nan_counts_as_diverged(make_spec: MakeSpec, batches: Batches) -> None:
    training = Training(make_spec(), batches)
    with torch.no_grad():
        training.model.get_parameter("fc.weight").mul_(1e6)
    assert training.run_epoch().diverged


def test_a_row_holds_every_metric_and_what_the_trial_is(make_spec: MakeSpec, batches: Batches) -> None:
    spec = make_spec("maxpool")
    record = Training(spec, batches).run_epoch()
    row = record.to_row()
    assert (row["trial"], row["cell"]) == ("resnet18_maxpool/confirm/seed-3", "resnet18_maxpool")
    assert (row["depth"], row["head"], row["lr"], row["seed"], row["number"]) == (18, "maxpool", 0.05, 3, 3)
    assert (row["epoch"], row["epochs"], row["device"], row["precision"]) == (1, 3, "cpu", "fp32")
    assert not record.is_last
    assert row["epoch_seconds"] > 0
    assert row["train_images_per_second"] >= 48 / row["epoch_seconds"]
    percents = [value for name, value in row.items() if name in METRICS and not name.endswith("loss")]
    assert all(0 <= value <= 100 for value in percents)
    assert all(row[f"{split}_acc1"] <= row[f"{split}_acc5"] for split in EVALUATED)


@pytest.mark.parametrize("head", HEADS)
def test_reported_metrics_are_scikit_learns_on_predictions_in_eval_mode(
    head: str, make_spec: MakeSpec, batches: Batches, prepared: PreparedData
) -> None:
    training = run(make_spec(head, lr=0.001), batches)  # a sharper network's losses scikit-learn would clip
    row = training.rows[-1]
    training.model.eval()
    for split in EVALUATED:
        index = prepared.splits[split]
        images = (prepared.images[index] / np.float32(255) - prepared.mean) / prepared.std
        with torch.no_grad():
            logits = training.model(torch.from_numpy(images).permute(0, 3, 1, 2)).double()
        true, names = prepared.labels[index], list(range(6))
        scores = logits.numpy()
        assert row[f"{split}_loss"] == pytest.approx(metrics.log_loss(true, logits.softmax(1).numpy(), labels=names), rel=1e-4)
        assert row[f"{split}_acc1"] == pytest.approx(100 * metrics.accuracy_score(true, scores.argmax(1)))
        assert row[f"{split}_acc5"] == pytest.approx(100 * metrics.top_k_accuracy_score(true, scores, k=5, labels=names))
        assert row[f"{split}_f1"] == pytest.approx(100 * metrics.f1_score(true, scores.argmax(1), average="macro"))


def test_train_eval_is_as_many_training_images_as_test_has(prepared: PreparedData, batches: Batches) -> None:
    assert batches.count("train_eval") == batches.count("test") == 30
    assert set(prepared.splits["train_eval"]) <= set(prepared.splits["train"])


def test_evaluation_leaves_no_trace(make_spec: MakeSpec, batches: Batches) -> None:
    training = Training(make_spec("dropout"), batches)
    training.run_epoch()
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    assert training.evaluate("test") == training.evaluate("test")
    assert all(torch.equal(before[name], value) for name, value in training.model.state_dict().items())


@pytest.mark.parametrize(("batch_size", "steps"), [(16, 3), (20, 2), (48, 1), (1000, 1)])
def test_an_epoch_is_whole_batches(batch_size: int, steps: int, make_spec: MakeSpec, batches: Batches) -> None:
    training = Training(make_spec(batch_size=batch_size), batches)
    training.run_epoch()
    assert training.model.get_buffer("bn1.num_batches_tracked").item() == steps


def test_dropout_is_drawn_anew_every_epoch_and_again_the_same_by_seed(make_spec: MakeSpec, prepared: PreparedData) -> None:
    """On one image over and over, at a rate too small to move a weight, dropout alone tells two epochs apart."""
    one = np.resize(prepared.splits["train"][:1], 48)
    batches = Batches(dataclasses.replace(prepared, splits=prepared.splits | {"train": one}), torch.device("cpu"))
    still = {"lr": 1e-30, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 48}
    losses, again = ([row["train_loss"] for row in run(make_spec("dropout", **still), batches).rows] for _ in range(2))
    assert losses == again
    assert len(set(losses)) == 3
    assert len({row["train_loss"] for row in run(make_spec("origin", **still), batches).rows}) == 1


def test_the_optimiser_is_plain_sgd_with_momentum_weight_decay_and_schedule(make_spec: MakeSpec, batches: Batches) -> None:
    """A second implementation in a few lines: torch's defaults, one process, no channels_last, no fused kernels."""
    from tune_ablation.models import build_model

    spec = make_spec("origin", schedule="cosine", warmup_epochs=1, lr=0.01, weight_decay=0.1)
    training = run(spec, batches)
    torch.manual_seed(spec.seed)
    model = build_model(spec.model, 6, image_size=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1, fused=False)
    rates = [0.01 * (step + 1) / 3 for step in range(3)] + [0.005 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    for epoch in (1, 2, 3):
        order, unused = torch.Generator().manual_seed(derived_seed(spec.seed, "order", epoch)), torch.Generator()
        for images, labels in batches.train(16, "none", order, unused):
            optimizer.param_groups[0]["lr"] = rates.pop(0)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images.contiguous()), labels).backward()  # type: ignore[no-untyped-call]  # torch's
            optimizer.step()
    for name, value in training.model.state_dict().items():
        torch.testing.assert_close(value.contiguous(), model.state_dict()[name], rtol=1e-3, atol=1e-3)


def test_bf16_runs_on_a_cpu_and_keeps_weights_in_fp32(make_spec: MakeSpec, batches: Batches) -> None:
    training, again, full = (run(make_spec(epochs=2), batches, precision) for precision in ("bf16", "bf16", "fp32"))
    assert training.rows[0]["precision"] == "bf16"
    assert timeless(training.rows) == timeless(again.rows)
    assert {parameter.dtype for parameter in training.model.parameters()} == {torch.float32}
    assert training.rows[0]["train_loss"] != full.rows[0]["train_loss"]
    assert training.rows[0]["train_loss"] == pytest.approx(full.rows[0]["train_loss"], rel=0.1)


def test_precision_is_resolved_by_device() -> None:
    cpu = torch.device("cpu")
    assert [resolve_precision(asked, cpu) for asked in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    assert device_name(cpu) == "cpu"


def test_it_learns(make_spec: MakeSpec, batches: Batches) -> None:
    row = run(make_spec(epochs=15, width=8, schedule="cosine"), batches).rows[-1]
    assert row["train_eval_acc1"] > 60
    assert row["train_loss"] < 1.0 < math.log(6)


@pytest.mark.parametrize("changes", [{"seed": 4}, {"lr": 0.1}, {"head": "maxpool"}, {"width": 8}])
def test_another_trials_state_is_refused_and_changes_nothing(changes: dict[str, Any], make_spec: MakeSpec, batches: Batches) -> None:
    other, mine = Training(make_spec(**changes), batches), Training(make_spec(), batches)
    other.run_epoch()
    before = {name: value.clone() for name, value in mine.model.state_dict().items()}
    with pytest.raises(ValueError, match="a state"):
        mine.load_state_dict(checkpoint.load(checkpoint.dump(other.state_dict())))
    assert mine.rows == []
    assert all(torch.equal(before[name], value) for name, value in mine.model.state_dict().items())


@pytest.mark.parametrize("missing", ["trial", "lr", "seed", "rows", "model", "optimizer"])
def test_a_state_with_a_part_missing_is_refused(missing: str, make_spec: MakeSpec, batches: Batches) -> None:
    training = Training(make_spec(), batches)
    state = training.state_dict()
    del state[missing]
    with pytest.raises(ValueError, match="a state"):
        training.load_state_dict(state)
