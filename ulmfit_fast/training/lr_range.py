"""The learning-rate range test: train with a rate that rises from step to step, and see where the loss falls fastest.

For any model. Nothing that the test does stays: model, optimizer and torch's, NumPy's and Python's own generators are
as they were.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ulmfit_fast.core.errors import InputError

_SMOOTHING = 0.9  # of the losses: weight of those before
_WORSE = 3.0  # times its size above the best smoothed loss: the test ends


@dataclass(frozen=True)
class LRFinding:
    """What a range test found.

    Args:
        rates: of each step, rising.
        losses: of each step, before it.
    """

    rates: list[float]
    losses: list[float]

    @property
    def smoothed(self) -> list[float]:
        """The losses' moving average, without the bias towards zero of its beginning."""
        result, mean, weight = [], 0.0, 0.0
        for loss in self.losses:
            mean, weight = _SMOOTHING * mean + (1 - _SMOOTHING) * loss, _SMOOTHING * weight + 1 - _SMOOTHING
            result.append(mean / weight)
        return result

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, per factor of the rate; None where it never falls."""
        losses = self.smoothed
        if len(losses) < 3:
            return None
        slopes = np.gradient(np.array(losses), np.log(self.rates))
        best = int(slopes.argmin())
        return self.rates[best] if slopes[best] < 0 else None

    @property
    def valley(self) -> float | None:
        """A rate in the middle of the longest fall of the smoothed loss; None where no three steps fall.

        The longest fall is the longest sequence of steps, others between them left out, in which each loss is below the
        one before. It counts as so many steps before its last one, so that wavering before it does not matter.

        Source: the idea is that of fastai's ``valley``.
        """
        end, length = _longest_fall(self.smoothed)
        return self.rates[end - length // 2] if length >= 3 else None


def _longest_fall(losses: list[float]) -> tuple[int, int]:
    """The last position, and the length, of a longest strictly decreasing subsequence; of several the first to end."""
    ends: list[float] = []  # of falls by their length: the highest last loss, negated to be sorted
    longest = (0, 0)
    for position, loss in enumerate(losses):
        length = bisect_left(ends, -loss)
        ends[length : length + 1] = [-loss]
        if length + 1 > longest[1]:
            longest = (position, length + 1)
    return longest


def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[Any],
    compute_loss: Callable[[Any], Tensor],
    *,
    lr_min: float = 1e-7,
    lr_max: float = 10.0,
    steps: int = 100,
    clip: float | None = None,
) -> LRFinding:
    """Train for some steps with a rate that rises geometrically, then put everything back.

    The rate is that of the optimizer's last parameter group; the others keep their ratio to it, so discriminative rates
    stay discriminative. The test ends early where the smoothed loss is four times the best one, or not finite.

    Args:
        model: in the mode it is to train in, frozen as it is to train.
        optimizer: of the model.
        batches: gone through again and again, if it is no iterator.
        compute_loss: of a batch, [], with its graph.
        lr_min, lr_max: rates of the first and the last step.
        steps: at least 2.
        clip: largest norm of the gradient, or None.

    Raises:
        InputError: a number outside its range, no batches, the first loss is not finite.

    Source: Smith, arXiv 1506.01186, section 3.3.
    """
    if not 0 < lr_min < lr_max:
        raise InputError(f"lr_range_test: 0 < lr_min < lr_max is needed, got {lr_min} and {lr_max}")
    if steps < 2:
        raise InputError(f"lr_range_test: steps must be at least 2, got {steps}")
    rates: list[float] = []
    losses: list[float] = []
    with unchanged(model, optimizer):
        ratios = [group["lr"] / optimizer.param_groups[-1]["lr"] for group in optimizer.param_groups]
        for step, batch in zip(range(steps), _again_and_again(batches), strict=False):
            rate = lr_min * (lr_max / lr_min) ** (step / (steps - 1))
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["lr"] = rate * ratio
            optimizer.zero_grad(set_to_none=True)
            loss = compute_loss(batch)
            value = float(loss.detach())
            if not math.isfinite(value):
                break
            rates.append(rate)
            losses.append(value)
            found = LRFinding(rates, losses).smoothed
            if found[-1] - min(found) > _WORSE * abs(min(found)):
                break
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], clip)
            optimizer.step()
    if not losses:
        raise InputError("lr_range_test: no batches, or the first loss is not finite")
    return LRFinding(rates, losses)


def _again_and_again(batches: Iterable[Any]) -> Iterator[Any]:
    some = True
    while some:
        some = False
        for batch in batches:
            some = True
            yield batch


@contextlib.contextmanager
def unchanged(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """After the block model, optimizer and torch's, NumPy's and Python's generators are as they were before it.

    Of the model: parameters and buffers, gradients, what requires a gradient, training and eval mode.
    """
    tensors = [*model.parameters(), *model.buffers()]
    values = [tensor.detach().clone() for tensor in tensors]
    gradients = [(p, p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    state = copy.deepcopy(optimizer.state_dict())
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        for parameter, requires_grad, gradient in gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        optimizer.load_state_dict(state)


def draw_finding(finding: LRFinding) -> bytes:
    """Loss over rate as a PNG image, with both suggestions.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("draw_finding: pip install matplotlib") from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(finding.rates, finding.losses, color="0.8", linewidth=1, label="loss")
    smoothed = finding.smoothed
    axes.plot(finding.rates, smoothed, color="C0", label="smoothed")
    for name, color, rate in (("steepest", "C1", finding.steepest), ("valley", "C2", finding.valley)):
        if rate is not None:
            loss = float(np.interp(math.log(rate), np.log(finding.rates), smoothed))
            axes.plot([rate], [loss], "o", color=color, label=f"{name}: {rate:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    lowest, highest = min(smoothed), max(smoothed[0], max(smoothed[: max(1, len(smoothed) // 2)]))
    axes.set_ylim(lowest - 0.1 * abs(highest - lowest) - 1e-6, highest + 0.5 * abs(highest - lowest) + 1e-6)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()
