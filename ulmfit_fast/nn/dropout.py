"""``nn.Dropout`` that draws from a run's own generator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ulmfit_fast.core.random import current_generator


class Dropout(nn.Dropout):
    """``nn.Dropout``; within a run (``core.random.drawing_from``) the mask comes from the run's generator."""

    def __init__(self, p: float) -> None:
        if not 0 <= p <= 1:  # nn.Dropout takes NaN
            raise ValueError(f"Dropout: the probability must be in [0, 1], got {p}")
        super().__init__(p)

    def forward(self, input: Tensor) -> Tensor:
        generator = current_generator(input.device)
        if generator is None or not self.training or self.p == 0:
            return super().forward(input)
        mask = torch.empty_like(input).bernoulli_(1 - self.p, generator=generator)
        return input * (mask / (1 - self.p) if self.p < 1 else mask)
