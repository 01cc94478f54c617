"""One of several classes: softmax and cross-entropy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_fast.tasks.losses import focused
from ulmfit_fast.tasks.one_label import OneLabel


class SingleLabel(OneLabel):
    """Each text has one of several labels. Arguments as ``OneLabel``."""

    type: ClassVar[str] = "single_label"
    takes_new_labels: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None and self.class_weight is None and self.focal_gamma == 0:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return super().loss(logits, targets, weights)

    def each(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
        losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
        if gamma == 0:
            return losses
        return focused(losses, logits.softmax(1).gather(1, targets.unsqueeze(1)).squeeze(1), gamma)

    def evidence(self, logits: Tensor, place: int | None = None) -> Tensor:
        assert place is not None
        mine = self.tempered(logits)
        others = torch.cat([mine[:, :place], mine[:, place + 1 :]], dim=1)
        return mine[:, place] - others.logsumexp(1)

    def activate(self, logits: Tensor) -> Tensor:
        return self.tempered(logits).softmax(1)
