"""The product whose rows are independent, against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, library

from ulmfit_fast import ops
from ulmfit_fast.ops import reference

native = torch.ops.ulmfit_fast.linear
SIZES = [
    (1, 1, 1),
    (1, 5, 3),
    (3, 7, 130),
    (9, 33, 65),
    (300, 40, 17),
    (70, 200, 96),
    (0, 4, 5),
]  # rows, depth, columns
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 5e-2}


def draw(rows: int, depth: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = torch.randn(rows, depth), torch.randn(columns, depth) / depth**0.5, torch.randn(columns)
    return tuple(t.to(dtype).requires_grad_() for t in (x, w, b))  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_equals_torch(sizes: tuple[int, int, int], dtype: torch.dtype, bias: bool) -> None:
    inputs = [t for t in draw(*sizes, dtype) if bias or t.dim() == 2]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    ours, expected = ops.linear(*inputs), F.linear(*exact)
    torch.testing.assert_close(expected, reference.linear(*exact))
    weight = torch.randn(ours.shape).to(dtype)
    grads, right = torch.autograd.grad(ours, inputs, weight), torch.autograd.grad(expected, exact, weight.double())
    for mine, theirs in zip((ours, *grads), (expected, *right), strict=True):
        assert mine.dtype == dtype
        scale = TOLERANCE[dtype] * max(1, sizes[0] if mine is not ours else 1) ** 0.5
        torch.testing.assert_close(mine.double(), theirs, atol=scale, rtol=scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_row_depends_on_no_other_row_nor_on_threads(dtype: torch.dtype) -> None:
    for depth, columns in ((40, 33), (1600, 300), (31, 900)):
        x, w, b = draw(400, depth, columns, dtype)
        whole = ops.linear(x, w, b)
        (grad,) = torch.autograd.grad(whole, x, whole.detach())
        before = torch.get_num_threads()
        for rows in (1, 2, 5, 6, 7, 13, 49, 241):
            torch.set_num_threads(1 + rows % 3)
            some = x.detach()[:rows].requires_grad_()
            part = ops.linear(some, w, b)
            assert torch.equal(part, whole[:rows])
            assert torch.equal(torch.autograd.grad(part, some, whole[:rows].detach())[0], grad[:rows])
        torch.set_num_threads(before)


def test_not_contiguous() -> None:
    x, w = torch.randn(30, 20).t(), torch.randn(30, 17).t()
    torch.testing.assert_close(ops.linear(x, w), x @ w.t())


@pytest.mark.parametrize("transposed", [False, True])
def test_gradcheck_and_opcheck(transposed: bool) -> None:
    x, w, b = draw(6, 5, 9, torch.float64)
    w = w.detach().t().contiguous().requires_grad_() if transposed else w
    assert torch.autograd.gradcheck(lambda *t: native(*t, transposed), (x, w, b))
    assert torch.autograd.gradgradcheck(lambda *t: native(*t, transposed), (x, w, b))
    library.opcheck(native.default, (x, w, b, transposed))
    library.opcheck(native.default, (x, w, None, transposed))


def test_master_weights_and_autocast() -> None:
    x, w, b = draw(50, 40, 30)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ops.linear(x, w, b)
        grads = torch.autograd.grad(y.float().sum(), (x, w, b))
    assert y.dtype == torch.bfloat16
    rounded = [t.bfloat16().double() for t in (x, w)]
    torch.testing.assert_close(y.double(), F.linear(*rounded, b.double()), atol=2e-2, rtol=1e-2)
    assert {g.dtype for g in grads} == {torch.float32}
    torch.testing.assert_close(grads[1], x.bfloat16().float().sum(0).expand(30, 40), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(grads[2], torch.full((30,), 50.0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({1: torch.ones(3, 5)}, ValueError, r"weight must take 4 features of input, got shape \[3, 5\]"),
        ({2: torch.ones(4)}, ValueError, r"bias must have shape \[3\], got \[4\]"),
        ({0: torch.ones(4)}, ValueError, r"input and weight must be \[rows, columns\]"),
        ({0: torch.ones(2, 4, dtype=torch.int64)}, TypeError, "input must be floating point, got Long"),
        ({1: torch.ones(3, 4).double()}, TypeError, r"weight must have the dtype of input \(Float\), got Double"),
        ({0: torch.ones(2, 4).half(), 1: torch.ones(3, 4).half(), 2: None}, TypeError, "on CPU input must be float32"),
    ],
)
def test_bad_arguments(change: dict[int, Tensor], error: type[Exception], message: str) -> None:
    arguments = [change.get(i, t) for i, t in enumerate((torch.ones(2, 4), torch.ones(3, 4), torch.ones(3)))]
    with pytest.raises(error, match=rf"ulmfit_fast\.ops\.linear: .*{message}"):
        ops.linear(*arguments)
