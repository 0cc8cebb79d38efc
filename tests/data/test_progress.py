"""Progress is a bar on a terminal, one line elsewhere, and nothing where nothing is done."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tune_ablation.data.progress import decoding_progress, download_progress


def test_one_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with decoding_progress() as progress:
        for done in range(0, 27_501, 2500):
            progress(done, 27_500)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "Decoding images, once for this machine (27,500 images)\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_where_nothing_is_done(terminal: bool) -> None:
    output = io.StringIO()
    with decoding_progress(Console(file=output, force_terminal=terminal)):
        pass
    assert output.getvalue() == ""


def test_a_bar_on_a_terminal_that_makes_room_when_done() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with download_progress(console) as progress:
        progress(500, 2000)
        progress(2000, 2000)
        with console.status("another live display may start before the context ends"):
            pass
    assert isinstance(console.file, io.StringIO)
    assert "Downloading" in console.file.getvalue()


def test_a_bar_left_midway_by_an_error_is_taken_down() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)

    def breaks_midway() -> None:
        with decoding_progress(console) as progress:
            progress(1, 2)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        breaks_midway()
    with console.status("the display is free again"):
        pass
