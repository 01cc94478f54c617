"""Several labels a text: read from lists, or from a table of zeros and ones, and encoded as targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label, as_labels, encode_labels, shown, sorted_classes, warn_of_odd_classes


class LabelSets(list[list[Label]]):
    """Each text's labels, read from a table of zeros and ones whose columns are the labels, also those that none has.

    Args:
        sets: each text's labels.
        classes: of all columns.
    """

    def __init__(self, sets: Iterable[list[Label]], classes: list[Label]) -> None:
        super().__init__(sets)
        self.classes = classes


def is_table(labels: Any) -> bool:
    """Whether labels are an array or table of two dimensions."""
    return getattr(labels, "ndim", 1) == 2 and hasattr(labels, "shape")


def are_sets(labels: Any) -> bool:
    """Whether labels are such that a text has several: lists of them, or a table of zeros and ones."""
    return is_table(labels) or any(_is_set(each) for each in labels)


def as_label_sets(labels: Any, source: str = "labels", rows: Sequence[int] | None = None) -> list[list[Label]]:
    """Each text's labels as a list.

    Args:
        labels: a list, tuple, set or array of labels for each text; or zeros and ones [texts, K] as an array, a sparse
            matrix or a DataFrame, whose columns' names are the labels, else numbers from 0 on.
        source, rows: where they come from, for messages.

    Raises:
        InputError: a text's labels are no list; a label is no text or number; a table has other values.
    """
    if isinstance(labels, LabelSets):
        return labels
    if is_table(labels):
        return _sets_of_table(labels, source)
    found: list[list[Label]] = []
    rows = rows or range(1, len(labels) + 1)
    for row, each in zip(rows, labels, strict=True):
        if not _is_set(each):
            raise InputError(f"{source}: row {row}: a list of labels is needed for each text, got {shown(each)}")
        found.append(sorted_classes(as_labels(list(each), f"{source}: row {row}")))
    as_labels([label for each in found for label in each], source)  # all texts, or all numbers
    return found


def list_label_classes(labels: Sequence[list[Label]], source: str) -> list[Label]:
    """The distinct labels, sorted. Raises InputError where there are none."""
    if isinstance(labels, LabelSets):
        return labels.classes
    classes = sorted_classes(label for each in labels for label in each)
    if not classes:
        raise InputError(f"{source}: no text has a label")
    warn_of_odd_classes(classes, len(labels), source)
    return classes


def encode_label_sets(
    labels: Sequence[list[Label]], classes: Sequence[Label], source: str, rows: Sequence[int] | None = None
) -> Tensor:
    """1 where a text has a label, 0 elsewhere, float32 [len(labels), K]. Raises InputError at an unknown label."""
    rows = rows or range(1, len(labels) + 1)
    targets = torch.zeros(len(labels), len(classes), dtype=torch.float32, device="cpu")
    flat = [(place, row, label) for place, (row, each) in enumerate(zip(rows, labels, strict=True)) for label in each]
    columns = encode_labels([label for *_, label in flat], classes, source, [row for _, row, _ in flat])
    targets[[place for place, *_ in flat], columns] = 1
    return targets


def _is_set(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _sets_of_table(table: Any, source: str) -> LabelSets:
    names = getattr(table, "columns", range(table.shape[1]))
    classes = as_labels(list(names), f"{source}: names of columns")
    dense = np.asarray(table.toarray() if hasattr(table, "toarray") else table)
    values = dense.astype(np.float64) if dense.dtype != object else dense
    wrong = np.argwhere(~np.isin(values, (0, 1)))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{source}: row {row + 1}: column {shown(classes[column])} must be 0 or 1, got {shown(dense[row, column])}"
        )
    return LabelSets(([classes[place] for place in np.flatnonzero(row == 1)] for row in values), classes)
