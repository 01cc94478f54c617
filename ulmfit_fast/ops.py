"""The native ops as Python functions: checks by the op itself, autograd, autocast, and shapes for torch.compile.

The only file that says ``torch.ops.ulmfit_fast``. What each op computes stands in ``reference.py``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, library
from torch.autograd import forward_ad

try:
    from ulmfit_fast import _C
except ImportError as error:
    raise ImportError(
        f"ulmfit_fast's native module does not load beside torch {torch.__version__} ({error}). It is built against "
        "one torch: reinstall it with `pip install --no-build-isolation --force-reinstall --no-deps .`"
    ) from error

__all__ = ["build_info", "draw_seed", "dropconnect_mask", "lstm"]

_ops = torch.ops.ulmfit_fast


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]


if _release(str(_C.build_info()["torch"])) != _release(torch.__version__):
    raise ImportError(
        f"ulmfit_fast was built against torch {_C.build_info()['torch']}, but torch {torch.__version__} is installed; "
        "reinstall it with `pip install --no-build-isolation --force-reinstall --no-deps .`"
    )


def build_info() -> dict[str, Any]:
    """How the native module was built, and the instruction set its CPU kernels use here."""
    return dict(_C.build_info())


def draw_seed(device: torch.device | str = "cpu") -> Tensor:
    """A fresh DropConnect seed, int64 [], from torch's generator of ``device``: ``torch.manual_seed`` governs it."""
    return torch.randint(0, 2**63 - 1, (), dtype=torch.int64, device=device)


def dropconnect_mask(seed: Tensor, rows: int, columns: int, p: float) -> Tensor:
    """Which elements of a [rows, columns] weight DropConnect keeps.

    The mask that ``lstm`` applies to ``weight_hh`` for the same seed; the same bits on every device.

    Args:
        seed: int64, one element.
        rows: 4H for an LSTM's ``weight_hh``.
        columns: H (with a projection: P).
        p: probability of dropping an element, in [0, 1).

    Returns:
        bool [rows, columns], True where the element is kept (and scaled by 1 / (1 - p)).

    Raises:
        ValueError: p outside [0, 1), or a negative size.
        TypeError: seed is not int64.
    """
    return _ops.dropconnect_mask(seed, rows, columns, p)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one LSTM layer over packed rows, with DropConnect on the recurrent weight.

    ``a_t = x_t W_ih^T + b_ih + h_{t-1} (M * W_hh)^T / (1-p) + b_hh``, gates in torch's order i, f, g, o. With
    ``weight_dropout=0`` equal to one layer of ``torch.nn.LSTM``. Under autocast the floating arguments are cast to the
    autocast dtype. Differentiable once, in training and in eval mode.

    Args:
        input: [N, F], rows of all time steps, time-major, longest sequence first, as in ``PackedSequence.data``.
            float32, float64 or bfloat16.
        batch_sizes: int64 [T] on CPU, positive, non-increasing, sum N: rows of each step.
        h0: [B, H] with B = batch_sizes[0] ([B, P] with a projection).
        c0: [B, H].
        weight_ih: [4H, F].
        weight_hh: [4H, H] ([4H, P]).
        bias_ih, bias_hh: [4H], both or neither.
        weight_hr: [P, H], the projection ``h = W_hr (o * tanh(c))``.
        weight_dropout: p in [0, 1), probability of dropping an element of ``weight_hh`` for the whole call.
        seed: int64, one element, chooses the mask; drawn from torch's generator where None and p > 0.
        reverse: run each sequence from its last step to its first.

    Returns:
        output [N, H or P], h_n [B, H or P] and c_n [B, H]: each sequence's states after its last computed step.

    Raises:
        ValueError: shapes that do not fit, batch_sizes that increase or hold zeros, p outside [0, 1).
        TypeError: dtypes that differ or are not supported.

    Source: Merity et al., "Regularizing and Optimizing LSTM Language Models" (arXiv 1708.02182), section 2.
    """
    floats: tuple[Any, ...] = (input, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, weight_hr)
    _refuse_forward_mode(floats)
    device = input.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        floats = tuple(x.to(dtype) if x is not None and x.dtype != torch.float64 else x for x in floats)
    if seed is None:
        seed = draw_seed(input.device) if weight_dropout > 0 else torch.zeros((), dtype=torch.int64)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in floats)
    x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr = floats
    output, h_n, c_n, _, _ = _ops.lstm(
        x, batch_sizes, h, c, w_ih, w_hh, b_ih, b_hh, w_hr, seed, weight_dropout, reverse, save
    )
    return output, h_n, c_n


def _refuse_forward_mode(tensors: tuple[Tensor | None, ...]) -> None:
    """Forward-mode differentiation would silently give zeros: the op has no such formula."""
    if forward_ad._current_level < 0:
        return
    if any(x is not None and forward_ad.unpack_dual(x).tangent is not None for x in tensors):
        raise NotImplementedError(
            "ulmfit_fast.ops.lstm: forward-mode differentiation (jvp, dual tensors) is not implemented; use backward, "
            "or torch.nn.LSTM"
        )


# Shapes for tracing.


@library.register_fake("ulmfit_fast::dropconnect_mask")
def _(seed: Tensor, rows: int, columns: int, p: float) -> Tensor:
    return seed.new_empty((rows, columns), dtype=torch.bool)


def _state_dtype(input: Tensor) -> torch.dtype:
    return torch.float64 if input.dtype == torch.float64 else torch.float32


@library.register_fake("ulmfit_fast::lstm")
def _(input: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    save = rest[-1]
    rows, hidden = input.shape[0], c0.shape[1]
    return (
        input.new_empty((rows, h0.shape[1])),
        input.new_empty(h0.shape),
        input.new_empty(c0.shape),
        input.new_empty((rows, 4 * hidden) if save else (0,)),
        input.new_empty((rows, hidden) if save else (0,), dtype=_state_dtype(input)),
    )


@library.register_fake("ulmfit_fast::lstm_backward")
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
    output: Tensor,
    gates: Tensor,
    cells: Tensor,
    needs: list[bool],
) -> tuple[Tensor, ...]:
    def like(x: Tensor | None, need: bool) -> Tensor:
        return input.new_empty(x.shape if need and x is not None else (0,))

    needs_input, needs_h0, needs_ih, needs_hh, needs_bias, needs_hr = needs
    return (
        like(input, needs_input),
        like(h0, needs_h0),
        like(c0, needs_h0),
        like(weight_ih, needs_ih),
        like(weight_hh, needs_hh),
        input.new_empty((weight_hh.shape[0] if needs_bias else 0,)),
        like(weight_hr, needs_hr),
    )


# Autograd.


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, batch_sizes, h0, c0, weight_ih, weight_hh, bias_ih, _, weight_hr, seed, weight_dropout, reverse, _ = inputs
    out, _, _, gates, cells = output
    ctx.save_for_backward(x, batch_sizes, h0, c0, weight_ih, weight_hh, weight_hr, seed, out, gates, cells)
    ctx.weight_dropout, ctx.reverse, ctx.has_bias = weight_dropout, reverse, bias_ih is not None
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    x, batch_sizes, h0, c0, weight_ih, weight_hh, weight_hr, seed, out, gates, cells = ctx.saved_tensors
    grad_output, grad_h_n, grad_c_n, _, _ = grads
    need_x, _, need_h0, need_c0, need_ih, need_hh, need_b_ih, need_b_hh, need_hr = ctx.needs_input_grad[:9]
    if grad_output is None and grad_h_n is None and grad_c_n is None:
        return (None,) * 13
    needs = [need_x, need_h0 or need_c0, need_ih, need_hh, need_b_ih or need_b_hh, need_hr]
    grad_x, grad_h0, grad_c0, grad_ih, grad_hh, grad_bias, grad_hr = _ops.lstm_backward(
        grad_output, grad_h_n, grad_c_n, x, batch_sizes, h0, c0, weight_ih, weight_hh, weight_hr, seed,
        ctx.weight_dropout, ctx.reverse, out, gates, cells, needs,
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
        None,
        None,
        None,
        None,
    )


def _no_double_backward(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError(
        "ulmfit_fast.ops.lstm: double backward is not implemented (backward was called with create_graph=True and its "
        "result differentiated again); use torch.nn.LSTM where second derivatives are needed"
    )


library.register_autograd("ulmfit_fast::lstm", _backward, setup_context=_setup_context)
library.register_autograd("ulmfit_fast::lstm_backward", _no_double_backward)
