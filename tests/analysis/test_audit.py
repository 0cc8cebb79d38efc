"""The audit finds each thing that makes a comparison unfair, and nothing in a fair one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from analysis import audit, load

if TYPE_CHECKING:
    from tests.analysis.conftest import Folder, MakeFolder

ORIGIN, MAXPOOL = "resnet18_origin", "resnet18_maxpool"
FLAT = [30.0, 40.0, 40.0, 40.0]


def fair(make_folder: MakeFolder, **changes: Any) -> Folder:
    """A finished experiment with nothing wrong in it."""
    folder = make_folder(**changes)
    for cell in folder.experiment.cells():
        for number in range(folder.experiment.search.trials_per_cell):
            folder.add(cell.key, "search", number, {"val_acc1": [1.0, 2.0, 3.0, 30.0 - number]}, lr=0.1 / (number + 1))
        for seed in folder.experiment.confirm.seeds:
            folder.add(cell.key, "confirm", seed, {"test_acc1": [value + seed for value in FLAT], "val_acc1": FLAT})
    return folder


def codes(folder: Folder) -> dict[str, audit.Finding]:
    return {finding.code: finding for finding in folder.analysed().findings}


def test_a_fair_experiment_has_no_findings(make_folder: MakeFolder) -> None:
    assert codes(fair(make_folder)) == {}


@pytest.mark.parametrize(("lr", "end"), [(0.00101, "low"), (0.99, "high"), (0.1, None)])
def test_the_best_learning_rate_at_the_edge_of_its_range(make_folder: MakeFolder, lr: float, end: str | None) -> None:
    folder = fair(make_folder)
    folder.add(MAXPOOL, "search", 0, {"val_acc1": [1.0, 2.0, 3.0, 99.0]}, lr=lr)
    found = codes(folder)
    assert ("lr_at_edge" in found) == (end is not None)
    if end is not None:
        assert found["lr_at_edge"].cells == (MAXPOOL,)
        assert f"at the {end} edge" in found["lr_at_edge"].text


def test_unequal_numbers_of_attempts(make_folder: MakeFolder) -> None:
    folder = fair(make_folder)
    folder.file(f"{MAXPOOL}/search/001").unlink()
    assert codes(folder)["unequal_attempts"].cells == (MAXPOOL,)


def test_divergence_in_search_is_a_caveat_and_in_confirmation_serious(make_folder: MakeFolder) -> None:
    folder = fair(make_folder)
    folder.add(ORIGIN, "search", 1, {"val_acc1": [1.0]}, diverged=True)
    folder.add(MAXPOOL, "confirm", 1, {"test_acc1": [1.0]}, diverged=True)
    found = codes(folder)
    assert (found["search_diverged"].cells, found["search_diverged"].serious) == ((ORIGIN,), False)
    assert (found["confirm_diverged"].cells, found["confirm_diverged"].serious) == ((MAXPOOL,), True)
    for number in range(2):
        folder.add(ORIGIN, "search", number, {"val_acc1": [1.0]}, diverged=True)
    assert codes(folder)["search_all_diverged"].serious


def test_missing_seeds_and_damaged_files(make_folder: MakeFolder) -> None:
    folder = fair(make_folder)
    folder.file(f"{MAXPOOL}/confirm/seed-2").write_bytes(b"torn")
    found = codes(folder)
    assert "1 of 3 confirm seeds not finished" in found["missing_seeds"].text
    assert "1 damaged or foreign file" in found["left_out"].text


def test_a_single_seed(make_folder: MakeFolder) -> None:
    assert "one_seed" in codes(fair(make_folder, confirm={"seeds": [0]}))


def test_a_cell_that_is_still_improving_at_the_end(make_folder: MakeFolder) -> None:
    folder = fair(make_folder)
    for seed in range(3):
        folder.add(MAXPOOL, "confirm", seed, {"test_acc1": [10.0, 20.0, 30.0 + seed, 40.0 + 1.1 * seed], "val_acc1": FLAT})
    assert codes(folder)["still_improving"].cells == (MAXPOOL,)


def test_trials_on_different_hardware_or_in_different_precision(make_folder: MakeFolder) -> None:
    folder = fair(make_folder)
    folder.add(ORIGIN, "confirm", 0, {"test_acc1": FLAT, "val_acc1": FLAT}, device="NVIDIA H100", precision="bf16")
    found = codes(folder)
    assert "NVIDIA H100: 1 trial" in found["hardware_differs"].text
    assert "bf16: 1 trial" in found["precision_differs"].text


def test_sessions_that_differ(make_folder: MakeFolder) -> None:
    folder = fair(make_folder)
    session = {"commit": "a", "versions": {"torch": "2.15"}, "hardware": {"cpu": "one", "gpus": []}}
    folder.header["sessions"] = [session, session | {"commit": "b", "hardware": {"cpu": "two", "gpus": []}}]
    folder.write_header()
    found = codes(folder)
    assert {"commits_differ", "sessions_hardware_differs"} <= set(found)
    assert "versions_differ" not in found


def test_a_warm_up_as_long_as_the_search_tunes_nothing(make_folder: MakeFolder) -> None:
    assert "warmup_is_the_search" in codes(fair(make_folder, search={"trials_per_cell": 2, "warmup_trials": 2}))
    assert "warmup_is_the_search" not in codes(fair(make_folder, search={"trials_per_cell": 2, "warmup_trials": 2, "sampler": "random"}))


def test_val_and_test_that_name_different_winners(make_folder: MakeFolder) -> None:
    folder = fair(make_folder)
    for seed in range(3):
        folder.add(MAXPOOL, "confirm", seed, {"test_acc1": [value + 1 + seed for value in FLAT], "val_acc1": [value - 1 for value in FLAT]})
    assert f"val acc@1 {ORIGIN} and test acc@1 {MAXPOOL}" in codes(folder)["val_test_disagree"].text


def test_a_fixed_dropout_rate_is_a_caveat(make_folder: MakeFolder) -> None:
    found = codes(fair(make_folder, grid={"depth": [18], "head": ["origin", "dropout"]}))
    assert [finding.serious for finding in found.values()] == [False]
    assert "fixed_dropout" in found


def test_experiments_on_different_data_are_not_laid_side_by_side_in_silence(make_folder: MakeFolder) -> None:
    folders = [fair(make_folder, name=name) for name in ("one", "two")]
    runs = load.load([str(folder.path) for folder in folders]).runs
    assert audit.across(runs) == ()
    folders[1].header["data"]["fingerprint"] = "other"
    folders[1].header["precision"] = "bf16"
    folders[1].write_header()
    runs = load.load([str(folder.path) for folder in folders]).runs
    assert [finding.code for finding in audit.across(runs)] == ["data_differ", "precision_differs"]
