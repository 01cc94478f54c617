"""From which probability on a text has a label, where it may have several."""

from __future__ import annotations

from typing import Any

import numpy as np

_LOWEST = 1e-7  # a threshold of 0 would give every text the label
ENOUGH = 8  # held-out texts with a label, for a threshold of its own


def check_thresholds(values: Any, count: int) -> np.ndarray:
    """Thresholds as a model folder holds them, float32 [count]. Raises ValueError if they cannot be ones."""
    thresholds = np.asarray(values, dtype=np.float32)
    if thresholds.shape != (count,) or not ((thresholds > 0) & (thresholds <= 1)).all():
        raise ValueError(f"thresholds must be {count} numbers above 0 and at most 1")
    return thresholds


def fit_thresholds(probabilities: np.ndarray, has: np.ndarray) -> np.ndarray:
    """The thresholds with the highest F1 on held-out texts, float32 [K].

    Labels that fewer than ``ENOUGH`` texts have share one, the best of all their decisions together: one chosen by two
    or three texts would mean nothing.

    Args:
        probabilities: float32 [texts, K].
        has: whether a text has a label, bool [texts, K].
    """
    often = has.sum(0) >= ENOUGH
    thresholds = np.full(has.shape[1], 0.5, dtype=np.float32)
    if (~often).any():
        thresholds[~often] = _best(probabilities[:, ~often].ravel(), has[:, ~often].ravel())
    for label in np.flatnonzero(often):
        thresholds[label] = _best(probabilities[:, label], has[:, label])
    return thresholds


def _best(probabilities: np.ndarray, has: np.ndarray) -> np.float32:
    """Between the two neighbouring probabilities whose middle has the highest F1; 0.5 where nothing is positive."""
    if not has.any():
        return np.float32(0.5)
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order].astype(np.float64), np.cumsum(has[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + has.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # no threshold is between equal ones
    cut = int(f1.argmax())
    below = ranked[cut + 1] if cut + 1 < len(ranked) else 0.0
    middle = np.float32((ranked[cut] + below) / 2)
    return middle if below < middle <= ranked[cut] else np.float32(max(ranked[cut], _LOWEST))
