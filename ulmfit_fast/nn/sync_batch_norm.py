"""BatchNorm over the rows of all processes, on any device: torch's own SyncBatchNorm is for GPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ulmfit_fast.core.distributed import Processes, current


class SynchronizedBatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` of [B, F] whose training statistics are those of all processes' rows together.

    A process may have no rows. Sums are float64, so the result is that of one process with all rows, within rounding.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        output, mean, variance, count = _Normalise.apply(input, self.weight, self.bias, self.eps, current())
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                unbiased = variance * (count / (count - 1))
                self.running_mean.lerp_(mean.to(self.running_mean), weight)
                self.running_var.lerp_(unbiased.to(self.running_var), weight)
        result: Tensor = output
        return result


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor, eps: float, processes: Processes
    ) -> tuple[Tensor, ...]:
        x = input.double()
        rows = x.new_full((1, x.shape[1]), len(x))
        count, total, squares = processes.sum(torch.cat([rows, x.sum(0, True), x.square().sum(0, True)]))
        if x.is_cpu and float(count[0]) < 2:  # a GPU would be waited for
            raise ValueError(f"BatchNorm: training needs two rows, all processes together have {int(count[0])}")
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0)
        scale = torch.rsqrt(variance + eps)
        normal = (x - mean) * scale
        ctx.save_for_backward(normal.to(weight.dtype), scale, weight, count)
        ctx.processes = processes
        ctx.mark_non_differentiable(mean, variance, count)
        return (normal * weight + bias).to(input.dtype), mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        normal, scale, weight, count = ctx.saved_tensors
        normal, dy = normal.double(), grad.double()
        own = torch.stack([dy.sum(0), (dy * normal).sum(0)])
        grad_bias, grad_weight = (x.to(weight.dtype) for x in own)  # DDP adds up these
        total, projected = ctx.processes.sum(own.clone()) / count
        grad_input = (dy - total - normal * projected) * (scale * weight)
        return grad_input.to(grad.dtype), grad_weight, grad_bias, None, None


@contextlib.contextmanager
def synchronized(model: nn.Module, processes: Processes) -> Iterator[None]:
    """Within the block a model's ``BatchNorm1d`` layers go by the rows of all processes.

    On a CPU they do so where there is one process, too. torch's own sums are float32 there, off by some 3e-6 of a
    deviation where features hardly differ: other numbers than those of several processes, from the first step on.
    """
    layers = [
        module for module in model.modules()
        if type(module) is nn.BatchNorm1d and (processes.size > 1 or all(p.is_cpu for p in module.parameters()))
    ]  # fmt: skip
    for layer in layers:
        layer.__class__ = SynchronizedBatchNorm1d  # keeps parameters, buffers, names and hooks
    try:
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.BatchNorm1d
