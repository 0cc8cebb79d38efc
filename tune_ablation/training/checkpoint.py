"""A training state as bytes and back: one digest over all of it, and nothing in it that could run."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

import torch

SCHEMA = 1
"""Version of what is in a checkpoint; raised when an older one could not be gone on from."""

_HEAD = re.compile(rb"tune-ablation checkpoint (\d+) ([0-9a-f]{64})")


class CheckpointError(Exception):
    """The bytes are no whole checkpoint of this version."""


class NewerError(CheckpointError):
    """The bytes are a whole checkpoint of a later version."""


def _digest(schema: int, payload: bytes) -> str:
    # From the next schema on its number is part of what is digested, so that no flip in it can make an old checkpoint a newer one.
    return hashlib.sha256((b"" if schema == 1 else b"%d " % schema) + payload).hexdigest()


def dump(state: dict[str, Any]) -> bytes:
    """A state of tensors and plain values as bytes, its SHA-256 in front."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return f"tune-ablation checkpoint {SCHEMA} {_digest(SCHEMA, payload)}\n".encode() + payload


def load(content: bytes) -> dict[str, Any]:
    """The state that ``dump`` made bytes of, on the CPU.

    Raises:
        NewerError: a later version wrote it.
        CheckpointError: the content is damaged, or holds anything but tensors and plain values.
    """
    line, newline, payload = content.partition(b"\n")
    head = _HEAD.fullmatch(line)
    if not newline or head is None or head[2].decode() != _digest(int(head[1]), payload):
        raise CheckpointError("damaged: its digest does not match its content")
    if int(head[1]) > SCHEMA:
        raise NewerError(f"written in schema {int(head[1])} by a newer version of tune-ablation, this one reads {SCHEMA}")
    if int(head[1]) < SCHEMA:
        raise CheckpointError(f"written in schema {int(head[1])}, this version reads {SCHEMA}")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"not a training state: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError("not a training state")
    return state
