"""What all trials of one run share, as the driver hands it to the workers."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Session:
    """What all trials of one run share; travels to every worker.

    Attributes:
        experiment: the experiment, resolved.
        storage: path or URI of the experiment's results folder.
        claim: the driver's, without which nothing is written there; see ``only_driver``.
        data: the data set's path on every node, None for drawn images.
        cache: folder of the decoded images on every node.
        fingerprint: what the data must be.
        precision: ``fp32`` or ``bf16``.
        threads: CPU threads a trial.
        use_gpu: whether trials train on a GPU.
        keep_checkpoints: keep the weights of finished trials.
    """

    experiment: dict[str, Any]
    storage: str
    claim: str | None
    data: str | None
    cache: str
    fingerprint: str
    precision: str
    threads: int
    use_gpu: bool
    keep_checkpoints: bool
