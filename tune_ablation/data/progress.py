"""Progress for a person: a bar on a terminal, one line where standard error is none, nothing where nothing is done."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tune_ablation.data.source import Progress


def decoding_progress(console: Console | None = None) -> AbstractContextManager[Progress]:
    """For `prepare`: appears with the first image to decode and goes when all are."""
    return _progress("Decoding images, once for this machine", "images", console)


def download_progress(console: Console | None = None) -> AbstractContextManager[Progress]:
    """For `download`, in bytes."""
    return _progress("Downloading", "bytes", console)


@contextmanager
def _progress(what: str, unit: str, console: Console | None) -> Iterator[Progress]:
    console = console or Console(stderr=True)
    count = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    bar = Bar(TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn(), console=console, transient=True)
    announced = False

    def progress(done: int, total: int) -> None:
        nonlocal announced
        if not console.is_terminal:
            if not announced:
                console.print(f"{what} ({total:,} {unit})", highlight=False, soft_wrap=True)
            announced = True
            return
        if not bar.task_ids:
            bar.add_task(what)
            bar.start()
        bar.update(bar.task_ids[0], completed=done, total=total)
        if done >= total:
            bar.stop()  # whoever runs on within this context may draw a live display of its own

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()
