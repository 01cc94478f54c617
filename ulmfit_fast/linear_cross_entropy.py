"""Cross-entropy of a linear layer in the memory of a few rows of logits, in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Rows of logits at a time. A block of 512 x 30,000 is 60 MB; much smaller blocks make the matrix products slow.
_CHUNK_ROWS = 512


def linear_cross_entropy(h: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
    """``F.cross_entropy(F.linear(h, weight, bias), target)`` without ever holding all N x V logits.

    Where gradients are needed they are computed along with the loss, block by block. Under autocast the products run in
    the autocast dtype, the softmax in float32. Differentiable once.

    Args:
        h: [N, E].
        weight: [V, E].
        bias: [V].
        target: int64 [N].

    Returns:
        Mean cross-entropy, [] in float32 (float64 for float64 arguments).
    """
    dtype = h.dtype
    if h.dtype != torch.float64 and torch.is_autocast_enabled(h.device.type):
        dtype = torch.get_autocast_dtype(h.device.type)
    return _LinearCrossEntropy.apply(h, weight, bias, target, dtype, torch.is_grad_enabled())


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, target: Tensor, dtype: torch.dtype, grad_enabled: bool
    ) -> Tensor:
        accumulate = torch.float64 if dtype == torch.float64 else torch.float32
        need_h, need_weight, need_bias = (grad_enabled and need for need in ctx.needs_input_grad[:3])
        need_any = need_h or need_weight or need_bias
        grad_h = torch.empty_like(h) if need_h else None
        grad_weight = torch.zeros_like(weight, dtype=accumulate) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=accumulate) if need_bias else None
        cast_weight, cast_bias = weight.to(dtype), bias.to(dtype)
        total = torch.zeros((), dtype=accumulate, device=h.device)
        for start in range(0, len(h), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            x, expected = h[rows].to(dtype), target[rows].unsqueeze(1)
            logits = torch.addmm(cast_bias, x, cast_weight.T).to(accumulate)
            largest = logits.amax(1, keepdim=True)
            correct = logits.gather(1, expected)
            exponentials = logits.sub_(largest).exp_()  # in place of the logits
            normalizer = exponentials.sum(1, keepdim=True)
            total += (normalizer.log() + largest - correct).sum()
            if not need_any:
                continue
            # d loss / d logits = (softmax - one hot) / N
            grad = exponentials.div_(normalizer * len(h))
            grad.scatter_add_(1, expected, torch.full_like(correct, -1 / len(h)))
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(dtype)
            if grad_h is not None:
                grad_h[rows] = (grad @ cast_weight).to(h.dtype)
            if grad_weight is not None:
                if dtype == accumulate:
                    grad_weight.addmm_(grad.T, x)
                else:
                    grad_weight += grad.T @ x
        ctx.grads = (grad_h, grad_weight, grad_bias)
        ctx.dtypes = (h.dtype, weight.dtype, bias.dtype)
        return total / len(h)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grads = [
            None if grad is None else (grad * grad_loss).to(dtype)
            for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        ]
        return (*grads, None, None, None)
