"""Real runs killed at seeded moments and started again: `make chaos` in small."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.chaos import tables
from tests.chaos.harness import EXPERIMENT, Chaos
from tests.chaos.schedule import KINDS, MOMENTS, schedule

SHORT = EXPERIMENT.replace("train_per_class = 96", "train_per_class = 48").replace("epochs = 10", "epochs = 4")
assert SHORT.count("epochs = 4") == 1


def nothing_is_lost(kills: int, seed: int, experiment: str) -> Chaos:
    """Kill so often, and check what must hold after any kills; what was run stays where something does not."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # pytest's own is too long for the paths of Ray's sockets
    chaos = Chaos(folder, seed, print, experiment=experiment)
    chaos.run(kills)
    print(tables.of_chaos(chaos, seed))
    assert chaos.faults == []
    assert chaos.differences == 0
    for campaign in chaos.campaigns:
        assert campaign.compared > 0
        assert campaign.trained >= campaign.needed
    shutil.rmtree(folder)
    return chaos


@pytest.mark.timeout(900)
def test_five_kills_lose_nothing() -> None:
    nothing_is_lost(5, 15534, SHORT)  # three workers, the driver and the whole tree, in three starts


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_lose_nothing() -> None:
    chaos = nothing_is_lost(20, 2, EXPERIMENT)
    assert {done.kill.kind for done in chaos.done} == set(KINDS)


def test_the_schedule_is_the_same_for_the_same_seed_and_has_everything_in_it() -> None:
    first, same, other = (list(itertools.islice(schedule(seed), 100)) for seed in (1, 1, 2))
    assert first == same
    assert first != other
    assert {kill.kind for kill in first} == set(KINDS)
    assert {kill.moment for kill in first} == set(MOMENTS)


def test_a_part_of_a_page_is_replaced_and_the_rest_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- chaos: begin -->\nold\n<!-- chaos: end -->\nbelow\n")
    tables.put(page, "chaos", "new\n")
    assert page.read_text() == "above\n<!-- chaos: begin -->\nnew\n<!-- chaos: end -->\nbelow\n"
    with pytest.raises(ValueError, match="no part 'week'"):
        tables.put(page, "week", "new\n")
