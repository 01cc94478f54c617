"""What a stage trains on: texts, what is to be predicted of them, and what validation measures; checked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.hold_out import hold_out
from ulmfit_fast.tasks.labels import as_weights
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.tasks.texts import as_texts

FEWEST_TO_HOLD_OUT = 20  # texts; of fewer none are held out unasked


@dataclass(frozen=True)
class Dataset:
    """Texts, label and weight of each where there are such, and the texts that validation measures.

    Args:
        texts: to train on.
        labels: one for each text as its task's ``read`` gives it, or None.
        weights: float32 [len(texts)], or None where all count alike.
        valid: to validate on, or None.
        class_weight: what a text of each label counts, as the caller gave it; None: as a configuration says.
    """

    texts: list[str]
    labels: list[Any] | None = None
    weights: Tensor | None = None
    valid: Dataset | None = None
    class_weight: Mapping[Any, float] | str | None = None

    @classmethod
    def unlabelled(
        cls, caller: str, texts: Iterable[str], valid_texts: Iterable[str] | None, fraction: float, seed: int
    ) -> Dataset:
        """The data of a language model. Without ``valid_texts`` a fraction is held out, if there are 20 texts or more.

        Raises:
            TypeError: something that is no text.
            InputError: no texts; validation texts that are all blank.
        """
        data = cls(_some_texts(caller, texts))
        if valid_texts is not None:
            valid = cls(as_texts(caller, valid_texts, "valid_texts"))
            if not any(text.strip() for text in valid.texts):
                raise InputError(f"{caller}: valid_texts holds no text")
            return replace(data, valid=valid)
        if len(data.texts) < FEWEST_TO_HOLD_OUT:
            return data
        rest, held_out = (data.take(rows) for rows in hold_out(len(data.texts), fraction, seed))
        return replace(rest, valid=held_out) if any(text.strip() for text in held_out.texts) else data

    @classmethod
    def labelled(
        cls,
        caller: str,
        texts: Iterable[str],
        labels: Any,
        *,
        task: type[Task] = SingleLabel,
        weights: Any = None,
        valid_texts: Iterable[str] | None = None,
        valid_labels: Any = None,
    ) -> Dataset:
        """The data of a classifier whose task is of that kind.

        Raises:
            TypeError: something that is no text.
            InputError: no texts, lengths that differ, a label or weight that cannot be one, half of a validation set.
        """
        data = cls(_some_texts(caller, texts), task.read(labels))
        _check_lengths(caller, "texts", data.texts, "labels", data.labels or [])
        if weights is not None:
            data = replace(data, weights=as_weights(weights, len(data.texts)))
        if (valid_texts is None) != (valid_labels is None):
            raise InputError(f"{caller}: give both of valid_texts and valid_labels, or neither")
        if valid_texts is None:
            return data
        valid = cls(as_texts(caller, valid_texts, "valid_texts"), task.read(valid_labels, "valid_labels"))
        if not valid.texts:
            raise InputError(f"{caller}: valid_texts is empty")
        _check_lengths(caller, "valid_texts", valid.texts, "valid_labels", valid.labels or [])
        return replace(data, valid=valid)

    def take(self, rows: Iterable[int]) -> Dataset:
        """The dataset of those rows, without validation texts."""
        chosen = [int(row) for row in rows]
        return Dataset(
            [self.texts[row] for row in chosen],
            None if self.labels is None else [self.labels[row] for row in chosen],
            None if self.weights is None else self.weights[chosen],
        )


def _some_texts(caller: str, texts: Iterable[str]) -> list[str]:
    checked = as_texts(caller, texts)
    if not checked:
        raise InputError(f"{caller}: texts is empty")
    return checked


def _check_lengths(caller: str, one: str, a: Sequence[Any], other: str, b: Sequence[Any]) -> None:
    if len(a) != len(b):
        raise InputError(f"{caller}: {one} and {other} must have one length, got {len(a)} and {len(b)}")
