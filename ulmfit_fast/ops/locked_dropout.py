"""Dropout with one mask for all steps of a sequence."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ulmfit_fast.ops.shared import native, recorded_whole, refuse_forward_mode, register_autograd, register_fake


def locked_dropout(input: Tensor, mask: Tensor, batch_sizes: Tensor) -> Tensor:
    """Packed rows times the mask of their sequence: ``input * mask[sequence of each row]``, in one pass.

    Differentiable with respect to ``input``.

    Args:
        input: [N, F], packed rows as for ``lstm``; float32, float64 or bfloat16; on a GPU float16, too.
        mask: [B, F] with B >= batch_sizes[0], float32 (float64 with float64): 0, or 1 / (1 - p) where an element is
            kept.
        batch_sizes: int64 [T] on CPU.

    Returns:
        [N, F].

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit.

    Source: Gal and Ghahramani, arXiv 1512.05287; Merity et al., arXiv 1708.02182, section 4.2.
    """
    refuse_forward_mode("locked_dropout", (input, mask))
    with recorded_whole():
        return native.locked_dropout(input, mask, batch_sizes)


@register_fake("locked_dropout")
def _(input: Tensor, mask: Tensor, batch_sizes: Tensor) -> Tensor:
    return input.new_empty(input.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, mask, batch_sizes = inputs
    ctx.save_for_backward(mask, batch_sizes)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return native.locked_dropout(grad, *ctx.saved_tensors), None, None


register_autograd("locked_dropout", _backward, setup_context=_setup_context)
