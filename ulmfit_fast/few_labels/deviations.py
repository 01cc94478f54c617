"""By how much features vary: what they are divided by before distances and linear classifiers."""

from __future__ import annotations

import numpy as np


def deviations(vectors: np.ndarray) -> np.ndarray:
    """Of each feature over the vectors [n, F], float64 [F]; 1 where it is not above a millionth of the largest value.

    That is what rounding makes of a feature which is always the same.
    """
    if not len(vectors):
        return np.ones(vectors.shape[1])
    found = vectors.std(0, dtype=np.float64)
    rounding = 1e-6 * np.abs(vectors).max(0)
    return np.where(found > rounding, found, 1.0)
