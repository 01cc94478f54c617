"""Cross-entropy of a linear layer, without its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ulmfit_fast.ops.shared import (
    cast_for_autocast,
    native,
    not_differentiable_again,
    refuse_forward_mode,
    register_autograd,
    register_fake,
    state_dtype,
    wants_gradient,
)

REDUCTIONS = ("mean", "sum", "none")


def linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    gradient_threshold: float = 0.0,
) -> Tensor:
    """``F.cross_entropy(F.linear(input, weight, bias), target, ...)`` without ever holding all N x V logits.

    With "mean" and "sum" the gradients are computed along with the loss, so that three matrix products are all there
    is; with "none" backward computes the logits again. Sums are float32 (float64 for float64 arguments), also under
    autocast, where ``input`` is cast and the products run in its dtype, while ``weight`` and ``bias`` stay as they are
    and so do their gradients. Rows to ignore cost nothing. Differentiable once.

    Args:
        input: [..., E]; float32, float64 or bfloat16; on a GPU float16, too.
        weight: [V, E], dtype of ``input``, or float32.
        target: int64 [...], class indices in [0, V) or ``ignore_index``.
        bias: [V] or None, dtype of ``input``, or float32.
        ignore_index: of targets that count neither for the loss nor for the mean.
        reduction: "mean" over the rows that count (NaN if there are none), "sum" or "none".
        label_smoothing: in [0, 1], this share of a target's probability goes evenly to all classes.
        gradient_threshold: in [0, 1), 0: exact gradients. Above 0 the logits' gradients of one row and 192
            neighbouring classes count as zero where all of them, softmax minus target, are smaller. With classes
            sorted by frequency, as vocabularies are, that spares much of backward's products. On CPU alone.

    Returns:
        The loss, [] or, with "none", the shape of ``target``; float32 (float64 for float64 arguments).

    Raises:
        ValueError, TypeError: shapes or dtypes that do not fit, options out of range.
        IndexError: a target outside [0, V); on a GPU a device-side assertion, as torch's own.
    """
    refuse_forward_mode("linear_cross_entropy", (input, weight, bias))
    if torch.jit.is_tracing():
        raise NotImplementedError(
            "ulmfit_fast.ops.linear_cross_entropy: torch.jit.trace cannot record this op, as it can no op that takes a "
            "list of bools; trace the model without its loss"
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"linear_cross_entropy: reduction must be one of {REDUCTIONS}, got {reduction!r}")
    if target.shape != input.shape[:-1]:
        raise ValueError(
            f"linear_cross_entropy: target must be {tuple(input.shape[:-1])}, one class for each row of input, got "
            f"{tuple(target.shape)}"
        )
    x, weight, bias = cast_for_autocast(input.device, (input.reshape(-1, input.shape[-1]),), (weight, bias))
    rows = target.reshape(-1)
    row_weight = None
    # In float16 gradients as small as a mean's vanish; computed in backward they come scaled as a GradScaler wants it.
    late = reduction == "none" or x.dtype == torch.float16
    if reduction != "none":
        row_weight = (rows != ignore_index).to(state_dtype(x.dtype))
        if reduction == "mean":
            row_weight = row_weight / row_weight.sum()
    grad = wants_gradient((x, weight, bias)) and not late
    needs = [grad and tensor is not None and tensor.requires_grad for tensor in (x, weight, bias)]
    result, loss, *_ = native.linear_cross_entropy(
        x, weight, bias, rows, None if late else row_weight, ignore_index, label_smoothing, gradient_threshold, needs
    )
    if reduction == "none":
        return loss.view(target.shape)
    if late:
        result = (loss * row_weight).sum()
    # The mean of nothing is NaN, as with F.cross_entropy.
    return result + 0 * row_weight.sum() if reduction == "mean" and row_weight is not None else result


@register_fake("linear_cross_entropy")
def _(
    input: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, row_weight: Tensor | None, ignore_index: int,
    label_smoothing: float, gradient_threshold: float, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    sums = state_dtype(input.dtype)
    like_bias = input if bias is None else bias
    return (
        input.new_empty((), dtype=sums),
        input.new_empty(input.shape[0], dtype=sums),
        input.new_empty(input.shape if needs[0] else 0),
        weight.new_empty(weight.shape if needs[1] else 0),
        like_bias.new_empty(weight.shape[0] if needs[2] else 0),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, target, row_weight, *options, needs = inputs
    ctx.options, ctx.needs = options, needs
    ctx.save_for_backward(x, weight, bias, target, row_weight, *output[2:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_result: Tensor | None, grad_loss: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    x, weight, bias, target, row_weight, *grads = ctx.saved_tensors
    needs = ctx.needs
    if grad_result is None and grad_loss is None:
        return (None,) * 9
    with torch.no_grad():
        if grad_loss is not None or row_weight is None:  # what each row's loss counts for is known only now
            counts = x.new_zeros(x.shape[0], dtype=state_dtype(x.dtype)) if grad_loss is None else grad_loss
            if grad_result is not None:
                counts = counts + (grad_result if row_weight is None else grad_result * row_weight)
            needs = list(ctx.needs_input_grad[:3])
            grads = native.linear_cross_entropy(x, weight, bias, target, counts.contiguous(), *ctx.options, needs)[2:]
        elif grad_result is not None and not _is_one(
            grad_result
        ):  # mostly it is, and a pass over the weight's gradient is felt
            grads = [grad * grad_result.to(grad.dtype) for grad in grads]
        elif torch._C._autograd._get_current_graph_task_keep_graph():  # they may be given out again
            grads = [grad.clone() for grad in grads]
        else:
            grads = [grad.detach() for grad in grads]
    grads = not_differentiable_again(grads, (x, weight, bias))
    return (*(grad if need else None for grad, need in zip(grads, needs, strict=True)), *(None,) * 6)


def _is_one(scalar: Tensor) -> bool:
    """Without waiting for a device, and without a look at values that tracing does not have."""
    if torch.compiler.is_compiling() or scalar.device.type != "cpu" or type(scalar) is not Tensor:
        return False
    return scalar.item() == 1


register_autograd("linear_cross_entropy", _backward, setup_context=_setup_context)
