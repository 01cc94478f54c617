"""By how much features vary: what they are divided by before distances and linear classifiers."""

from __future__ import annotations

import numpy as np


def deviations(vectors: np.ndarray) -> np.ndarray:
    """Of each feature over the vectors [n, F], float64 [F]; 1 where it is no more than the rounding of float32."""
    found = vectors.std(0, dtype=np.float64)
    rounding = 1e-6 * np.abs(vectors).max(0)
    return np.where(found > rounding, found, 1.0)
