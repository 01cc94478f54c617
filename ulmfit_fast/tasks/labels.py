"""Labels: read from any column, listed as classes, encoded as targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError

Label = str | int | float | bool


def as_labels(labels: Any, source: str = "labels") -> list[Label]:
    """Labels of a list, array, tensor or column as plain texts or numbers.

    Raises:
        InputError: one is neither, or NaN, or texts are mixed with numbers (source, row).
    """
    values = labels.tolist() if hasattr(labels, "tolist") else [getattr(x, "tolist", lambda x=x: x)() for x in labels]
    for row, value in enumerate(values, 1):
        if not isinstance(value, str | int | float) or value != value:
            raise InputError(f"{source}: row {row}: a label must be a text or a number, got {value!r}")
        if isinstance(value, str) != isinstance(values[0], str):
            raise InputError(
                f"{source}: row {row}: labels are all texts or all numbers, got {value!r} beside {values[0]!r}"
            )
    return values


def list_classes(texts: Sequence[str], labels: Sequence[Label], source: str = "labels") -> list[Label]:
    """The distinct labels, sorted. Raises InputError, naming ``source``, where no classifier can be trained on them."""
    if len(labels) == 0:
        raise InputError(f"{source}: there are no texts to train on")
    if len(texts) != len(labels):
        raise InputError(
            f"finetune_classifier: texts and labels must have one length, got {len(texts)} and {len(labels)}"
        )
    classes = np.unique(np.asarray(labels)).tolist()
    if len(classes) < 2:
        raise InputError(f"{source}: all labels are {classes[0]!r}; a classifier needs at least two")
    return classes


def encode_labels(
    labels: Sequence[Label], classes: Sequence[Label], source: str, rows: Sequence[int] | None = None
) -> Tensor:
    """Each label's position in ``classes``, int64. Raises InputError at the first unknown one (source, row)."""
    position = {label: i for i, label in enumerate(classes)}
    for row, label in zip(rows or range(1, len(labels) + 1), labels, strict=True):
        if label not in position:
            known = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
            raise InputError(f"{source}: row {row}: unknown label {label!r}; the model knows {known}")
    return torch.tensor([position[label] for label in labels], dtype=torch.int64)
