"""LSTM layers on int8 weights: rows of whole numbers, each with one scale. Forward only, on the CPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ulmfit_fast.ops.lstm_pool import LSTMPoolOutput, PooledState, add_steps
from ulmfit_fast.ops.shared import (
    _C,
    native,
    refuse_backward,
    register_autograd,
    register_fake,
)


class QuantizedRows(NamedTuple):
    """A matrix in int8: row i is ``values[i] * scale[i]``.

    Attributes:
        values: int8 [rows, columns], from -127 to 127.
        scale: float32 [rows], the row's largest absolute value over 127.
    """

    values: Tensor
    scale: Tensor

    def restored(self) -> Tensor:
        """The matrix in float32."""
        return self.values.float() * self.scale.unsqueeze(1)


def quantize_rows(matrix: Tensor) -> QuantizedRows:
    """A matrix in int8. The error of an element is at most half its row's scale."""
    scale = matrix.float().abs().amax(1) / 127
    divisor = torch.where(scale > 0, scale, 1.0)
    return QuantizedRows((matrix / divisor.unsqueeze(1)).round().to(torch.int8), scale)


def lstm_quantized_pack(weight_ih: QuantizedRows, weight_hh: QuantizedRows) -> Tensor:
    """A layer's weights in the form that this processor's kernels multiply by: uint8 [bytes], about one a weight.

    Args:
        weight_ih: [4H, F].
        weight_hh: [4H, H].

    Raises:
        ValueError, TypeError: shapes, devices or dtypes that do not fit.
    """
    return native.lstm_quantized_pack(*weight_ih, *weight_hh)


def lstm_quantized(
    input: Tensor,
    batch_sizes: Tensor,
    h0: Tensor,
    c0: Tensor,
    packed: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """``lstm`` with int8 weights; without a projection, and without a gradient.

    Each row of ``input`` is rounded to whole numbers from -127 to 127 times its largest absolute value over 127; h,
    which lies in [-1, 1], to such over 127 (a row of ``h0`` beyond 1 by its largest). Products are summed exactly;
    gates and cells are float32. The bits are the same on every instruction set, and a row's do not depend on the
    others, on the thread count or on where a sequence is cut.

    Args:
        input: float32 [N, F], packed rows as in ``lstm``.
        batch_sizes, h0, c0, bias_ih, bias_hh, reverse: as in ``lstm``, float32.
        packed: ``lstm_quantized_pack`` of the weights.

    Returns:
        output [N, H], h_n [B, H], c_n [B, H].

    Raises:
        ValueError, TypeError: shapes, devices or dtypes that do not fit.
        RuntimeError: in backward.
    """
    return native.lstm_quantized(input, batch_sizes, h0, c0, packed, bias_ih, bias_hh, reverse)


def lstm_pool_quantized(
    input: Tensor,
    batch_sizes: Tensor,
    h0: Tensor,
    c0: Tensor,
    packed: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    state: PooledState,
) -> LSTMPoolOutput:
    """``lstm_pool`` as ``lstm_quantized`` is to ``lstm``."""
    h_n, c_n, total, maximum, argmax = native.lstm_pool_quantized(
        input, batch_sizes, h0, c0, packed, bias_ih, bias_hh, state.total, state.maximum, state.argmax, state.count,
        state.pool_from,
    )  # fmt: skip
    last = torch.cat([h_n.to(state.last.dtype), state.last[h_n.shape[0] :]])
    pooled = PooledState(total, maximum, argmax, last, add_steps(state.count, batch_sizes), state.pool_from.clone())
    return LSTMPoolOutput(pooled, h_n, c_n, input.new_empty(0), input.new_empty(0))


@register_fake("lstm_quantized_pack")
def _(weight_ih: Tensor, scale_ih: Tensor, weight_hh: Tensor, scale_hh: Tensor) -> Tensor:
    sizes = (weight_ih.shape[1], weight_hh.shape[1], weight_hh.shape[1])
    return weight_ih.new_empty(_C.lstm_packed_bytes("int8", *sizes, False), dtype=torch.uint8)


@register_fake("lstm_quantized")
def _(input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return input.new_empty((input.shape[0], h0.shape[1])), input.new_empty(h0.shape), c0.new_empty(c0.shape)


@register_fake("lstm_pool_quantized")
def _(
    input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, packed: Tensor, bias_ih: Tensor | None,
    bias_hh: Tensor | None, total: Tensor, maximum: Tensor, argmax: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    return (
        input.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        torch.empty_like(total),
        torch.empty_like(maximum),
        torch.empty_like(argmax),
    )


for _op in ("lstm_quantized", "lstm_pool_quantized"):
    register_autograd(_op, refuse_backward(_op, "int8 layers only predict: take the model before quantize()"))
