"""A product whose rows do not depend on each other, to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.ops.shared import (
    cast_for_autocast,
    native,
    recorded_whole,
    refuse_forward_mode,
    register_autograd,
    register_fake,
)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``input weight^T + bias``; on the CPU a row's bits depend on no other row, nor on the number of threads.

    ``torch.nn.functional.linear`` promises no such thing. Weight and bias may be float32 beside half precision
    ``input``: they are rounded on their way into the product, their gradients are not. Under autocast ``input`` is cast
    to the autocast dtype. Differentiable.

    Args:
        input: [N, F]; float32, float64 or bfloat16; on a GPU float16, too.
        weight: [M, F].
        bias: [M].

    Returns:
        [N, M].

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit.
    """
    refuse_forward_mode("linear", (input, weight, bias))
    x, w, b = cast_for_autocast(input.device, (input,), (weight, bias))
    with recorded_whole():
        return native.linear(x, w, b, False)


@register_fake("linear")
def _(input: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    return input.new_empty((input.shape[0], weight.shape[1 if transposed else 0]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, ctx.transposed = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_x = native.linear(grad, weight, None, not ctx.transposed) if need_x else None
    left, right = (x, grad) if ctx.transposed else (grad, x)
    return (
        grad_x,
        _product(left, right, weight.dtype) if need_weight else None,
        grad.sum(0, dtype=ctx.bias_dtype) if need_bias else None,
        None,
    )


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    """``left^T right`` in ``dtype``, summed in no less than that."""
    with torch.autocast(left.device.type, enabled=False):
        if left.dtype == dtype:
            return left.t() @ right
        if left.device.type == "cuda":
            return torch.mm(left.t(), right, out_dtype=dtype)
        return left.t().to(dtype) @ right.to(dtype)


register_autograd("linear", _backward, setup_context=_setup_context)
