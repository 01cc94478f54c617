"""One LSTM layer over packed rows whose states are pooled over time instead of returned."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    sequence_lengths,
    state_dtype,
    wants_gradient,
)


class PooledState(NamedTuple):
    """Pooling over time of D documents with H features, carried from call to call.

    ``maximum`` and ``last`` are float32 (float64 with float64 states). Steps are added one by one, so the result does
    not depend, to the bit, on where calls begin and end.

    Attributes:
        total: float64 [D, H], the running sum. In float32 it would lose the mean of a million steps.
        maximum: [D, H], the running maximum, -inf before the first step.
        argmax: int32 [D, H], the document's step of the maximum, the first of equal ones; -1 before the first step.
        last: [D, H], the latest state.
        count: int64 [D], steps that the document has had.
        pool_from: int64 [D], the first step that is pooled.
    """

    total: Tensor
    maximum: Tensor
    argmax: Tensor
    last: Tensor
    count: Tensor  # type: ignore[assignment]
    pool_from: Tensor

    @classmethod
    def empty(
        cls, documents: int, features: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> PooledState:
        """Before the first step; ``dtype`` of the states to come."""
        zeros = torch.zeros(documents, features, dtype=state_dtype(dtype), device=device)
        argmax = torch.full((documents, features), -1, dtype=torch.int32, device=device)
        count = torch.zeros(documents, dtype=torch.int64, device=device)
        total = torch.zeros_like(zeros, dtype=torch.float64)
        return cls(total, torch.full_like(zeros, -torch.inf), argmax, zeros, count, count.clone())

    def pooled(self) -> Tensor:
        """``[h_last, max, mean]``, [D, 3H] (concat pooling; Howard and Ruder, arXiv 1801.06146, section 3.3)."""
        pooled_steps = (self.count - self.pool_from).unsqueeze(1)
        mean = (self.total / pooled_steps).to(self.last.dtype)
        return torch.cat([self.last, self.maximum, mean], dim=1)


class LSTMPoolOutput(NamedTuple):
    """What ``lstm_pool`` returns.

    Attributes:
        state: the new pooled state.
        h_n: [B, H], each sequence's last state.
        c_n: [B, H], each sequence's last cell state, in c0's dtype.
        output: [N, H] with ``keep_states``, else empty. No gradient flows through it.
        cells: [N, H] with ``keep_states``, else empty. No gradient flows through it.
    """

    state: PooledState
    h_n: Tensor
    c_n: Tensor
    output: Tensor
    cells: Tensor


def lstm_pool(
    input: Tensor,
    batch_sizes: Tensor,
    h0: Tensor,
    c0: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    state: PooledState,
    *,
    weight_dropout: float = 0.0,
    seed: Tensor | None = None,
    bptt: int = 0,
    keep_states: bool = False,
    packed: Tensor | None = None,
) -> LSTMPoolOutput:
    """``lstm`` whose states go into a pooled state. Without a gradient to compute, no states are held at all.

    Equal to ``lstm`` and then, over each sequence's steps, a running sum and maximum of its output. Differentiable
    once, with respect to all floating arguments, ``state.total`` and ``state.maximum`` included.

    Args:
        input, batch_sizes, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_dropout, seed, bptt: as ``lstm``.
        state: of D >= B documents, row r of the batch belonging to document r; the others come back as they were. Not
            changed.
        keep_states: return ``output`` and ``cells`` of every step too.

    Returns:
        The new pooled state, h_n, c_n, and with ``keep_states`` output and cells.

    Raises:
        ValueError, TypeError: as ``lstm``, and for a state of other shapes or dtypes.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3 (concat pooling, BPT3C).
    """
    floats = (input, h0, weight_ih, weight_hh, bias_ih, bias_hh)
    differentiable = (*floats, c0, state.total, state.maximum)
    refuse_forward_mode("lstm_pool", differentiable)
    shape = state.maximum.shape
    if state.last.device != input.device or state.last.shape != shape:  # which the op does not see
        raise ValueError(
            f"ulmfit_fast.ops.lstm_pool: state.last must have the shape of state.maximum ({tuple(shape)}) and be on "
            f"the device of input ({input.device}), got {tuple(state.last.shape)} on {state.last.device}"
        )
    x, h, w_ih, w_hh, b_ih, b_hh = cast_for_autocast(input.device, floats[:2], floats[2:])
    keep = KEEP_STATES if keep_states else KEEP_NOTHING
    wanted = wants_gradient(differentiable)
    pool = (state.total, state.maximum, state.argmax, state.count, state.pool_from)
    if packed is not None and not wanted and weight_dropout == 0:
        h_n, c_n, total, maximum, argmax, output, cells = native.lstm_pool_packed(
            x, batch_sizes, h, c0, w_ih, w_hh, b_ih, b_hh, *pool, packed, keep
        )
    else:
        seed = seed_or_drawn(seed, weight_dropout, input.device)
        with recorded_whole():
            h_n, c_n, total, maximum, argmax, output, _, cells = native.lstm_pool(
                x, batch_sizes, h, c0, w_ih, w_hh, b_ih, b_hh, *pool, seed, weight_dropout, bptt,
                KEEP_FOR_BACKWARD if wanted else keep,
            )  # fmt: skip
    batch = h_n.shape[0]
    last = torch.cat([h_n.to(state.last.dtype), state.last[batch:]])
    count, pool_from = add_steps(state.count, batch_sizes), state.pool_from.clone()
    pooled = PooledState(total, maximum, argmax, last, count, pool_from)
    return LSTMPoolOutput(pooled, h_n, c_n, output.detach(), cells.detach())


def add_steps(count: Tensor, batch_sizes: Tensor) -> Tensor:
    """``count`` [D] and the steps of each row's sequence. On a GPU nothing is copied there and nothing waits for it."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # in operators that every backend knows
        steps = sequence_lengths(batch_sizes).to(count.device, non_blocking=True)
        rows = steps.shape[0]
        return torch.cat([count[:rows] + steps, count[rows:]])
    return native.add_steps(count, batch_sizes)


@register_fake("add_steps")
def _(count: Tensor, batch_sizes: Tensor) -> Tensor:
    return torch.empty_like(count)


@register_fake("lstm_pool")
def _(
    input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor,
    bias_ih: Tensor | None, bias_hh: Tensor | None, total: Tensor, maximum: Tensor, argmax: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    keep = rest[-1]
    rows, hidden = input.shape[0], c0.shape[1]
    return (
        input.new_empty(h0.shape),
        c0.new_empty(c0.shape),
        torch.empty_like(total),
        torch.empty_like(maximum),
        torch.empty_like(argmax),
        input.new_empty((rows, hidden) if keep >= KEEP_STATES else (0,)),
        input.new_empty((rows, 4 * hidden) if keep >= KEEP_FOR_BACKWARD else (0,)),
        input.new_empty((rows, hidden) if keep >= KEEP_STATES else (0,), dtype=state_dtype(input.dtype)),
    )


@register_fake("lstm_pool_backward")
def _(
    grad_h_n: Tensor | None, grad_c_n: Tensor | None, grad_total_n: Tensor | None, grad_maximum_n: Tensor | None,
    input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, weight_ih: Tensor, weight_hh: Tensor, *rest: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    return empty_gradients(input, h0, c0, weight_ih, weight_hh, None, rest[-1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, batch_sizes, h0, c0, weight_ih, weight_hh, _, _, _, _, _, count, pool_from, seed, p, bptt, _ = inputs
    _, _, _, _, argmax, states, gates, cells = output
    ctx.save_for_backward(
        x, batch_sizes, h0, c0, weight_ih, weight_hh, argmax, count, pool_from, seed, states, gates, cells
    )
    ctx.weight_dropout, ctx.bptt = p, bptt
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    x, batch_sizes, h0, c0, weight_ih, weight_hh, argmax, count, pool_from, seed, output, gates, cells = (
        ctx.saved_tensors
    )
    grad_h_n, grad_c_n, grad_total, grad_maximum = grads[:4]
    need_x, _, need_h0, need_c0, need_ih, need_hh, need_b_ih, need_b_hh, need_total, need_maximum = (
        ctx.needs_input_grad[:10]
    )
    if grad_h_n is None and grad_c_n is None and grad_total is None and grad_maximum is None:
        return (None,) * 17
    needs = [need_x, need_h0 or need_c0, need_ih, need_hh, need_b_ih or need_b_hh, False]
    grad_x, grad_h0, grad_c0, grad_ih, grad_hh, grad_bias, _ = native.lstm_pool_backward(
        grad_h_n, grad_c_n, grad_total, grad_maximum, x, batch_sizes, h0, c0, weight_ih, weight_hh, argmax, count,
        pool_from, seed, ctx.weight_dropout, ctx.bptt, output, gates, cells, needs,
    )  # fmt: skip
    # A maximum of an earlier call is still the given one.
    earlier = None if grad_maximum is None else grad_maximum * (argmax < count.unsqueeze(1))
    return (
        grad_x if need_x else None,
        None,
        grad_h0 if need_h0 else None,
        grad_c0 if need_c0 else None,
        grad_ih if need_ih else None,
        grad_hh if need_hh else None,
        grad_bias if need_b_ih else None,
        grad_bias.clone() if need_b_hh else None,
        grad_total if need_total else None,
        earlier if need_maximum else None,
        *(None,) * 7,
    )


register_autograd("lstm_pool", _backward, setup_context=_setup_context)
register_autograd("lstm_pool_backward", refuse_double_backward)
