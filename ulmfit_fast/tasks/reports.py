"""What evaluate says, for people to read: scores by class, how honest the probabilities are, what abstaining costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ulmfit_fast.tasks.calibration import BINS, bin_of, brier_score, calibration_error

ABSTAIN = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # confidences that the table of coverage shows


def report_of_classes(names: Sequence[str], expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray) -> str:
    """Of texts with one label each.

    Args:
        names: of the classes.
        expected, predicted: places among them, int64 [texts].
        activated: probabilities [texts, K].
    """
    from sklearn.metrics import classification_report

    by_class = classification_report(
        expected, predicted, labels=range(len(names)), target_names=list(names), digits=4, zero_division=0.0
    )
    right, confidence = expected == predicted, activated[np.arange(len(predicted)), predicted]
    return "\n".join([
        by_class,
        *_reliability("confidence", "right", confidence, right),
        *_coverage(confidence, right),
        f"\nexpected calibration error {calibration_error(confidence, right):.4f}, "
        f"Brier score {brier_score(expected, activated):.4f}",
        f"accuracy {right.mean():.4f} on {len(expected)} texts",
    ])  # fmt: skip


def report_of_label_sets(
    names: Sequence[str], expected: np.ndarray, predicted: np.ndarray, activated: np.ndarray
) -> str:
    """Of texts with several labels: ``expected`` and ``predicted`` are 0 or 1, [texts, K]."""
    from sklearn.metrics import classification_report

    by_label = classification_report(expected, predicted, target_names=list(names), digits=4, zero_division=0.0)
    whole = (expected == predicted).all(1).mean()
    return "\n".join([
        by_label,
        *_reliability("probability", "true", activated.ravel(), expected.ravel() == 1),
        f"\nexpected calibration error {calibration_error(activated.ravel(), expected.ravel() == 1):.4f}, "
        f"Brier score {brier_score(expected, activated):.4f}",
        f"all labels right {whole:.4f} on {len(expected)} texts",
    ])  # fmt: skip


def _reliability(name: str, what: str, confidence: np.ndarray, right: np.ndarray) -> Iterator[str]:
    """A line for each tenth of confidence: how sure predictions are there, and how often right."""
    yield f"{name:<12} {'number':>12}   mean {what:>8}"
    place = bin_of(confidence)
    for each in range(BINS):
        within = place == each
        if within.any():
            yield (
                f"{each / BINS:.1f} to {(each + 1) / BINS:.1f} {within.sum():>14,} {confidence[within].mean():>6.4f} "
                f"{right[within].mean():>8.4f}"
            )


def _coverage(confidence: np.ndarray, right: np.ndarray) -> Iterator[str]:
    """A line for each confidence that one could ask for: how many texts keep their label, and how often it is right."""
    yield "\nabstain below     labelled  coverage    right"
    for least in ABSTAIN:
        kept = confidence >= np.float32(least)
        share = f"{right[kept].mean():>8.4f}" if kept.any() else f"{'-':>8}"
        yield f"{least:<10.2f} {kept.sum():>15,} {kept.mean():>9.4f} {share}"
