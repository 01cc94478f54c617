"""Several labels at once: a question for each label, sigmoid and binary cross-entropy."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.calibration import check_temperature, fit_temperature
from ulmfit_fast.tasks.class_weights import label_weights
from ulmfit_fast.tasks.findings import Findings, findings_of_label_sets
from ulmfit_fast.tasks.hold_out import hold_out_label_sets
from ulmfit_fast.tasks.label_sets import as_label_sets, encode_label_sets, list_label_classes
from ulmfit_fast.tasks.labels import Label, shown, sorted_classes
from ulmfit_fast.tasks.losses import weighted_mean, yes_or_no
from ulmfit_fast.tasks.metrics import OF_LABEL_SETS
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.reports import report_of_label_sets
from ulmfit_fast.tasks.thresholds import check_thresholds, fit_thresholds


class MultiLabel:
    """Each text has any number of several labels. What is activated are their probabilities, float32 [texts, K].

    Args:
        labels: in the order of the logits' columns.
        label_weight: float32 [2, K], what a text counts that lacks, or has, a label; None: all alike.
        label_smoothing, focal_gamma, label_delimiter: as ``TaskOptions``.
        temperature: what the logits are divided by before they become probabilities.
        thresholds: the probability from which on a text has a label, for each; None: 0.5.
    """

    type: ClassVar[str] = "multi_label"
    predicts_numbers: ClassVar[bool] = False
    scores: ClassVar[tuple[str, ...]] = ("f1_macro", "f1_micro")
    known_scores: ClassVar[Collection[str]] = tuple(OF_LABEL_SETS)

    def __init__(
        self, labels: list[Label], label_weight: Tensor | None = None, label_smoothing: float = 0.0,
        focal_gamma: float = 0.0, label_delimiter: str = ";", temperature: float = 1.0,
        thresholds: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.labels, self.label_weight = labels, label_weight
        self.label_smoothing, self.focal_gamma, self.label_delimiter = label_smoothing, focal_gamma, label_delimiter
        self.temperature = check_temperature(temperature)
        self.thresholds = None if thresholds is None else check_thresholds(thresholds, len(labels))

    @classmethod
    def read(cls, labels: Any, source: str = "labels", rows: Sequence[int] | None = None) -> list[Any]:
        return as_label_sets(labels, source, rows)

    @classmethod
    def made_for(cls, labels: Sequence[Any], options: TaskOptions, source: str, known: Any = None) -> Self:
        classes = list_label_classes(labels, source)
        if known is not None and known.type == cls.type and not set(known.labels).isdisjoint(classes):
            classes = sorted_classes([*known.labels, *classes])
        for label in classes:
            if options.label_delimiter in str(label):
                raise InputError(
                    f"{source}: the label {shown(label)} has the delimiter {options.label_delimiter!r} in it, which is "
                    "to stand between labels; choose another label_delimiter"
                )
        task = cls(classes, None, options.label_smoothing, options.focal_gamma, options.label_delimiter)
        task.label_weight = label_weights(options.class_weight, classes, task.encode(labels, source))
        return task

    @staticmethod
    def hold_out(labels: Sequence[Any], fraction: float, seed: int, source: str) -> tuple[np.ndarray, np.ndarray]:
        return hold_out_label_sets(labels, fraction, seed)

    @property
    def outputs(self) -> int:
        return len(self.labels)

    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {"label_delimiter": self.label_delimiter}
        if self.temperature != 1:
            found["temperature"] = self.temperature
        return found if self.thresholds is None else found | {"thresholds": self.thresholds.tolist()}

    def adopt(self, chosen: dict[str, Any]) -> None:
        thresholds = chosen.get("thresholds")
        self.temperature = check_temperature(chosen.get("temperature", 1.0))
        self.thresholds = None if thresholds is None else check_thresholds(thresholds, len(self.labels))

    def calibrate(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        self.temperature = fit_temperature(logits, lambda scaled: yes_or_no(scaled, targets).mean(1).sum())
        self.thresholds = fit_thresholds(self.activate(logits).numpy(), targets.numpy() == 1)
        return {"temperature": self.temperature, "thresholds": self.thresholds.tolist()}

    def rows_of(self, known: Any) -> list[int | None] | None:
        if known.type != self.type or set(known.labels).isdisjoint(self.labels):
            return None
        return [known.labels.index(label) if label in known.labels else None for label in self.labels]

    def encode(self, labels: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return encode_label_sets(labels, self.labels, source, rows)

    def encode_cells(self, cells: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return encode_label_sets(cells, [str(label) for label in self.labels], source, rows)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        each = yes_or_no(logits, targets, self.label_smoothing, self.focal_gamma)
        return weighted_mean(each, self._counts(each, targets, weights))

    def weight(self, targets: Tensor, weights: Tensor | None = None) -> float:
        like = torch.empty(targets.shape, dtype=torch.float64, device=targets.device)
        return float(self._counts(like, targets, weights).sum())

    def _counts(self, like: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """What each text's answer to each question counts in the mean, [B, K]."""
        counts = torch.ones_like(like) if weights is None else weights.to(like).unsqueeze(1).expand_as(like)
        if self.label_weight is None:
            return counts
        absent, present = self.label_weight.to(like)
        return counts * torch.where(targets == 1, present, absent)

    def evidence(self, logits: Tensor, place: int | None = None) -> Tensor:
        assert place is not None
        return (logits if self.temperature == 1 else logits / self.temperature)[:, place]

    def evidence_for(self, place: int | None) -> str:
        assert place is not None
        return str(self.labels[place])

    def explained_place(self, activated: np.ndarray) -> int | None:
        return int(activated[0].argmax())

    def activate(self, logits: Tensor) -> Tensor:
        return (logits if self.temperature == 1 else logits / self.temperature).sigmoid()

    def has(self, activated: np.ndarray) -> np.ndarray:
        """Which labels are predicted, bool [texts, K]."""
        return activated >= (np.float32(0.5) if self.thresholds is None else self.thresholds)

    def decode(self, activated: np.ndarray) -> np.ndarray:
        found = np.empty(len(activated), dtype=object)
        for row, has in enumerate(self.has(activated)):
            found[row] = [self.labels[place] for place in np.flatnonzero(has)]
        return found

    def decision(self) -> dict[str, Any]:
        thresholds = [0.5] * len(self.labels) if self.thresholds is None else self.thresholds.tolist()
        return {"decision": "thresholds", "thresholds": thresholds}  # a text has the labels that reach theirs

    def confidence(self, activated: np.ndarray) -> np.ndarray | None:
        return None

    def columns(self, activated: np.ndarray, every_label: bool = False) -> dict[str, Any]:
        joined = [self.label_delimiter.join(map(str, labels)) for labels in self.decode(activated)]
        rounded = activated.astype(np.float64).round(6)
        each = zip(self.labels, rounded.T, strict=True) if every_label else ()
        return {"prediction": joined} | {f"probability:{label}": probabilities for label, probabilities in each}

    def examples(self) -> np.ndarray:
        return np.eye(len(self.labels), dtype=np.float32)

    def metrics(self, activated: np.ndarray, targets: Tensor, also: Sequence[str] = ()) -> dict[str, float]:
        expected, predicted = targets.numpy().astype(np.int64), self.has(activated).astype(np.int64)
        names = dict.fromkeys((*self.scores, *also))
        return {name: OF_LABEL_SETS[name](expected, predicted, activated) for name in names}

    def findings(self, activated: np.ndarray, targets: Tensor) -> Findings:
        names = [str(label) for label in self.labels]
        return findings_of_label_sets(
            names, self.decode(activated), targets.numpy() == 1, self.has(activated), activated
        )

    def report(self, activated: np.ndarray, targets: Tensor) -> str:
        expected, predicted = targets.numpy().astype(np.int64), self.has(activated).astype(np.int64)
        return report_of_label_sets([str(label) for label in self.labels], expected, predicted, activated)
