"""What a text of each class counts in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label, shown

CLASS_WEIGHTS = ("none", "balanced")


def class_weights(
    class_weight: str | Mapping[Label, float] | None, labels: Sequence[Label], targets: Tensor
) -> Tensor | None:
    """What a text of each class counts, float32 [len(labels)], as scikit-learn's ``class_weight`` says it.

    Args:
        class_weight: None or "none": all alike. "balanced": inversely to the class's number of texts, with mean one
            over the texts. A mapping: from label to weight, 1 for labels that it lacks.
        labels: the classes.
        targets: int64, positions in ``labels`` of the texts to train on.

    Raises:
        InputError: another name; a label that is no class; a weight that is negative or no finite number.
    """
    if class_weight is None or class_weight == "none":
        return None
    if isinstance(class_weight, Mapping):
        return _of_mapping(class_weight, labels)
    _check_name(class_weight)
    counts = torch.bincount(targets, minlength=len(labels)).clamp(min=1).float()
    return len(targets) / (len(labels) * counts)


def label_weights(
    class_weight: str | Mapping[Label, float] | None, labels: Sequence[Label], targets: Tensor
) -> Tensor | None:
    """What a text counts where it has a label and where it has not, float32 [2, len(labels)]; absence first.

    Args:
        class_weight: None or "none": all alike. "balanced": for each label, the texts that have it count as much as
            those that have not. A mapping: what a text counts for each label that it has, 1 for labels it lacks.
        labels: those that a text may have.
        targets: 0 or 1, [texts, len(labels)].

    Raises:
        InputError: as ``class_weights``.
    """
    if class_weight is None or class_weight == "none":
        return None
    if isinstance(class_weight, Mapping):
        present = _of_mapping(class_weight, labels)
        return torch.stack([torch.ones_like(present), present])
    _check_name(class_weight)
    present = targets.sum(0).float()
    return len(targets) / (2 * torch.stack([len(targets) - present, present]).clamp(min=1))


def _of_mapping(class_weight: Mapping[Label, float], labels: Sequence[Label]) -> Tensor:
    for label, weight in class_weight.items():
        if label not in labels:
            raise InputError(f"class_weight: {shown(label)} is no label of the texts")
        if not isinstance(weight, int | float | np.number) or not 0 <= float(weight) < float("inf"):
            raise InputError(f"class_weight: {shown(label)}: must be a finite number from 0 on, got {weight!r}")
    return torch.tensor([float(class_weight.get(label, 1.0)) for label in labels], dtype=torch.float32, device="cpu")


def _check_name(class_weight: object) -> None:
    if class_weight != "balanced":
        raise InputError(f"class_weight must be 'balanced', a mapping or None, got {class_weight!r}")
