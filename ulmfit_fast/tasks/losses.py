"""What the losses of several tasks are made of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focused(losses: Tensor, probability: Tensor, gamma: float) -> Tensor:
    """Focal loss: each loss times (1 - p)^gamma, p being the probability of what is true.

    Source: Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, equation 4.
    """
    return losses if gamma == 0 else (1 - probability).clamp(min=0) ** gamma * losses


def yes_or_no(logits: Tensor, targets: Tensor, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
    """Cross-entropy of independent questions, of the logits' shape; ``targets`` are 0 or 1.

    Args:
        logits, targets: of one shape.
        smoothing: share of the true answer's probability that goes evenly to both.
        gamma: of ``focused``.
    """
    targets = targets.to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / 2, reduction="none")
    return focused(losses, (logits * (2 * targets - 1)).sigmoid(), gamma)


def weighted_mean(losses: Tensor, counts: Tensor) -> Tensor:
    """The mean of ``losses`` by what each counts. Of losses that count nothing it is 0, with no gradient and no NaN."""
    return (losses * counts).sum() / counts.sum().clamp(min=torch.finfo(losses.dtype).tiny)
