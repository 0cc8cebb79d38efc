"""JPEG bytes to pixels, many at a time, on every core.

Threads gain nothing here: a 64x64 image takes about 0.1 ms, most of it with Python's lock held. So the decoders are processes, plain
ones that talk over pipes: they need no importable main module, leave no lock inherited, and end by themselves when their parent dies.
"""

import io
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from subprocess import PIPE, Popen
from typing import IO, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from tune_ablation.data.source import Pixels
from tune_ablation.errors import UserError

BLOCK = 256
_SERVE = "from tune_ablation.data.decode import serve; serve()"
_GOOD = b"null\n"
_DIED = "an image decoder process died (is the memory used up?); the same command tries again"
_MOST_WORKERS = 16  # the parent, which reads and writes files meanwhile, keeps up with no more


class BadImageError(ValueError):
    """An image that cannot be used: `position` within what was given, `why` as the end of a sentence about it."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(position, why)
        self.position = position
        self.why = why


def decode(jpegs: Sequence[bytes], side: int) -> Pixels:
    """Decodes JPEGs into uint8 [n, side, side, 3]; greyscale becomes RGB.

    Raises:
        BadImageError: One of them is no whole JPEG, or is not side x side pixels.
    """
    pixels = np.empty((len(jpegs), side, side, 3), dtype=np.uint8)
    for position, jpeg in enumerate(jpegs):
        try:
            with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
                width, height = image.size
                if (width, height) == (side, side):
                    pixels[position] = np.asarray(image.convert("RGB"))
        # What Pillow raises on damaged bytes depends on where the damage lies.
        except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, Image.DecompressionBombError) as error:
            reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
            raise BadImageError(position, f"cannot be decoded as a JPEG ({reason})") from error
        if (width, height) != (side, side):
            raise BadImageError(position, f"is {width}x{height} pixels, not {side}x{side}")
    return pixels


def decode_blocks(blocks: Iterable[Sequence[bytes]], side: int, workers: int) -> Iterator[Pixels]:
    """Decodes block after block, in order, a few ahead on `workers` processes (on this one, if that is 1).

    Raises:
        BadImageError: As `decode`; its position counts from the first image of the first block.
        UserError: A decoder process died.
    """
    done = 0
    decoded = _in_parallel(blocks, side, workers) if workers > 1 else (decode(jpegs, side) for jpegs in blocks)
    try:
        for pixels in decoded:
            yield pixels
            done += len(pixels)
    except BadImageError as bad:
        raise BadImageError(done + bad.position, bad.why) from bad


def usable_workers() -> int:
    """How many decoder processes this machine can use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_WORKERS)


def serve() -> None:
    """A decoder process: for each line of JSON (side, sizes) and the JPEGs after it, answers a line (null, or what is bad) and pixels."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; its end closes the pipe
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := requests.readline():
        side, sizes = json.loads(line)
        try:
            pixels = decode([requests.read(size) for size in sizes], side)
        except BadImageError as bad:
            answers.write(json.dumps([bad.position, bad.why]).encode() + b"\n")
        else:
            answers.write(_GOOD)
            answers.write(pixels.data)
        answers.flush()


def _in_parallel(blocks: Iterable[Sequence[bytes]], side: int, workers: int) -> Iterator[Pixels]:
    with ExitStack() as stack:
        idle: SimpleQueue[Popen[bytes]] = SimpleQueue()
        for _ in range(workers):
            idle.put(stack.enter_context(_decoder()))
        # One thread a process: it only waits for pipes.
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        pending: deque[Future[Pixels]] = deque()
        for block in blocks:
            pending.append(pool.submit(_ask, idle, block, side))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextmanager
def _decoder() -> Iterator[Popen[bytes]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    with Popen([sys.executable, "-c", _SERVE], stdin=PIPE, stdout=PIPE, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()  # it holds nothing worth waiting for
            with suppress(OSError):
                cast("IO[bytes]", process.stdin).close()


def _ask(idle: "SimpleQueue[Popen[bytes]]", jpegs: Sequence[bytes], side: int) -> Pixels:
    pixels = np.empty((len(jpegs), side, side, 3), dtype=np.uint8)
    answer, received = b"", 0
    process = idle.get()
    try:
        requests, answers = cast("IO[bytes]", process.stdin), cast("io.BufferedReader", process.stdout)
        requests.write(json.dumps([side, [len(jpeg) for jpeg in jpegs]]).encode() + b"\n")
        requests.writelines(jpegs)
        requests.flush()
        answer = answers.readline()
        if answer == _GOOD:
            received = answers.readinto(pixels.data.cast("B"))
    except OSError as error:
        raise UserError(_DIED) from error
    finally:
        idle.put(process)
    if answer == _GOOD and received == pixels.nbytes:
        return pixels
    if answer.endswith(b"]\n"):
        raise BadImageError(*json.loads(answer))
    raise UserError(_DIED)
