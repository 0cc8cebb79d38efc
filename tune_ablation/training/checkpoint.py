"""A training state as bytes and back: one digest over all of it, and nothing in it that could run."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch

_MAGIC = b"tune-ablation checkpoint 1 "


class CheckpointError(Exception):
    """The bytes are no whole checkpoint of this version."""


def dump(state: dict[str, Any]) -> bytes:
    """A state of tensors and plain values as bytes, its SHA-256 in front."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    return _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def load(content: bytes) -> dict[str, Any]:
    """The state that ``dump`` made bytes of, on the CPU.

    Raises:
        CheckpointError: the content is damaged, or holds anything but tensors and plain values.
    """
    head, newline, payload = content.partition(b"\n")
    if not newline or head != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
        raise CheckpointError("damaged: its digest does not match its content")
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"not a training state: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError("not a training state")
    return state
