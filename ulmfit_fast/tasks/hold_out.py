"""Which rows are held out to measure a model on: one law for functions, estimator and command line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label, shown


def hold_out(
    count: int, fraction: float, seed: int, labels: Sequence[Label] | None = None, source: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Positions to train on and positions that are held out, both in ascending order.

    Args:
        count: rows to choose from.
        fraction: share of them to hold out, rounded down; with ``labels`` that share of every label, rounded to the
            nearest, at least one row and at most all but one.
        seed: draws the rows.
        labels: one for each row.
        source: where the labels come from, for messages.

    Raises:
        InputError: a label has one row alone.
    """
    order = np.random.default_rng(seed).permutation(count)
    if labels is None:
        held_out = order[: int(count * fraction)]
    else:
        rows_of: dict[Label, list[int]] = {}
        for row in order.tolist():
            rows_of.setdefault(labels[row], []).append(row)
        chosen: list[int] = []
        for label, rows in rows_of.items():
            if len(rows) < 2:
                raise InputError(
                    f"{source}: cannot hold out {fraction:g} of every label: {shown(label)} has one text alone; give "
                    "validation texts (--valid, valid_texts)"
                )
            chosen += rows[: min(max(1, round(len(rows) * fraction)), len(rows) - 1)]
        held_out = np.array(chosen, dtype=np.int64)
    kept = np.ones(count, dtype=bool)
    kept[held_out] = False
    return np.flatnonzero(kept), np.sort(held_out)


def hold_out_label_sets(sets: Sequence[Sequence[Label]], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As ``hold_out`` where texts have several labels: no label loses its last text to train on.

    Where that forbids it, fewer are held out.
    """
    left = Counter(label for labels in sets for label in labels)
    held_out: list[int] = []
    for row in np.random.default_rng(seed).permutation(len(sets)).tolist():
        if len(held_out) < int(len(sets) * fraction) and all(left[label] > 1 for label in sets[row]):
            held_out.append(row)
            left.subtract(sets[row])
    kept = np.ones(len(sets), dtype=bool)
    kept[held_out] = False
    return np.flatnonzero(kept), np.sort(np.array(held_out, dtype=np.int64))
