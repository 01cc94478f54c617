"""The ``embedding`` op against its reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, library

from ulmfit_fast import ops
from ulmfit_fast.ops import reference

DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def draw(
    tokens: int, known: int, features: int, dtype: torch.dtype, drop: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(tokens)
    weight = torch.randn(known, features, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    mask_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    mask = (torch.rand(known, generator=generator) < 0.7).to(mask_dtype) / 0.75 if drop else None
    return torch.randint(0, known, (tokens,), generator=generator), weight, mask


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 3, 5), (200, 40, 130), (33, 5000, 17), (0, 4, 3)], ids=str)
def test_against_the_reference(sizes: tuple[int, int, int], dtype: torch.dtype, drop: bool) -> None:
    tokens, weight, mask = draw(*sizes, dtype, drop)
    ours, theirs = ops.embedding(tokens, weight, mask), reference.embedding(tokens, weight, mask)
    assert torch.equal(ours, theirs)
    upstream = torch.randn(ours.shape, dtype=torch.float64).to(dtype)
    (mine,) = torch.autograd.grad(ours, weight, upstream)
    exact_weight = weight.detach().double().requires_grad_()
    exact = reference.embedding(tokens, exact_weight, None if mask is None else mask.double())
    (expected,) = torch.autograd.grad(exact, exact_weight, upstream.double())
    # bfloat16: one rounding at the end, not one an addition.
    torch.testing.assert_close(mine, expected.to(dtype), atol=1e-6 if dtype == torch.float32 else 1e-9, rtol=8e-3)


def test_bits_do_not_depend_on_threads() -> None:
    tokens, weight, mask = draw(500, 30, 200, torch.float32, True)
    upstream = torch.randn(500, 200)
    whole = torch.autograd.grad(ops.embedding(tokens, weight, mask), weight, upstream)[0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 3)
        assert torch.equal(torch.autograd.grad(ops.embedding(tokens, weight, mask), weight, upstream)[0], whole)
    finally:
        torch.set_num_threads(threads)


def test_gradcheck_and_opcheck() -> None:
    tokens, weight, mask = draw(6, 4, 3, torch.float64, True)
    assert torch.autograd.gradcheck(lambda w: ops.embedding(tokens, w, mask), weight)
    library.opcheck(torch.ops.ulmfit_fast.embedding.default, (tokens, weight, mask))
    library.opcheck(torch.ops.ulmfit_fast.embedding.default, (tokens, weight, None))


def test_second_derivatives_are_refused() -> None:
    tokens, weight, mask = draw(6, 4, 3, torch.float64, True)
    grad = torch.autograd.grad(ops.embedding(tokens, weight, mask).square().sum(), weight, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        grad.square().sum().backward()
    with pytest.raises(TypeError, match="mask must be Double beside grad in Double, got Float"):
        torch.ops.ulmfit_fast.embedding_backward(torch.ones(6, 3).double(), tokens, torch.ones(4), 4)


@pytest.mark.parametrize(
    ("tokens", "mask", "error", "message"),
    [
        (torch.tensor([0, 4]), None, IndexError, r"tokens\[1\] must be in \[0, 4\), got 4"),
        (torch.tensor([-1]), None, IndexError, r"tokens\[0\] must be in \[0, 4\), got -1"),
        (torch.tensor([0.5]), None, TypeError, "tokens must be int64, got Float"),
        (torch.tensor([[0]]), None, ValueError, "tokens must be one-dimensional"),
        (torch.tensor([0]), torch.ones(3), ValueError, r"mask must have shape \[4\], got \[3\]"),
        (torch.tensor([0]), torch.ones(4).double(), TypeError, "mask must be Float beside weight in Float, got Double"),
    ],
)
def test_bad_arguments(tokens: Tensor, mask: Tensor | None, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.embedding(tokens, torch.zeros(4, 3), mask)
