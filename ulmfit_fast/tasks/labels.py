"""Labels: read from any column, listed as classes, encoded as targets, and looked at for what is probably wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError, InputWarning

Label = str | int | float | bool

_SHOWN = 60  # characters of a label in a message


def as_labels(labels: Any, source: str = "labels") -> list[Label]:
    """Labels of a list, array, tensor or column as plain texts or numbers.

    Raises:
        InputError: one is neither, or NaN, or texts are mixed with numbers (source, row).
    """
    values = labels.tolist() if hasattr(labels, "tolist") else [getattr(x, "tolist", lambda x=x: x)() for x in labels]
    for row, value in enumerate(values, 1):
        if not isinstance(value, str | int | float) or value != value:
            raise InputError(f"{source}: row {row}: a label must be a text or a number, got {shown(value)}")
        if isinstance(value, str) and "\0" in value:  # which NumPy's and C's texts end at
            raise InputError(f"{source}: row {row}: a label must not contain the character NUL, got {shown(value)}")
        if isinstance(value, str) != isinstance(values[0], str):
            raise InputError(
                f"{source}: row {row}: labels are all texts or all numbers, got {shown(value)} beside "
                f"{shown(values[0])}"
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
    classes = sorted_classes(labels)
    if len(classes) < 2:
        raise InputError(f"{source}: all labels are {shown(classes[0])}; a classifier needs at least two")
    warn_of_odd_classes(classes, len(labels), source)
    return classes


def sorted_classes(labels: Iterable[Label]) -> list[Label]:
    """Distinct labels, in order."""
    return sorted(set(labels))


def warn_of_odd_classes(classes: Sequence[Label], rows: int, source: str) -> None:
    """``InputWarning`` where the classes look like a mistake: a wrong column, or one class spelled in two ways."""
    if rows >= 10 and len(classes) > rows / 2:
        warnings.warn(
            f"{source}: {len(classes):,} classes for {rows:,} texts: is this the column of the labels, or one of "
            "texts or numbers of rows?",
            InputWarning, stacklevel=3,
        )  # fmt: skip
        return
    spellings: dict[str, list[Label]] = {}
    for label in classes:
        spellings.setdefault(_spelling(label), []).append(label)
    for same in spellings.values():
        if len(same) > 1:
            warnings.warn(
                f"{source}: {' and '.join(shown(label) for label in same[:3])} are different classes; if they mean "
                "the same, give them one spelling",
                InputWarning, stacklevel=3,
            )  # fmt: skip


def _spelling(label: Label) -> str:
    """What is left of a label without the differences that are mostly mistakes."""
    text = " ".join(str(label).split()).casefold()
    try:
        return repr(float(text))  # "1" and "1.0"
    except ValueError:
        return text


def encode_labels(
    labels: Sequence[Label], classes: Sequence[Label], source: str, rows: Sequence[int] | None = None
) -> Tensor:
    """Each label's position in ``classes``, int64. Raises InputError at the first unknown one (source, row)."""
    position = {label: i for i, label in enumerate(classes)}
    for row, label in zip(rows or range(1, len(labels) + 1), labels, strict=True):
        if label not in position:
            known = ", ".join(str(known)[:_SHOWN] for known in classes[:20]) + (", ..." if len(classes) > 20 else "")
            raise InputError(f"{source}: row {row}: unknown label {shown(label)}; the model knows {known}")
    return torch.tensor([position[label] for label in labels], dtype=torch.int64, device="cpu")


def as_number(label: Any) -> float | None:
    """A label as a finite number, also where a text tells it; None where it is none."""
    try:
        value = float(label)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def as_numbers(labels: Any, source: str = "labels", rows: Sequence[int] | None = None) -> list[float]:
    """Labels that are numbers, or texts that read as such. Raises InputError at the first other one (source, row)."""
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    numbers = []
    for row, label in zip(rows or range(1, len(values) + 1), values, strict=True):
        number = as_number(label)
        if number is None:
            raise InputError(f"{source}: row {row}: a finite number is needed, got {shown(label)}")
        numbers.append(number)
    return numbers


def as_weights(weights: Any, count: int, source: str = "sample_weight") -> Tensor:
    """Weights of texts as float32 [count].

    Raises:
        InputError: another number of them, one that is negative, infinite or no number, or all zero.
    """
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: weights must be numbers ({error})") from None
    if values.shape != (count,):
        raise InputError(f"{source}: {count} weights are needed, one for each text, got shape {list(values.shape)}")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        raise InputError(
            f"{source}: row {wrong[0] + 1}: a weight must be finite and not negative, got {values[wrong[0]]}"
        )
    if not values.any():
        raise InputError(f"{source}: all weights are zero; there is nothing to learn from")
    return torch.from_numpy(values.astype(np.float32))


def shown(label: Any) -> str:
    """A label as a message shows it, of bounded length."""
    text = repr(label)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]}...{text[-1]}"
