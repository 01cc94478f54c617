"""How far scores of a set of texts can be trusted: bootstrap intervals, and McNemar's exact test of two models.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (percentile intervals); McNemar, Psychometrika 12 (1947).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
_MOST, _FEWEST = 1000, 200  # draws
_SECONDS = 5.0  # about so long for all draws, if the fewest do not take longer

Scores = Mapping[str, float]


class Interval(NamedTuple):
    """A score, and between what it would lie in 95 of 100 such sets of texts; NaN where the texts cannot tell."""

    value: float
    low: float
    high: float


def bootstrap(texts: int, scores: Callable[[np.ndarray], Scores], seed: int = 0) -> dict[str, Interval]:
    """Percentile intervals of scores, by texts drawn with replacement.

    Args:
        texts: how many there are, at least one.
        scores: of the texts at these positions, int64 [n]. A difference of two models' scores is a score.
    """
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of draws that lack a class
        whole = scores(np.arange(texts))
        spent = max(time.monotonic() - start, 1e-4)
        count = int(np.clip(_SECONDS / spent, _FEWEST, _MOST))
        random = np.random.default_rng(seed)
        drawn = [scores(random.integers(0, texts, texts)) for _ in range(count)]
    found = {}
    for name, value in whole.items():
        values = np.array([each[name] for each in drawn], dtype=np.float64)
        values = values[np.isfinite(values)]
        outside = (1 - LEVEL) / 2
        low, high = np.quantile(values, [outside, 1 - outside]) if len(values) > count // 2 else (np.nan, np.nan)
        found[name] = Interval(float(value), float(low), float(high))
    return found


class McNemar(NamedTuple):
    """Texts on which two models differ: those that the first alone has right, those that the second alone has.

    ``p`` is the probability of so uneven a division, or a more uneven one, if both were equally good.
    """

    first_alone: int
    second_alone: int
    p: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """The exact test, two-sided.

    Args:
        first, second: bool [texts], whether each model is right; or of numbers, whether it is the nearer one.
    """
    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    return McNemar(a, b, exact_sign_test(a, b))


def exact_sign_test(a: int, b: int) -> float:
    """The two-sided probability of a division of ``a + b`` coins at least as uneven as this."""
    from math import comb

    n = a + b
    tail = sum(comb(n, k) for k in range(min(a, b) + 1))
    return min(1.0, 2 * tail / 2**n)
