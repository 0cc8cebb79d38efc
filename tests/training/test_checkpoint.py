"""A checkpoint comes back whole or not at all, and nothing in one is ever run."""

# ruff: noqa: S311 - seeded draws decide what is tried, nothing secret

from __future__ import annotations

import hashlib
import io
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tune_ablation.training.checkpoint import SCHEMA, CheckpointError, NewerError, dump, load

STATE: dict[str, Any] = {
    "trial": "resnet18_origin/search/000",
    "lr": 0.1,
    "rows": [{"epoch": 1, "val_acc1": None, "diverged": False}],
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
}
CONTENT = dump(STATE)


def test_a_state_comes_back() -> None:
    state = load(CONTENT)
    assert torch.equal(state["model"].pop("weight"), STATE["model"]["weight"])
    assert torch.equal(state["model"].pop("half"), STATE["model"]["half"])
    assert state == STATE | {"model": {}}


def test_tensors_keep_their_memory_layout() -> None:
    weight = torch.randn(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    assert load(dump({"weight": weight}))["weight"].is_contiguous(memory_format=torch.channels_last)


def test_every_flip_is_noticed() -> None:
    rng = random.Random(0)
    header = CONTENT.index(b"\n") + 1
    for place in [*range(header + 8), *rng.sample(range(header, len(CONTENT)), 200), len(CONTENT) - 1]:
        with pytest.raises(CheckpointError):
            load(CONTENT[:place] + bytes([CONTENT[place] ^ (1 << rng.randrange(8))]) + CONTENT[place + 1 :])


def test_every_truncation_is_noticed() -> None:
    for length in [*range(120), *range(120, len(CONTENT), 37), len(CONTENT) - 1]:
        with pytest.raises(CheckpointError):
            load(CONTENT[:length])
    with pytest.raises(CheckpointError):
        load(CONTENT + b"\0")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


def sealed(payload: bytes, schema: int = SCHEMA) -> bytes:
    """With the right digest: as someone who means harm would."""
    digested = payload if schema == 1 else b"%d " % schema + payload
    return f"tune-ablation checkpoint {schema} {hashlib.sha256(digested).hexdigest()}\n".encode() + payload


def test_a_checkpoint_of_a_newer_version_is_told_from_a_damaged_one() -> None:
    payload = CONTENT.partition(b"\n")[2]
    assert load(sealed(payload)).keys() == STATE.keys()
    with pytest.raises(NewerError, match=f"schema {SCHEMA + 1} by a newer version of tune-ablation, this one reads {SCHEMA}"):
        load(sealed(payload, SCHEMA + 1))
    with pytest.raises(CheckpointError, match="damaged"):
        load(CONTENT.replace(b"checkpoint 1 ", b"checkpoint 3 ", 1))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    buffer = io.BytesIO()
    torch.save({"model": Trap(trap)}, buffer)
    for payload in (buffer.getvalue(), pickle.dumps({"model": Trap(trap)}), pickle.dumps(Trap(trap), protocol=2)):
        with pytest.raises(CheckpointError):
            load(sealed(payload))
    assert not trap.exists()
    pickle.loads(pickle.dumps(Trap(trap)))  # noqa: S301 - shows that the trap works
    assert trap.exists()


@pytest.mark.parametrize("payload", [b"", b"junk", b"PK\x03\x04", pickle.dumps([1])])
def test_what_holds_no_state_is_refused(payload: bytes) -> None:
    with pytest.raises(CheckpointError):
        load(sealed(payload))
    with pytest.raises(CheckpointError):
        load(payload)


def test_a_list_is_no_state() -> None:
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    with pytest.raises(CheckpointError, match="not a training state"):
        load(sealed(buffer.getvalue()))
