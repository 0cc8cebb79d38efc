"""Old logs and new results side by side: told together, never tested against one another."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from analysis import report, together
from analysis.analyse import Analysis, analyse
from analysis.cli import main
from analysis.foreign import Columns
from analysis.load import load

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder, RayFolder

ORIGIN, MAXPOOL = "resnet18_origin", "resnet18_maxpool"


def log(*accuracies: float) -> str:
    """What imagenet/main.py prints, as far as it is read."""
    lines = []
    for epoch, accuracy in enumerate(accuracies):
        lines.append(f"Epoch: [{epoch}][100/100]\tTime  0.1 ( 0.2)\tLoss 4.1e+00 (4.7e+00)\tAcc@1   9.00 (  6.00)\tAcc@5  20.00 ( 15.00)")
        lines.append(f" *   Acc@1 {accuracy:.3f} Acc@5 {accuracy + 20:.3f}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    for seed in range(2):
        (folder / f"{MAXPOOL}_seed-{seed}.log").write_text(log(10, 30 + seed, 20 + 2 * seed))
    return folder


def analysed(*paths: Path, columns: Columns | None = None) -> list[Analysis]:
    return [analyse(run) for run in load(map(str, paths), columns).runs]


def row(found: list[Analysis], **wanted: Any) -> dict[str, Any]:
    (one,) = [row for row in together.side_by_side(found).to_dicts() if wanted.items() <= row.items()]
    return one


def printed(found: list[Analysis]) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    report.show_all(found, [], console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_cell_of_both_sources_has_a_row_of_each_with_its_own_figures(full: Folder, logs: Path) -> None:
    found = analysed(full.path, logs)
    rows = together.side_by_side(found)
    assert rows.select("cell", "source").unique(maintain_order=True).rows() == [(ORIGIN, 0), (MAXPOOL, 0), (MAXPOOL, 1)]
    old = row(found, cell=MAXPOOL, source=1, quantity="test_acc1_final")
    assert (old["n"], old["mean"], old["sd"]) == (2, pytest.approx(21), pytest.approx(2**0.5))
    assert (old["epochs_least"], old["epochs_most"]) == (3, 3)
    assert row(found, cell=MAXPOOL, source=1, quantity="test_acc1_best")["mean"] == pytest.approx(30.5)
    new = row(found, cell=MAXPOOL, source=0, quantity="test_acc1_final")
    assert (new["n"], new["mean"], new["epochs_most"]) == (3, pytest.approx(36), 4)


def test_only_shared_metrics_are_laid_side_by_side(full: Folder, logs: Path) -> None:
    found = analysed(full.path, logs)
    assert together.shared_metrics(found) == ["test_acc1", "test_acc5", "train_loss", "train_acc1", "test_loss"]
    assert not any("f1" in quantity for quantity in together.side_by_side(found)["quantity"])


def test_the_order_of_the_sources_changes_places_and_no_figure(full: Folder, logs: Path) -> None:
    one, other = analysed(full.path, logs), analysed(logs, full.path)
    first, second = together.side_by_side(one), together.side_by_side(other)
    keys = ["cell", "source", "quantity"]
    assert first.sort(keys).equals(second.with_columns(source=1 - second["source"]).sort(keys))


def test_a_single_source_stands_alone(full: Folder) -> None:
    found = analysed(full.path)
    assert together.table(found) is None
    assert together.side_by_side(found).height == 0
    assert "Side by side" not in printed(found)


def test_the_terminal_shows_the_table_last_and_says_that_nothing_is_tested(full: Folder, logs: Path) -> None:
    text = printed(analysed(full.path, logs))
    assert max(map(len, text.splitlines())) <= 80
    joint = text[text.index("Side by side:") :]
    (line,) = [line for line in joint.splitlines() if line.startswith(MAXPOOL) and line.split()[1] == "2"]
    assert line.split() == [MAXPOOL, "2", "21.00", "±", "1.41", "30.50", "41.00", "±", "1.41", "50.50", "3", "2"]
    flat = " ".join(joint.split())
    assert f"Sources: 1: heads ({full.path}); 2: old ({logs})." in flat
    assert "no contrast and no test is made between them" in flat
    assert text.index("Nothing is missing") < text.index("Side by side:")


def test_trials_that_were_cut_short_show_in_the_epochs(full: Folder, logs: Path) -> None:
    (logs / f"{MAXPOOL}_seed-2.log").write_text(log(10, 20))
    old = row(analysed(full.path, logs), cell=MAXPOOL, source=1, quantity="test_acc1_final")
    assert (old["epochs_least"], old["epochs_most"]) == (2, 3)
    assert "2-3" in printed(analysed(full.path, logs))


def test_sources_with_nothing_in_common_say_so(full: Folder, ray: RayFolder) -> None:
    ray.add({}, [{"reward": 3.0}])
    found = analysed(full.path, ray.path, columns=Columns(metrics=("reward",)))
    assert together.side_by_side(found).height == 0
    assert "No metric is in two of the sources." in printed(found)


def test_a_source_without_a_confirmed_trial_is_named(make_folder: MakeFolder, logs: Path) -> None:
    folder = make_folder()
    folder.add(ORIGIN, "search", 0, {"val_acc1": [1.0] * 4})
    assert "Without a row here: 1 source (heads)" in " ".join(printed(analysed(logs, folder.path)).split())


def test_json_has_the_same_rows(full: Folder, logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(full.path), str(logs), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["side_by_side"] == together.side_by_side(analysed(full.path, logs)).to_dicts()
    assert [experiment["experiment"] for experiment in content["experiments"]] == ["heads", "old"]
