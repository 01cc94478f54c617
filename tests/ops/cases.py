"""Inputs of the ``lstm`` op for the tests, and how far results may be from the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# (absolute, relative) by dtype. float64: rounding only. float32: sums over up to 600 terms, and polynomials for exp
# and tanh. bfloat16: h is rounded to 8 bits after every step on both sides; the reference also rounds inside a step.
TOLERANCE = {torch.float64: (1e-11, 1e-10), torch.float32: (2e-5, 2e-4), torch.bfloat16: (6e-2, 6e-2)}


@dataclass(frozen=True)
class Case:
    name: str
    lengths: tuple[int, ...]  # longest first
    input_size: int = 5
    hidden: int = 7
    projection: int = 0
    bias: bool = True
    p: float = 0.0
    reverse: bool = False

    def __str__(self) -> str:
        return self.name

    def arguments(self, dtype: torch.dtype, requires_grad: bool = True) -> dict[str, Any]:
        """Arguments of ``ops.lstm``, scaled to keep gates away from saturation and gradients near one."""
        generator = torch.Generator().manual_seed(len(self.name))

        def draw(*shape: int) -> Tensor:
            values = torch.randn(shape, generator=generator, dtype=torch.float64) / shape[-1] ** 0.5
            return values.to(dtype).requires_grad_(requires_grad)

        state, gates, batch = self.projection or self.hidden, 4 * self.hidden, len(self.lengths)
        return {
            "input": draw(sum(self.lengths), self.input_size),
            "batch_sizes": batch_sizes_of(self.lengths),
            "h0": draw(batch, state),
            "c0": draw(batch, self.hidden),
            "weight_ih": draw(gates, self.input_size),
            "weight_hh": draw(gates, state),
            "bias_ih": draw(gates) if self.bias else None,
            "bias_hh": draw(gates) if self.bias else None,
            "weight_hr": draw(self.projection, self.hidden) if self.projection else None,
            "weight_dropout": self.p,
            "seed": torch.tensor(1234567890123),
            "reverse": self.reverse,
        }


def batch_sizes_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([sum(length > t for length in lengths) for t in range(max(lengths))])


CASES = [
    Case("dense", (6, 6, 6)),
    Case("ragged", (9, 7, 7, 2, 1)),
    Case("one step", (1, 1, 1, 1)),
    Case("one row", (11,)),
    Case("one row, one step", (1,)),
    Case("one unit", (4, 2), 1, 1),
    Case("no bias", (5, 3), bias=False),
    Case("weight drop, dense", (6, 6), p=0.5),
    Case("weight drop, ragged", (9, 4, 1), p=0.3),
    Case("reverse, ragged", (8, 8, 5, 1), reverse=True),
    Case("reverse, weight drop", (8, 5, 1), p=0.5, reverse=True),
    Case("projection", (7, 3, 3), projection=3),
    Case("projection, reverse, weight drop", (7, 3, 1), projection=3, p=0.4, reverse=True),
    Case("whole vectors", (5, 5, 2), 16, 64),
    Case("odd sizes", (4, 3, 3, 3, 3, 2, 1), 33, 67, p=0.2),
    Case("many rows", tuple(sorted((1 + 7 * i % 13 for i in range(47)), reverse=True)), 20, 24),
    Case("several projection chunks", (300, 299, 150), 9, 17),
    Case("deep sums", (3, 2), 600, 180),
    Case("wide projection", (4, 4, 1), 12, 90, projection=70),
]
