"""Rows of an embedding, some tokens' rows dropped."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ulmfit_fast.ops.shared import (
    native,
    recorded_whole,
    refuse_double_backward,
    refuse_forward_mode,
    register_autograd,
    register_fake,
)


def embedding(tokens: Tensor, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """``weight[tokens] * mask[tokens]``, without a dropped copy of the weight. Differentiable in ``weight``.

    Args:
        tokens: int64 [N], in [0, V).
        weight: [V, E]; float32, float64 or bfloat16; on a GPU float16, too.
        mask: [V], float32 (float64 with float64): 0, or 1 / (1 - p) where a token's row is kept. None: all are.

    Returns:
        [N, E].

    Raises:
        ValueError, TypeError, IndexError: shapes, dtypes or tokens that do not fit; on a GPU a token outside [0, V) is
            a device-side assertion, as torch's own.

    Source: Merity et al., arXiv 1708.02182, section 4.3; Gal and Ghahramani, arXiv 1512.05287.
    """
    refuse_forward_mode("embedding", (weight, mask))
    with recorded_whole():
        return native.embedding(tokens, weight, mask)


@register_fake("embedding")
def _(tokens: Tensor, weight: Tensor, mask: Tensor | None) -> Tensor:
    return weight.new_empty((tokens.shape[0], weight.shape[1]))


@register_fake("embedding_backward")
def _(grad: Tensor, tokens: Tensor, mask: Tensor | None, vocabulary: int) -> Tensor:
    return grad.new_empty((vocabulary, grad.shape[1]))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tokens, weight, mask = inputs
    ctx.save_for_backward(tokens, mask)
    ctx.vocabulary = weight.shape[0]


def _backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
    tokens, mask = ctx.saved_tensors
    return None, native.embedding_backward(grad, tokens, mask, ctx.vocabulary), None


register_autograd("embedding", _backward, setup_context=_setup_context)
register_autograd("embedding_backward", refuse_double_backward)
