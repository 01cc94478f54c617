"""Probabilities that mean what they say: temperature scaling, and how far probabilities are from it.

Source: Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, arXiv 1706.04599.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

BINS = 10  # of confidence
_RANGE = math.log(20)  # the temperature's logarithm lies within
_GOLDEN = (math.sqrt(5) - 1) / 2
_STEPS = 25  # of the search: to a hundred-thousandth


def check_temperature(value: Any) -> float:
    """A temperature as a model folder holds it. Raises ValueError if it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"temperature must be a number above 0, got {value!r}")
    return float(value)


def fit_temperature(logits: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """The temperature that held-out texts speak for, weighed against one that would change nothing.

    It minimises ``loss(logits / T) + log(T)^2 / 2``: T is the most probable one where log T is believed to be N(0, 1).
    A few texts move it little, many outweigh the belief.

    Args:
        logits: of the held-out texts.
        loss: summed over the texts, of logits in float64.
    """
    logits = logits.double()

    def cost(logarithm: float) -> float:
        return float(loss(logits / math.exp(logarithm))) + logarithm**2 / 2

    grid = np.linspace(-_RANGE, _RANGE, 25).tolist()
    best = min(range(len(grid)), key=[cost(point) for point in grid].__getitem__)
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    of_left, of_right = cost(left), cost(right)
    for _ in range(_STEPS):  # golden section: one new cost a step
        if of_left <= of_right:
            high, right, of_right = right, left, of_left
            left = high - _GOLDEN * (high - low)
            of_left = cost(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + _GOLDEN * (high - low)
            of_right = cost(right)
    return math.exp((low + high) / 2)


def brier_score(expected: np.ndarray, activated: np.ndarray) -> float:
    """The mean squared error of probabilities [texts, K]: summed over classes, or a mean over labels that are sets.

    Args:
        expected: each text's class, int64 [texts]; or 0 and 1 for each label, [texts, K].
        activated: probabilities [texts, K].
    """
    if expected.ndim == 2:
        return float(np.square(activated - expected).mean(dtype=np.float64))
    is_it = expected[:, None] == np.arange(activated.shape[1])
    return float(np.square(activated - is_it).sum(1, dtype=np.float64).mean())


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: the mean distance between confidence and share of right ones, over equal bins.

    Args:
        confidence: in [0, 1], [n].
        right: whether what was predicted so is, bool [n].
    """
    place = bin_of(confidence, bins)
    gaps = confidence.astype(np.float64) - right
    return sum(abs(float(gaps[place == each].sum())) for each in np.unique(place)) / len(confidence)


def bin_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Which of so many equal bins, from 0."""
    return np.minimum((confidence.astype(np.float64) * bins).astype(np.int64), bins - 1)
