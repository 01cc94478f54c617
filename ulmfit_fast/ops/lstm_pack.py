"""A layer's weights in the form that the CPU's kernels multiply by, made once for many calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.ops.shared import (
    _C,
    KEEP_STATES,
    autocast_dtype,
    native,
    refuse_backward,
    register_autograd,
    register_fake,
    state_dtype,
)


def lstm_pack(weight_ih: Tensor, weight_hh: Tensor, weight_hr: Tensor | None = None, *, dtype: torch.dtype) -> Tensor:
    """The weights packed for ``lstm(..., packed=)`` and ``lstm_pool(..., packed=)`` on inputs of ``dtype``. On the CPU.

    ``lstm`` otherwise packs them in each call, which takes longer than all the rest of a short sequence. The result is
    this processor's, and a later change of the weights is not in it.

    Args:
        weight_ih, weight_hh, weight_hr: as ``lstm``; in ``dtype``, or in float32 for bfloat16.
        dtype: float32, float64 or bfloat16.

    Returns:
        uint8 [bytes]: as many as the weights have in float32 (in float64 twice, with bfloat16 instructions half).

    Raises:
        ValueError, TypeError: shapes, devices or dtypes that do not fit.
    """
    return native.lstm_pack(weight_ih, weight_hh, weight_hr, dtype)


def compute_dtype(input: Tensor) -> torch.dtype:
    """What ``lstm`` computes in on this input, autocast included: what its weights are packed for."""
    dtype = autocast_dtype(input.device.type)
    return input.dtype if dtype is None or input.dtype == torch.float64 else dtype


# Shapes for tracing: packed weights are those of the processor that traces.


@register_fake("lstm_pack")
def _(weight_ih: Tensor, weight_hh: Tensor, weight_hr: Tensor | None, dtype: torch.dtype) -> Tensor:
    name = str(dtype).removeprefix("torch.")
    projected = weight_hr is not None
    sizes = (weight_ih.shape[1], weight_ih.shape[0] // 4, weight_hh.shape[1])
    return weight_ih.new_empty(_C.lstm_packed_bytes(name, *sizes, projected), dtype=torch.uint8)


@register_fake("lstm_packed")
def _(input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    rows, hidden = input.shape[0], c0.shape[1]
    return (
        input.new_empty((rows, h0.shape[1])),
        input.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        input.new_empty((rows, hidden) if rest[-1] >= KEEP_STATES else (0,), dtype=state_dtype(input.dtype)),
    )


@register_fake("lstm_pool_packed")
def _(
    input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor,
    bias_ih: Tensor | None, bias_hh: Tensor | None, total: Tensor, maximum: Tensor, argmax: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    kept = (input.shape[0], c0.shape[1]) if rest[-1] >= KEEP_STATES else (0,)
    return (
        input.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        torch.empty_like(total),
        torch.empty_like(maximum),
        torch.empty_like(argmax),
        input.new_empty(kept),
        input.new_empty(kept, dtype=state_dtype(input.dtype)),
    )


for _op in ("lstm_packed", "lstm_pool_packed"):  # which the functions call where no gradient is wanted
    register_autograd(_op, refuse_backward(_op, "call it without packed"))
