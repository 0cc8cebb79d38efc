"""Which kill comes when: a seeded sequence of kinds and moments."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tune_ablation.records import CHECKPOINT_FILE, HEADER_FILE, RECORDS_FILE
from tune_ablation.runner.studies import STUDIES_FILE

KINDS = {
    "driver": 2,
    "worker": 3,
    "whole tree": 2,
    "raylet": 1,
    "gcs_server": 1,
    "SIGTERM": 1,
    "Ctrl-C": 1,
    "Ctrl-C twice": 1,
}
"""Kind of kill -> how often it is in a deck of them. The first five are SIGKILLs."""

MOMENTS = {"start": 3, "training": 4, "record write": 2, "checkpoint write": 3, "other write": 1}
"""Moment -> its weight: while the run starts, while trials train, or inside the write of a file."""

FILES = {"record write": (RECORDS_FILE,), "checkpoint write": (CHECKPOINT_FILE,), "other write": (HEADER_FILE, STUDIES_FILE)}


@dataclass(frozen=True)
class Kill:
    """One kill of the schedule.

    Attributes:
        kind: one of ``KINDS``.
        moment: one of ``MOMENTS``.
        delay: share of the time that starting, or a few epochs, take undisturbed.
        write: which write of the file, from 1.
        step: of that write: its file begun, written to, or put in place.
        choice: picks among several victims; from 0 to 1.
        at_once: start the next run without waiting until the killed one's processes are gone.
    """

    kind: str
    moment: str
    delay: float
    write: int
    step: str
    choice: float
    at_once: bool


def schedule(seed: int, kinds: Collection[str] = tuple(KINDS)) -> Iterator[Kill]:
    """Kills of some kinds without end; the same for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - moments, not secrets
    while True:
        deck = [kind for kind, count in KINDS.items() if kind in kinds for _ in range(count)]
        draw.shuffle(deck)
        for kind in deck:
            allowed = dict(MOMENTS)
            if kind not in {"driver", "whole tree"}:
                del allowed["other write"]  # the driver writes those
            if kind == "worker":
                del allowed["start"]
            moment = draw.choices(list(allowed), list(allowed.values()))[0]
            yield Kill(
                kind,
                moment,
                delay=draw.random(),
                write=draw.randint(1, 8) if moment != "other write" else 1,
                step=draw.choice(["create", "modify", "move"]),
                choice=draw.random(),
                at_once=draw.random() < 0.5,
            )
