"""What a table shows of predictions; the first score of a data set is its main one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import matthews_corrcoef

Score = Callable[[npt.NDArray[np.str_], npt.NDArray[np.str_]], float]  # expected labels, predicted labels


def accuracy(expected: npt.NDArray[np.str_], predicted: npt.NDArray[np.str_]) -> float:
    return float((expected == predicted).mean())


def error(expected: npt.NDArray[np.str_], predicted: npt.NDArray[np.str_]) -> float:
    return 1 - accuracy(expected, predicted)


def matthews(expected: npt.NDArray[np.str_], predicted: npt.NDArray[np.str_]) -> float:
    return float(matthews_corrcoef(expected, predicted))


SCORES: dict[str, Score] = {"accuracy": accuracy, "error": error, "MCC": matthews}


def score_all(
    metric: str, expected: Sequence[str], predicted: Sequence[str], subsets: dict[str, npt.NDArray[np.bool_]]
) -> dict[str, float]:
    """The metric on all test texts, under its name, and on each part of them, as "metric, part"."""
    truth, found = np.asarray(expected), np.asarray(predicted)
    scores = {metric: SCORES[metric](truth, found)}
    return scores | {f"{metric}, {name}": SCORES[metric](truth[rows], found[rows]) for name, rows in subsets.items()}
