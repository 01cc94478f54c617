"""The recurrence of a QRNN layer over packed rows; its states may be pooled over time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ulmfit_fast.ops.lstm_pool import PooledState, add_steps
from ulmfit_fast.ops.shared import (
    KEEP_FOR_BACKWARD,
    KEEP_NOTHING,
    KEEP_STATES,
    cast_for_autocast,
    native,
    recorded_whole,
    refuse_double_backward,
    refuse_forward_mode,
    register_autograd,
    register_fake,
    state_dtype,
    wants_gradient,
)


class ForgetMultOutput(NamedTuple):
    """What ``forget_mult`` returns.

    Attributes:
        output: [N, H], h of every row; where it is pooled empty, but with ``keep_states``.
        h_n: [B, H], each sequence's last h.
        c_n: [B, H], each sequence's last cell state, in c0's dtype.
        cells: [N, H] with ``keep_states``, in float32 (float64 for float64). No gradient flows through it.
        state: the new pooled state; None where nothing is pooled.
    """

    output: Tensor
    h_n: Tensor
    c_n: Tensor
    cells: Tensor
    state: PooledState | None


def forget_mult(
    gates: Tensor,
    batch_sizes: Tensor,
    c0: Tensor | None = None,
    *,
    output_gate: bool = True,
    state: PooledState | None = None,
    bptt: int = 0,
    keep_states: bool = False,
) -> ForgetMultOutput:
    """fo-pooling or f-pooling: ``c_t = f z + (1 - f) c_{t-1}``, ``h_t = o c_t``.

    ``z`` is the tanh, ``f`` and ``o`` are the sigmoids of the gates, which a product has made of the inputs of each
    step. Without an output gate ``h_t = c_t`` (f-pooling). ``f`` is the share of what is new, as in fastai; the paper's
    is 1 - f. Under autocast ``gates`` are cast to the autocast dtype. Differentiable once, with respect to ``gates``,
    ``c0``, ``state.total`` and ``state.maximum``.

    Args:
        gates: [N, 3H] of z, f, o ([N, 2H] without an output gate) before their non-linearities, packed rows as for
            ``lstm``. float32, float64 or bfloat16; on a GPU float16, too.
        batch_sizes: int64 [T] on CPU.
        c0: [B, H] with B = batch_sizes[0], in the gates' dtype, or in float32 for half precision; None: zeros.
        output_gate: whether there is ``o``.
        state: pooled states of D >= B documents, row r of the batch belonging to document r, to which h is added. Not
            changed.
        bptt: if positive, gradients do not cross multiples of this many steps.
        keep_states: return ``cells`` and, of pooled states, ``output`` of every step too.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit.

    Source: Bradbury et al., "Quasi-Recurrent Neural Networks" (arXiv 1611.01576), section 2.1.
    """
    pool = (None,) * 5 if state is None else (state.total, state.maximum, state.argmax, state.count, state.pool_from)
    differentiable = (gates, c0, *pool[:2])
    refuse_forward_mode("forget_mult", differentiable)
    (a,) = cast_for_autocast(gates.device, (gates,))
    if c0 is None:
        rows = int(batch_sizes[0]) if len(batch_sizes) else 0
        c0 = a.new_zeros((rows, a.shape[-1] // (3 if output_gate else 2)), dtype=state_dtype(a.dtype))
    if state is not None and (state.last.device != a.device or state.last.shape != state.maximum.shape):
        raise ValueError(
            f"ulmfit_fast.ops.forget_mult: state.last must have the shape of state.maximum "
            f"({tuple(state.maximum.shape)}) and be on the device of gates ({a.device}), got "
            f"{tuple(state.last.shape)} on {state.last.device}"
        )
    keep = KEEP_STATES if keep_states else KEEP_FOR_BACKWARD if wants_gradient(differentiable) else KEEP_NOTHING
    with recorded_whole():
        output, h_n, c_n, cells, total, maximum, argmax = native.forget_mult(
            a, batch_sizes, c0, *pool, output_gate, bptt, keep
        )
    if state is None:
        return ForgetMultOutput(output, h_n, c_n, cells.detach(), None)
    last = torch.cat([h_n.to(state.last.dtype), state.last[h_n.shape[0] :]])
    count = add_steps(state.count, batch_sizes)
    pooled = PooledState(total, maximum, argmax, last, count, state.pool_from.clone())
    return ForgetMultOutput(output.detach(), h_n, c_n, cells.detach(), pooled)


@register_fake("forget_mult")
def _(
    gates: Tensor, batch_sizes: Tensor, c0: Tensor, total: Tensor | None, maximum: Tensor | None,
    argmax: Tensor | None, count: Tensor | None, pool_from: Tensor | None, output_gate: bool, bptt: int, keep: int,
) -> tuple[Tensor, ...]:  # fmt: skip
    shape, state = (gates.shape[0], c0.shape[1]), state_dtype(gates.dtype)

    def like(x: Tensor | None, dtype: torch.dtype) -> Tensor:
        return gates.new_empty((0,), dtype=dtype) if x is None else torch.empty_like(x)

    return (
        gates.new_empty(shape if argmax is None or keep == KEEP_STATES else (0,)),
        gates.new_empty(c0.shape),
        c0.new_empty(c0.shape),
        gates.new_empty(shape if keep >= KEEP_STATES else (0,), dtype=state),
        like(total, torch.float64),
        like(maximum, state),
        like(argmax, torch.int32),
    )


@register_fake("forget_mult_backward")
def _(
    grad_output: Tensor | None, grad_h_n: Tensor | None, grad_c_n: Tensor | None, grad_total_n: Tensor | None,
    grad_maximum_n: Tensor | None, gates: Tensor, batch_sizes: Tensor, c0: Tensor, argmax_n: Tensor | None,
    count: Tensor | None, pool_from: Tensor | None, output_gate: bool, bptt: int, cells: Tensor, needs: list[bool],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return gates.new_empty(gates.shape if needs[0] else (0,)), c0.new_empty(c0.shape if needs[1] else (0,))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    gates, batch_sizes, c0, _, _, argmax, count, pool_from, ctx.output_gate, ctx.bptt, _ = inputs
    pooled = argmax is not None
    ctx.save_for_backward(gates, batch_sizes, c0, output[6] if pooled else None, count, pool_from, output[3])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    gates, batch_sizes, c0, argmax, count, pool_from, cells = ctx.saved_tensors
    grad_output, grad_h_n, grad_c_n, _, grad_total, grad_maximum, _ = grads
    if argmax is None:  # of empty results a compiler hands over gradients, too
        grad_total = grad_maximum = None
    else:
        grad_output = None  # returned without one
    need_gates, _, need_c0, need_total, need_maximum = ctx.needs_input_grad[:5]
    if all(grad is None for grad in (grad_output, grad_h_n, grad_c_n, grad_total, grad_maximum)):
        return (None,) * 11
    grad_gates, grad_c0 = native.forget_mult_backward(
        grad_output, grad_h_n, grad_c_n, grad_total, grad_maximum, gates, batch_sizes, c0, argmax, count, pool_from,
        ctx.output_gate, ctx.bptt, cells, [need_gates, need_c0],
    )  # fmt: skip
    # A maximum of an earlier call is still the given one.
    earlier = None if grad_maximum is None else grad_maximum * (argmax < count.unsqueeze(1))
    return (
        grad_gates if need_gates else None,
        None,
        grad_c0 if need_c0 else None,
        grad_total if need_total else None,
        earlier if need_maximum else None,
        *(None,) * 6,
    )


register_autograd("forget_mult", _backward, setup_context=_setup_context)
register_autograd("forget_mult_backward", refuse_double_backward)
