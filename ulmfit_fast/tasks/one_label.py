"""What tasks have in common whose texts have one label each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.tasks.calibration import check_temperature, fit_temperature
from ulmfit_fast.tasks.class_weights import class_weights
from ulmfit_fast.tasks.findings import Findings, findings_of_classes
from ulmfit_fast.tasks.hold_out import hold_out
from ulmfit_fast.tasks.labels import Label, as_labels, encode_labels, list_classes, sorted_classes
from ulmfit_fast.tasks.losses import weighted_mean
from ulmfit_fast.tasks.metrics import OF_CLASSES
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.reports import report_of_classes


class OneLabel(ABC):
    """Each text has one label. What is activated are the probabilities of all, float32 [texts, K].

    Args:
        labels: in the order of what is activated.
        class_weight: float32 [K], what a text of each class counts in the loss; None: all alike.
        label_smoothing, focal_gamma: as ``TaskOptions``.
        temperature: what the logits are divided by before they become probabilities. The labels do not depend on it.
    """

    type: ClassVar[str]
    predicts_numbers: ClassVar[bool] = False
    takes_new_labels: ClassVar[bool] = False  # whether a trained head can get outputs for further labels
    scores: ClassVar[tuple[str, ...]] = ("accuracy",)
    known_scores: ClassVar[Collection[str]] = tuple(OF_CLASSES)
    label_delimiter: str | None = None

    def __init__(
        self, labels: list[Label], class_weight: Tensor | None = None, label_smoothing: float = 0.0,
        focal_gamma: float = 0.0, temperature: float = 1.0,
    ) -> None:  # fmt: skip
        self.labels = labels
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma
        self.temperature = check_temperature(temperature)

    @classmethod
    def read(cls, labels: Any, source: str = "labels", rows: Sequence[int] | None = None) -> list[Any]:
        return as_labels(labels, source)

    @classmethod
    def made_for(cls, labels: Sequence[Any], options: TaskOptions, source: str, known: Any = None) -> Self:
        classes = cls.order(list_classes(labels, labels, source), source)
        if known is not None and cls.takes_new_labels and _share_labels(known, cls.type, classes):
            classes = sorted_classes([*known.labels, *classes])
        task = cls(classes, None, options.label_smoothing, options.focal_gamma)
        task.class_weight = class_weights(options.class_weight, classes, task.encode(labels, source))
        return task

    @classmethod
    def order(cls, classes: list[Label], source: str) -> list[Label]:
        """The classes, sorted, as this task orders them. Raises InputError where they are none for it."""
        return classes

    @staticmethod
    def hold_out(labels: Sequence[Any], fraction: float, seed: int, source: str) -> tuple[np.ndarray, np.ndarray]:
        return hold_out(len(labels), fraction, seed, labels, source)

    @property
    @abstractmethod
    def outputs(self) -> int: ...

    def settings(self) -> dict[str, Any]:
        return {} if self.temperature == 1 else {"temperature": self.temperature}

    def adopt(self, chosen: dict[str, Any]) -> None:
        self.temperature = check_temperature(chosen.get("temperature", 1.0))

    def calibrate(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        self.temperature = fit_temperature(logits, lambda scaled: self.each(scaled, targets).sum())
        return {"temperature": self.temperature}

    def tempered(self, logits: Tensor) -> Tensor:
        return logits if self.temperature == 1 else logits / self.temperature

    def rows_of(self, known: Any) -> list[int | None] | None:
        if known.type != self.type:
            return None
        if not self.takes_new_labels:
            return [*range(self.outputs)] if known.labels == self.labels else None
        if not _share_labels(known, self.type, self.labels):
            return None
        return [known.labels.index(label) if label in known.labels else None for label in self.labels]

    def encode(self, labels: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return encode_labels(labels, self.labels, source, rows)

    def encode_cells(self, cells: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return encode_labels(cells, [str(label) for label in self.labels], source, rows)

    @abstractmethod
    def each(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
        """The loss of each text, [B], before any weight."""

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        each = self.each(logits, targets, self.label_smoothing, self.focal_gamma)
        return weighted_mean(each, self._counts(each, targets, weights))

    def weight(self, targets: Tensor, weights: Tensor | None = None) -> float:
        like = torch.empty(len(targets), dtype=torch.float64, device=targets.device)
        return float(self._counts(like, targets, weights).sum())

    def _counts(self, like: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """What each text counts in the mean, [B]."""
        counts = torch.ones_like(like) if weights is None else weights.to(like)
        return counts if self.class_weight is None else counts * self.class_weight.to(like)[targets]

    @abstractmethod
    def activate(self, logits: Tensor) -> Tensor: ...

    @abstractmethod
    def evidence(self, logits: Tensor, place: int | None = None) -> Tensor: ...

    def evidence_for(self, place: int | None) -> str:
        assert place is not None
        return str(self.labels[place])

    def explained_place(self, activated: np.ndarray) -> int | None:
        return int(self.places(activated)[0])

    def places(self, activated: np.ndarray) -> np.ndarray:
        """The predicted label's place among the labels, int64 [texts]."""
        return activated.argmax(1)

    def decode(self, activated: np.ndarray) -> np.ndarray:
        return np.asarray(self.labels)[self.places(activated)]

    def decision(self) -> dict[str, Any]:
        return {"decision": "highest"}  # the label with the highest probability

    def confidence(self, activated: np.ndarray) -> np.ndarray | None:
        return activated[np.arange(len(activated)), self.places(activated)]

    def columns(self, activated: np.ndarray, every_label: bool = False) -> dict[str, Any]:
        rounded = activated.astype(np.float64).round(6)
        confidence = rounded[np.arange(len(rounded)), self.places(activated)]
        columns = {"prediction": self.decode(activated).tolist(), "confidence": confidence}
        each = zip(self.labels, rounded.T, strict=True) if every_label else ()
        return columns | {f"probability:{label}": probabilities for label, probabilities in each}

    def examples(self) -> np.ndarray:
        return np.eye(len(self.labels), dtype=np.float32)

    def metrics(self, activated: np.ndarray, targets: Tensor, also: Sequence[str] = ()) -> dict[str, float]:
        predicted, expected = self.places(activated), targets.numpy()
        return {name: OF_CLASSES[name](expected, predicted, activated) for name in dict.fromkeys((*self.scores, *also))}

    def findings(self, activated: np.ndarray, targets: Tensor) -> Findings:
        names = [str(label) for label in self.labels]
        return findings_of_classes(names, self.decode(activated), targets.numpy(), self.places(activated), activated)

    def report(self, activated: np.ndarray, targets: Tensor) -> str:
        names = [str(label) for label in self.labels]
        return report_of_classes(names, targets.numpy(), self.places(activated), activated)


def _share_labels(known: Any, type_name: str, labels: Sequence[Label]) -> bool:
    return known.type == type_name and not set(known.labels).isdisjoint(labels)
