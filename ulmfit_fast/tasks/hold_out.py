"""Which rows are held out to measure a model on: one law for functions, estimator and command line."""

from __future__ import annotations

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
