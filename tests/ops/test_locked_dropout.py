"""Rows times the mask of their sequence, against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import library

from tests.ops.cases import batch_sizes_of
from ulmfit_fast import ops
from ulmfit_fast.ops import reference


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lengths", [(1,), (3, 3), (9, 7, 7, 2, 1)], ids=str)
@pytest.mark.parametrize("features", [1, 16, 37, 1152])
def test_equals_reference_to_the_bit(dtype: torch.dtype, lengths: tuple[int, ...], features: int) -> None:
    x = torch.randn(sum(lengths), features).to(dtype).requires_grad_()
    mask = (torch.rand(len(lengths) + 1, features) > 0.3).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    ) / 0.7
    sizes = batch_sizes_of(lengths)
    ours, expected = ops.locked_dropout(x, mask, sizes), reference.locked_dropout(x, mask, sizes)
    assert torch.equal(ours, expected)
    weight = torch.randn_like(ours)
    (grad,), (right,) = (torch.autograd.grad(y, x, weight) for y in (ours, expected))
    assert torch.equal(grad, right)


def test_many_rows_over_threads_and_non_contiguous() -> None:
    sizes = torch.full((400,), 9)
    x, mask = torch.randn(70, 3600).t(), torch.rand(70, 9).t()
    assert torch.equal(ops.locked_dropout(x, mask, sizes), reference.locked_dropout(x, mask, sizes))


def test_opcheck() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    library.opcheck(torch.ops.ulmfit_fast.locked_dropout.default, (x, torch.rand(3, 4), torch.tensor([3, 2])))


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(2, 4), ValueError, "mask must have a row for each of the 3 sequences, got 2"),
        (torch.ones(3, 5), ValueError, r"mask must be as wide as input \(4\), got 5"),
        (torch.ones(3, 4).double(), TypeError, "mask must be Float beside input in Float, got Double"),
    ],
)
def test_bad_mask(mask: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.locked_dropout(torch.ones(5, 4), mask, torch.tensor([3, 2]))
