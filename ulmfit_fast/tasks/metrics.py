"""The scores that tasks measure, by the names that records, curves and options give them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ulmfit_fast.tasks.calibration import brier_score, calibration_error


@dataclass(frozen=True)
class Metric:
    """How a score is read.

    Args:
        says: what it tells, in a few words.
        greater_is_better: whether a higher one is a better one.
        is_share: whether it lies between 0 and 1.
        of_numbers: whether it compares numbers, not labels.
        headline: whether a report begins with it.
    """

    says: str
    greater_is_better: bool = True
    is_share: bool = True
    of_numbers: bool = False
    headline: bool = False


LOSS = "loss"  # no score: what training descends
METRICS: dict[str, Metric] = {
    "accuracy": Metric("share of texts whose prediction is right", headline=True),
    "balanced_accuracy": Metric("mean of the classes' recall"),
    "f1_macro": Metric("mean of the classes' F1", headline=True),
    "f1_micro": Metric("F1 of all classes together"),
    "f1_weighted": Metric("mean of the classes' F1, large classes count more"),
    "mcc": Metric("correlation of what is and what is predicted (Matthews)", is_share=False),
    "auroc": Metric("how well probabilities tell classes apart (area under ROC)", headline=True),
    "average_precision": Metric("the same with an eye on what is predicted (area under precision and recall)"),
    "brier": Metric("squared error of the probabilities", greater_is_better=False, is_share=False),
    "ece": Metric("by how much confidence is off (expected calibration error)", greater_is_better=False, headline=True),
    "r2": Metric("share of the variance that is explained", is_share=False, of_numbers=True, headline=True),
    "mae": Metric("mean absolute error", greater_is_better=False, is_share=False, of_numbers=True, headline=True),
    "rmse": Metric("root of the mean squared error", greater_is_better=False, is_share=False, of_numbers=True),
}

# (what is, int64 [texts]; what is predicted, likewise; probabilities [texts, K]) -> score.
OfClasses = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
# (what is, 0 or 1 [texts, K]; what is predicted, likewise; probabilities [texts, K]) -> score.
OfLabelSets = OfClasses


def _f1(average: str) -> OfClasses:
    def score(expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> float:
        from sklearn.metrics import f1_score

        labels = range(activated.shape[1]) if expected.ndim == 1 else None
        return float(f1_score(expected, predicted, labels=labels, average=average, zero_division=0.0))

    return score


def _share_right(expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> float:
    right = expected == predicted
    return float((right if right.ndim == 1 else right.all(1)).mean(dtype=np.float32))


def _balanced(expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> float:
    return float(np.mean([(predicted[expected == label] == label).mean() for label in np.unique(expected)]))


def _mcc(expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(expected, predicted))


def _mean_of_labels(name: str) -> OfClasses:
    """The mean over the labels that some texts have and others have not; NaN where there is none."""

    def score(expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> float:
        import sklearn.metrics

        measure = getattr(sklearn.metrics, name)
        has = expected if expected.ndim == 2 else expected[:, None] == np.arange(activated.shape[1])
        found = [
            measure(has[:, label], activated[:, label]) for label in range(has.shape[1]) if len(set(has[:, label])) == 2
        ]
        return float(np.mean(found)) if found else math.nan

    return score


def _brier(expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> float:
    return brier_score(expected, activated)


def _ece(expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> float:
    if expected.ndim == 2:
        return calibration_error(activated.ravel(), expected.ravel() == 1)
    return calibration_error(activated[np.arange(len(expected)), predicted], expected == predicted)


OF_LABEL_SETS: dict[str, OfLabelSets] = {
    "f1_macro": _f1("macro"), "f1_micro": _f1("micro"), "f1_weighted": _f1("weighted"), "accuracy": _share_right,
    "auroc": _mean_of_labels("roc_auc_score"), "average_precision": _mean_of_labels("average_precision_score"),
    "brier": _brier, "ece": _ece,
}  # fmt: skip
OF_CLASSES: dict[str, OfClasses] = OF_LABEL_SETS | {"balanced_accuracy": _balanced, "mcc": _mcc}


def mean_absolute_error(expected: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.abs(expected - predicted).mean())


def root_mean_squared_error(expected: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.sqrt(np.square(expected - predicted).mean()))


def explained_variance(expected: np.ndarray, predicted: np.ndarray) -> float:
    """R2: one minus the squared error over that of the mean; of numbers that are all the same it is 1 or 0."""
    error, spread = np.square(expected - predicted).sum(), np.square(expected - expected.mean()).sum()
    return float(1 - error / spread) if spread else float(error == 0)


OF_NUMBERS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mae": mean_absolute_error, "rmse": root_mean_squared_error, "r2": explained_variance,
}  # fmt: skip
