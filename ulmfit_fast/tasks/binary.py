"""One of two classes by one logit: sigmoid and cross-entropy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.losses import yes_or_no
from ulmfit_fast.tasks.one_label import OneLabel


class Binary(OneLabel):
    """Each text has one of two labels; the logit speaks for the second. Arguments as ``OneLabel``."""

    type: ClassVar[str] = "binary"

    @property
    def outputs(self) -> int:
        return 1

    @classmethod
    def order(cls, classes: list[Label], source: str) -> list[Label]:
        if len(classes) != 2:
            raise InputError(
                f"{source}: the task binary needs two labels, there are {len(classes)}; use the task single_label"
            )
        return classes

    def each(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
        return yes_or_no(logits.squeeze(1), targets, smoothing, gamma)

    def evidence(self, logits: Tensor, place: int | None = None) -> Tensor:
        return self.tempered(logits).squeeze(1) * (1 if place == 1 else -1)

    def activate(self, logits: Tensor) -> Tensor:
        second = self.tempered(logits)
        return torch.cat([-second, second], dim=1).sigmoid()
