"""Hundreds of stub trials under kills: `make week` in small."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.chaos import week


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundreds_of_trials_under_kills_come_to_the_exact_plan() -> None:
    folder = Path(tempfile.mkdtemp(prefix="week-"))
    lived = week.live_through(folder, 600, 6, print)
    print(week.rows(lived))
    assert lived.faults == []
    assert lived.differences == 0
    assert lived.compared == 600 * 3
    assert min(lived.kills.values()) > 0
    first, last = lived.thirds()
    assert last[-1].memory < 1.1 * first[-1].memory
    shutil.rmtree(folder)
