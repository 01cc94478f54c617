"""What there is to say of a task's predictions beside scores, for reports and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ulmfit_fast.tasks.calibration import BINS, bin_of

_LEAST = 1e-7  # probability: the logarithm of none is infinite


class OfClass(NamedTuple):
    """One class or label: of how many texts, and how well it is found."""

    label: str
    texts: int
    predicted: int
    precision: float
    recall: float
    f1: float


class Bin(NamedTuple):
    """Predictions of about one probability: how many, their mean, and the share that is right."""

    number: int
    mean: float
    right: float


@dataclass(frozen=True)
class Findings:
    """A set of texts, predicted.

    Attributes:
        predicted: what is predicted of each, as users write labels.
        right: bool [texts], whether it is right, of several labels all of them; None of numbers.
        badness: float64 [texts], what orders the errors: minus the log of the probability of the truth, or the distance
            to it.
        classes: of each class; none of numbers.
        confusion: int64 [K, K], texts of a class (row) that are predicted another (column); None where a text has
            several labels or a number.
        bins: of tenths of probability, those that have predictions; none of numbers.
        numbers: (expected, predicted), of numbers.
    """

    predicted: list[object]
    right: np.ndarray | None
    badness: np.ndarray
    classes: list[OfClass]
    confusion: np.ndarray | None
    bins: list[Bin]
    numbers: tuple[np.ndarray, np.ndarray] | None = None


def findings_of_classes(
    names: Sequence[str], decoded: np.ndarray, expected: np.ndarray, places: np.ndarray, activated: np.ndarray
) -> Findings:
    """Of texts with one label each.

    Args:
        names: of the classes.
        decoded: what is predicted, as users write it.
        expected, places: what is and what is predicted, int64 [texts].
        activated: probabilities [texts, K].
    """
    rows = np.arange(len(expected))
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (expected, places), 1)
    has = np.eye(len(names), dtype=bool)
    right = expected == places
    return Findings(
        decoded.tolist(), right, -np.log(np.maximum(activated[rows, expected].astype(np.float64), _LEAST)),
        _classes(names, has[expected], has[places]), confusion, _bins(activated[rows, places], right),
    )  # fmt: skip


def findings_of_label_sets(
    names: Sequence[str], decoded: np.ndarray, expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray
) -> Findings:
    """Of texts with several labels: ``expected`` and ``predicted`` are bool [texts, K]."""
    p = np.where(expected, activated, 1 - activated.astype(np.float64))
    return Findings(
        decoded.tolist(), (expected == predicted).all(1), -np.log(np.maximum(p, _LEAST)).sum(1),
        _classes(names, expected, predicted), None, _bins(activated.ravel(), expected.ravel()),
    )  # fmt: skip


def findings_of_numbers(expected: np.ndarray, predicted: np.ndarray) -> Findings:
    return Findings(predicted.tolist(), None, np.abs(expected - predicted), [], None, [], (expected, predicted))


def _classes(names: Sequence[str], expected: np.ndarray, predicted: np.ndarray) -> list[OfClass]:
    both, are, said = ((each.sum(0)) for each in (expected & predicted, expected, predicted))
    return [
        OfClass(
            str(name), int(n), int(m), float(b / m) if m else 0.0, float(b / n) if n else 0.0,
            float(2 * b / (n + m)) if n + m else 0.0,
        )
        for name, b, n, m in zip(names, both, are, said, strict=True)
    ]  # fmt: skip


def _bins(probability: np.ndarray, right: np.ndarray) -> list[Bin]:
    place = bin_of(probability, BINS)
    found = [place == each for each in range(BINS)]
    return [
        Bin(int(w.sum()), float(probability[w].mean(dtype=np.float64)), float(right[w].mean()))
        for w in found
        if w.any()
    ]
