"""One of several classes: softmax and cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label, encode_labels, shown

CLASS_WEIGHTS = ("none", "balanced")


class SingleLabel:
    """Each text has one of several labels.

    Args:
        labels: the classes, in the order of the logits' columns.
        class_weight: float32 [len(labels)], what a text of each class counts in the loss; None: all alike.
        label_smoothing: in [0, 1), this share of a target's probability goes evenly to all classes.
    """

    type: ClassVar[str] = "single_label"
    score: ClassVar[str] = "accuracy"

    def __init__(self, labels: list[Label], class_weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        self.labels = labels
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def encode(self, labels: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return encode_labels(labels, self.labels, source, rows)

    def encode_cells(self, cells: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return encode_labels(cells, [str(label) for label in self.labels], source, rows)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        if weights is None and self.class_weight is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        each = F.cross_entropy(logits, targets, reduction="none", label_smoothing=self.label_smoothing)
        counts = torch.ones_like(each) if weights is None else weights.to(each)
        if self.class_weight is not None:
            counts = counts * self.class_weight.to(each)[targets]
        # A batch of rows that count nothing has no gradient, and no NaN.
        return (each * counts).sum() / counts.sum().clamp(min=torch.finfo(each.dtype).tiny)

    def activate(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)

    def decode(self, activated: np.ndarray) -> np.ndarray:
        return np.asarray(self.labels)[activated.argmax(1)]

    def columns(self, activated: np.ndarray, every_label: bool = False) -> dict[str, Any]:
        rounded = activated.astype(np.float64).round(6)
        columns = {"prediction": self.decode(activated).tolist(), "confidence": rounded.max(1)}
        each = zip(self.labels, rounded.T, strict=True) if every_label else ()
        return columns | {f"probability:{label}": probabilities for label, probabilities in each}

    def examples(self) -> np.ndarray:
        return np.eye(len(self.labels), dtype=np.float32)

    def metrics(self, activated: np.ndarray, targets: Tensor) -> dict[str, float]:
        hits = activated.argmax(1) == targets.numpy()
        return {"accuracy": float(hits.mean(dtype=np.float32))}

    def report(self, activated: np.ndarray, targets: Tensor) -> str:
        from sklearn.metrics import classification_report

        predicted, expected, names = activated.argmax(1), targets.numpy(), [str(label) for label in self.labels]
        by_class = classification_report(
            expected, predicted, labels=range(len(names)), target_names=names, digits=4, zero_division=0.0
        )
        return f"{by_class}\naccuracy {(expected == predicted).mean():.4f} on {len(expected)} texts"


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
        for label, weight in class_weight.items():
            if label not in labels:
                raise InputError(f"class_weight: {shown(label)} is no label of the texts")
            if not isinstance(weight, int | float | np.number) or not 0 <= float(weight) < float("inf"):
                raise InputError(f"class_weight: {shown(label)}: must be a finite number from 0 on, got {weight!r}")
        return torch.tensor(
            [float(class_weight.get(label, 1.0)) for label in labels], dtype=torch.float32, device="cpu"
        )
    if class_weight != "balanced":
        raise InputError(f"class_weight must be 'balanced', a mapping or None, got {class_weight!r}")
    counts = torch.bincount(targets, minlength=len(labels)).clamp(min=1).float()
    return len(targets) / (len(labels) * counts)
