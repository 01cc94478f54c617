"""One LSTM layer over packed rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.ops.shared import (
    KEEP_FOR_BACKWARD,
    KEEP_NOTHING,
    KEEP_STATES,
    cast_for_autocast,
    empty_gradients,
    native,
    recorded_whole,
    refuse_double_backward,
    refuse_forward_mode,
    register_autograd,
    register_fake,
    seed_or_drawn,
    state_dtype,
    wants_gradient,
)


def lstm(
    input: Tensor,
    batch_sizes: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    weight_hr: Tensor | None = None,
    *,
    weight_dropout: float = 0.0,
    seed: Tensor | None = None,
    reverse: bool = False,
    bptt: int = 0,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one LSTM layer over packed rows, with DropConnect on the recurrent weight.

    ``a_t = x_t W_ih^T + b_ih + h_{t-1} (M * W_hh)^T / (1-p) + b_hh``, gates in torch's order i, f, g, o. With
    ``weight_dropout=0`` equal to one layer of ``torch.nn.LSTM``. Weights and biases may be float32 beside half
    precision ``input``: they are rounded on their way into the products, their gradients are not. Under autocast
    ``input`` and ``h0`` are cast to the autocast dtype. Differentiable once, in training and in eval mode.

    Args:
        input: [N, F], rows of all time steps, time-major, longest sequence first, as in ``PackedSequence.data``.
            float32, float64 or bfloat16; on a GPU float16, too.
        batch_sizes: int64 [T] on CPU, positive, non-increasing, sum N: rows of each step. All zeros for an empty batch.
        h0: [B, H] with B = batch_sizes[0] ([B, P] with a projection).
        c0: [B, H], in the input's dtype, or in float32 for half precision: cell states are float32 inside.
        weight_ih: [4H, F].
        weight_hh: [4H, H] ([4H, P]).
        bias_ih, bias_hh: [4H], both or neither.
        weight_hr: [P, H], the projection ``h = W_hr (o * tanh(c))``.
        weight_dropout: p in [0, 1), probability of dropping an element of ``weight_hh`` for the whole call.
        seed: int64, one element, chooses the mask; drawn from torch's generator where None and p > 0.
        reverse: run each sequence from its last step to its first.
        bptt: if positive, gradients do not cross multiples of this many steps, as if the state were detached there
            (truncated back-propagation through time). Forward is the same; backward runs all chunks side by side.
        packed: ``lstm_pack`` of these weights for the dtype of computation, which spares packing them. The result is
            the same. Taken where nothing is dropped and no gradient may be wanted.

    Returns:
        output [N, H or P], h_n [B, H or P] and c_n [B, H] (in c0's dtype): each sequence's states after its last
        computed step.

    Raises:
        ValueError: shapes that do not fit, tensors on different devices, batch_sizes that increase or hold zeros
            beside rows, p outside [0, 1), bptt negative or together with reverse.
        TypeError: dtypes that differ or are not supported.

    Source: Merity et al., "Regularizing and Optimizing LSTM Language Models" (arXiv 1708.02182), section 2.
    """
    refuse_forward_mode("lstm", (input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr))
    floats = (input, h0, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    x, h, w_ih, w_hh, b_ih, b_hh, w_hr = cast_for_autocast(input.device, floats[:2], floats[2:])
    wanted = wants_gradient((*floats, c0))
    if packed is not None and not wanted and weight_dropout == 0:
        output, h_n, c_n, _ = native.lstm_packed(
            x, batch_sizes, h, c0, w_ih, w_hh, b_ih, b_hh, w_hr, packed, reverse, KEEP_NOTHING
        )
        return output, h_n, c_n
    seed = seed_or_drawn(seed, weight_dropout, input.device)
    keep = KEEP_FOR_BACKWARD if wanted else KEEP_NOTHING
    with recorded_whole():
        output, h_n, c_n, _, _ = native.lstm(
            x, batch_sizes, h, c0, w_ih, w_hh, b_ih, b_hh, w_hr, seed, weight_dropout, reverse, bptt, keep
        )
    return output, h_n, c_n


def lstm_with_cells(
    input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor,
    bias_hh: Tensor, *, weight_dropout: float = 0.0, seed: Tensor | None = None, packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``lstm`` without a graph, and the cell state of every row, [N, H] in float32 (float64 for float64), besides."""
    floats = (input, h0, weight_ih, weight_hh, bias_ih, bias_hh)
    x, h, w_ih, w_hh, b_ih, b_hh = cast_for_autocast(input.device, floats[:2], floats[2:])
    if packed is not None and weight_dropout == 0:
        with torch.no_grad():
            return native.lstm_packed(x, batch_sizes, h, c0, w_ih, w_hh, b_ih, b_hh, None, packed, False, KEEP_STATES)
    seed = seed_or_drawn(seed, weight_dropout, input.device)
    with torch.no_grad():
        output, h_n, c_n, _, cells = native.lstm(
            x, batch_sizes, h, c0, w_ih, w_hh, b_ih, b_hh, None, seed, weight_dropout, False, 0, KEEP_STATES
        )
    return output, h_n, c_n, cells


# Shapes for tracing.


@register_fake("lstm")
def _(input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    keep = rest[-1]
    rows, hidden = input.shape[0], c0.shape[1]
    return (
        input.new_empty((rows, h0.shape[1])),
        input.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        input.new_empty((rows, 4 * hidden) if keep >= KEEP_FOR_BACKWARD else (0,)),
        input.new_empty((rows, hidden) if keep >= KEEP_STATES else (0,), dtype=state_dtype(input.dtype)),
    )


@register_fake("lstm_backward")
def _(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_c_n: Tensor | None,
    input: Tensor,
    batch_sizes: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    weight_hr: Tensor | None,
    seed: Tensor,
    weight_dropout: float,
    reverse: bool,
    bptt: int,
    output: Tensor,
    gates: Tensor,
    cells: Tensor,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    return empty_gradients(input, h0, c0, weight_ih, weight_hh, weight_hr, needs)


# Autograd.


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, batch_sizes, h0, c0, weight_ih, weight_hh, _, _, weight_hr, seed, weight_dropout, reverse, bptt, _ = inputs
    out, _, _, gates, cells = output
    ctx.save_for_backward(x, batch_sizes, h0, c0, weight_ih, weight_hh, weight_hr, seed, out, gates, cells)
    ctx.weight_dropout, ctx.reverse, ctx.bptt = weight_dropout, reverse, bptt
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    x, batch_sizes, h0, c0, weight_ih, weight_hh, weight_hr, seed, out, gates, cells = ctx.saved_tensors
    grad_output, grad_h_n, grad_c_n, _, _ = grads
    need_x, _, need_h0, need_c0, need_ih, need_hh, need_b_ih, need_b_hh, need_hr = ctx.needs_input_grad[:9]
    if grad_output is None and grad_h_n is None and grad_c_n is None:
        return (None,) * 14
    needs = [need_x, need_h0 or need_c0, need_ih, need_hh, need_b_ih or need_b_hh, need_hr]
    grad_x, grad_h0, grad_c0, grad_ih, grad_hh, grad_bias, grad_hr = native.lstm_backward(
        grad_output, grad_h_n, grad_c_n, x, batch_sizes, h0, c0, weight_ih, weight_hh, weight_hr, seed,
        ctx.weight_dropout, ctx.reverse, ctx.bptt, out, gates, cells, needs,
    )  # fmt: skip
    return (
        grad_x if need_x else None,
        None,
        grad_h0 if need_h0 else None,
        grad_c0 if need_c0 else None,
        grad_ih if need_ih else None,
        grad_hh if need_hh else None,
        grad_bias if need_b_ih else None,
        grad_bias.clone() if need_b_hh else None,
        grad_hr if need_hr else None,
        *(None,) * 5,
    )


register_autograd("lstm", _backward, setup_context=_setup_context)
register_autograd("lstm_backward", refuse_double_backward)
