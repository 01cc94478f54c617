"""Which training texts have a label in a draw: stratified, and the same for every model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


def draw_rows(labels: Sequence[str], count: int | None, draw: int) -> Rows:
    """Rows of ``count`` training texts, in an order of their own; None: all.

    Every class has its share of the rows, rounded so that they add up, and at least one. A smaller draw of the same
    number is the beginning of each class's part of a larger one.

    Raises:
        ValueError: ``count`` is less than the classes or more than the texts.
    """
    random = np.random.default_rng([20_260_101, draw])
    names, classes = np.unique(np.asarray(labels), return_inverse=True)
    sizes = np.bincount(classes)
    if count is None:
        count = len(labels)
    if not len(names) <= count <= len(labels):
        raise ValueError(f"draw_rows: count must be {len(names)} (classes) to {len(labels):,} (texts), got {count:,}")
    shares = sizes * (count / len(labels))
    counts = np.maximum(np.floor(shares).astype(int), 1)
    # What rounding down left over goes to the largest remainders; what the ones above took comes off the largest.
    for index in np.argsort(counts - shares, kind="stable")[: max(count - counts.sum(), 0)]:
        counts[index] += 1
    while counts.sum() > count:
        counts[np.argmax(counts)] -= 1
    chosen = [random.permutation(np.flatnonzero(classes == i))[:n] for i, n in enumerate(counts)]
    return random.permutation(np.concatenate(chosen)).astype(np.int64)


def checksum(rows: Rows) -> str:
    """Tells draws apart in the results."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:12]
