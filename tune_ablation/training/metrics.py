"""Cross-entropy, acc@1, acc@k and macro-F1, summed on the device and read off once an epoch."""

from __future__ import annotations

import torch
from torch.nn import functional


class Meter:
    """Sums over batches; nothing leaves the device before ``measures``.

    Args:
        classes: number of classes.
        device: where the logits are.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        self._k = min(5, classes)
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._hits = torch.zeros(2, dtype=torch.int64, device=device)  # top 1, top k
        self._counts = torch.zeros(3, classes, dtype=torch.int64, device=device)  # true positives, predicted, labelled
        self._images = 0

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count one batch.

        Args:
            logits: [B, classes], any float type.
            labels: [B] int64.
        """
        logits = logits.detach().float()
        predicted = logits.argmax(1)
        hit = predicted == labels
        # A label is within the top k if fewer than k classes stand before it. Of equal scores the higher class stands first, as in
        # scikit-learn's top_k_accuracy_score: bf16 makes many, and a collapsed network must not score 100 %.
        own = logits.gather(1, labels[:, None])
        later = torch.arange(logits.shape[1], device=logits.device) > labels[:, None]
        above = ((logits > own) | ((logits == own) & later)).sum(1)
        self._loss += functional.cross_entropy(logits, labels, reduction="sum")
        self._hits += torch.stack((hit.sum(), (above < self._k).sum()))
        ones = torch.ones_like(labels)
        self._counts[0].scatter_add_(0, labels, hit.to(torch.int64))
        self._counts[1].scatter_add_(0, predicted, ones)
        self._counts[2].scatter_add_(0, labels, ones)
        self._images += len(labels)

    def measures(self) -> dict[str, float]:
        """The measures named in ``records.HIGHER_IS_BETTER``.

        Returns:
            ``loss``: mean cross-entropy in nats; ``acc1``, ``acc5`` (acc@k with fewer than five classes) and ``f1`` in percent.
            Macro-F1 is the unweighted mean of 2 TP / (predicted + labelled) over the classes that were labelled or predicted,
            as scikit-learn's ``f1_score(average="macro")``.
        """
        hits = self._hits.cpu().double() / self._images * 100
        true_positives, predicted, labelled = self._counts.cpu().double()
        occurring = (predicted + labelled) > 0
        f1 = (2 * true_positives[occurring] / (predicted + labelled)[occurring]).mean() * 100
        return {
            "loss": float(self._loss) / self._images,
            "acc1": float(hits[0]),
            "acc5": float(hits[1]),
            "f1": float(f1),
        }
