"""A step's gradients where they come from several batches, or from several processes.

A step descends the mean over all of its batches and all processes. Each computes the mean over what it has; its
``share`` is what that counts in the whole.
"""

from __future__ import annotations

import contextlib
import gc
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ulmfit_fast.core.distributed import Processes
from ulmfit_fast.training.loop import ComputeLoss, StepLoss


class Part(NamedTuple):
    """What one process computes of a step at a time.

    Args:
        batch: of any kind.
        share: of the step's mean that this batch's mean is; those of all parts and processes add up to 1.
    """

    batch: Any
    share: float


class SharedGradients:
    """Gradients of a step that has parts: what ``Loop`` takes as ``gradients``.

    Parts are computed one after the other, so that memory is that of one. Where there are several processes, torch's
    ``DistributedDataParallel`` adds up their gradients, bucket by bucket, while the last part's are computed. It is
    made anew where other parameters train than before.

    Args:
        model: whose parameters train.
        processes: those that train it.
    """

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self.model, self.processes = model, processes
        self._computation: _Computation | None = None
        self._wrapped: DistributedDataParallel | None = None
        self._trained: list[bool] = []

    def __call__(self, compute_loss: ComputeLoss, parts: list[Part]) -> StepLoss:
        """The step's loss; ``report`` and ``minimise`` are this process's share of them, and have no graph."""
        self._wrap()
        losses = []
        for place, part in enumerate(parts):
            with self._sum_held_back(place + 1 < len(parts)):
                loss = self._compute(compute_loss, part.batch)
                # DDP divides by the number of processes.
                factor = part.share * self.processes.size
                (loss.minimise if factor == 1 else loss.minimise * factor).backward()
            losses.append(loss._replace(report=loss.report.detach(), minimise=loss.minimise.detach()))
        if len(parts) == 1 and parts[0].share == 1:
            return losses[0]
        shares = [part.share for part in parts]
        return StepLoss(
            _mean([loss.report for loss in losses], shares),
            _mean([loss.minimise for loss in losses], shares),
            sum(loss.tokens for loss in losses),
            sum(loss.rate for loss in losses) / len(losses),
        )

    def reduced(self, figures: Tensor) -> Tensor:
        """The sum of all processes' shares."""
        return self.processes.sum(figures)

    def _compute(self, compute_loss: ComputeLoss, batch: Any) -> StepLoss:
        if self._wrapped is None or self._computation is None:
            return compute_loss(batch)
        self._computation.compute_loss = compute_loss
        found: StepLoss = self._wrapped(batch)
        return found

    def _wrap(self) -> None:
        """Also makes all processes' weights and buffers those of the first."""
        trained = [parameter.requires_grad for parameter in self.model.parameters()]
        if self.processes.size == 1 or trained == self._trained:
            return
        self._wrapped = None
        gc.collect()  # the hooks of the last one go with it
        self._computation, self._trained = _Computation(self.model), trained
        with warnings.catch_warnings():  # torch 2.13 has another name for it, 2.11 has not
            warnings.simplefilter("ignore", FutureWarning)
            self._wrapped = DistributedDataParallel(
                self._computation, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def _sum_held_back(self, yes: bool) -> contextlib.AbstractContextManager[Any]:
        if not yes or self._wrapped is None:
            return contextlib.nullcontext()
        context: contextlib.AbstractContextManager[Any] = self._wrapped.no_sync()
        return context


class _Computation(nn.Module):
    """A batch's loss as a module's forward, which is what DDP wraps: a language model's loss uses weights, too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.compute_loss: ComputeLoss | None = None

    def forward(self, batch: Any) -> StepLoss:
        assert self.compute_loss is not None
        return self.compute_loss(batch)


def _mean(losses: list[Tensor], shares: list[float]) -> Tensor:
    """This process's share of a mean."""
    return torch.stack([loss.double() * share for loss, share in zip(losses, shares, strict=True)]).sum()
