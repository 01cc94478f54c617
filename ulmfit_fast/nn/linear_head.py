"""A linear classifier in the form of the classifier's head, so that everything that takes a classifier takes it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ulmfit_fast.nn.classifier import TextClassifier

_Head = tuple[nn.BatchNorm1d, nn.Module, nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Module, nn.Linear]


def least_hidden_size(outputs: int) -> int:
    """Features of the hidden layer that ``set_linear`` needs."""
    return 2 * outputs


@torch.no_grad()
def set_linear(model: TextClassifier, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, like: Tensor) -> None:
    """Make the head compute ``((pooled - mean) * scale) @ weight.T + bias``, in eval mode within rounding.

    The hidden layer has each output twice, with either sign, for what a ReLU cuts off of the one is what it leaves of
    the other. Further hidden features have no say at first; their own weights stay. The BatchNorms know the statistics
    of ``like``, so that training can go on from here.

    Args:
        model: whose hidden layer has ``least_hidden_size`` features or more.
        mean, scale: [F], of the pooled vector's features; no scale is 0 or negative.
        weight, bias: [K, F] and [K].
        like: [n, F], at least two pooled vectors of texts like those to classify.

    Raises:
        ValueError: the hidden layer is too small.
    """
    first, _, hidden, relu, second, _, last = cast(_Head, tuple(model.head))
    outputs = len(weight)
    if hidden.out_features < least_hidden_size(outputs):
        raise ValueError(
            f"set_linear: {outputs} outputs need {least_hidden_size(outputs)} hidden features, got "
            f"{hidden.out_features}"
        )
    mean, scale, weight, bias = (x.double() for x in (mean, scale, weight, bias))
    _normalize(first, mean, 1 / scale.square(), gain=scale, bias=torch.zeros_like(mean))
    hidden.weight[: 2 * outputs] = torch.cat([weight, -weight]).to(hidden.weight)
    active = relu((like.double() - mean) * scale @ hidden.weight.double().T)
    half = bias.new_zeros(hidden.out_features)
    half[: 2 * outputs] = torch.cat([bias, -bias]) / 2
    average, variance = active.mean(0), active.var(0)
    # Gives what it gets, and half of the bias; the last layer takes the other half away with the other sign.
    _normalize(second, average, variance, gain=torch.ones_like(variance), bias=average + half)
    last.weight.zero_()
    sign = torch.eye(outputs, dtype=last.weight.dtype, device=last.weight.device)
    last.weight[:, : 2 * outputs] = torch.cat([sign, -sign], dim=1)


def _normalize(norm: nn.BatchNorm1d, mean: Tensor, variance: Tensor, gain: Tensor, bias: Tensor) -> None:
    """In eval mode it computes ``(x - mean) * gain + bias``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
    norm.weight.copy_(gain * (variance + norm.eps).sqrt())
    norm.bias.copy_(bias)
