"""A number: squared error."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.findings import Findings, findings_of_numbers
from ulmfit_fast.tasks.hold_out import hold_out
from ulmfit_fast.tasks.labels import Label, as_numbers
from ulmfit_fast.tasks.losses import weighted_mean
from ulmfit_fast.tasks.metrics import OF_NUMBERS
from ulmfit_fast.tasks.options import TaskOptions


class Regression:
    """Each text has a number. What is activated is that number, float32 [texts, 1].

    The model learns numbers of mean 0 and deviation 1, whatever the labels' are.

    Args:
        labels: none; other tasks have some.
        mean, scale: of the labels that were learned from.
    """

    type: ClassVar[str] = "regression"
    predicts_numbers: ClassVar[bool] = True
    scores: ClassVar[tuple[str, ...]] = ("r2", "mae")
    known_scores: ClassVar[Collection[str]] = tuple(OF_NUMBERS)
    label_delimiter: str | None = None

    def __init__(self, labels: list[Label], mean: float = 0.0, scale: float = 1.0) -> None:
        self.labels, self.mean, self.scale = labels, float(mean), float(scale)
        if labels or not np.isfinite([self.mean, self.scale]).all() or self.scale <= 0:
            raise ValueError(f"regression has no labels, a mean and a scale above 0, got {labels}, {mean}, {scale}")

    @classmethod
    def read(cls, labels: Any, source: str = "labels", rows: Sequence[int] | None = None) -> list[Any]:
        return as_numbers(labels, source, rows)

    @classmethod
    def made_for(cls, labels: Sequence[Any], options: TaskOptions, source: str, known: Any = None) -> Self:
        options.refuse(cls.type, "class_weight", "label_smoothing", "focal_gamma")
        if known is not None and known.type == cls.type:
            return cls([], known.mean, known.scale)
        numbers = np.asarray(labels, dtype=np.float64)
        scale = float(numbers.std())
        if scale == 0 or not np.isfinite(scale):
            reason = f"all labels are {numbers[0]:g}" if scale == 0 else "the labels are too large"
            raise InputError(f"{source}: {reason}; there is nothing to learn")
        return cls([], float(numbers.mean()), scale)

    @staticmethod
    def hold_out(labels: Sequence[Any], fraction: float, seed: int, source: str) -> tuple[np.ndarray, np.ndarray]:
        return hold_out(len(labels), fraction, seed)

    @property
    def outputs(self) -> int:
        return 1

    def settings(self) -> dict[str, Any]:
        return {"mean": self.mean, "scale": self.scale}

    def calibrate(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        return {}  # there are no probabilities

    def adopt(self, chosen: dict[str, Any]) -> None:
        """Nothing was chosen."""

    def rows_of(self, known: Any) -> list[int | None] | None:
        return [0] if known.type == self.type else None

    def encode(self, labels: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return torch.tensor(as_numbers(labels, source, rows), dtype=torch.float64, device="cpu")

    def encode_cells(self, cells: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        return self.encode(cells, source, rows)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        errors = (logits.squeeze(1) - ((targets - self.mean) / self.scale).to(logits)).square()
        return errors.mean() if weights is None else weighted_mean(errors, weights.to(errors))

    def evidence(self, logits: Tensor, place: int | None = None) -> Tensor:
        return self.activate(logits).squeeze(1)

    def evidence_for(self, place: int | None) -> str:
        return "number"

    def explained_place(self, activated: np.ndarray) -> int | None:
        return None

    def weight(self, targets: Tensor, weights: Tensor | None = None) -> float:
        return float(len(targets) if weights is None else weights.double().sum())

    def activate(self, logits: Tensor) -> Tensor:
        return logits * self.scale + self.mean

    def decode(self, activated: np.ndarray) -> np.ndarray:
        return activated[:, 0].astype(np.float64)

    def decision(self) -> dict[str, Any]:
        return {"decision": "number"}

    def confidence(self, activated: np.ndarray) -> np.ndarray | None:
        return None

    def columns(self, activated: np.ndarray, every_label: bool = False) -> dict[str, Any]:
        return {"prediction": [float(f"{number:.7g}") for number in activated[:, 0]]}

    def examples(self) -> np.ndarray:
        return np.full((1, 1), 0.5, dtype=np.float32)

    def metrics(self, activated: np.ndarray, targets: Tensor, also: Sequence[str] = ()) -> dict[str, float]:
        names = dict.fromkeys((*self.scores, *also))
        return {name: OF_NUMBERS[name](targets.numpy(), self.decode(activated)) for name in names}

    def findings(self, activated: np.ndarray, targets: Tensor) -> Findings:
        return findings_of_numbers(targets.numpy(), self.decode(activated))

    def report(self, activated: np.ndarray, targets: Tensor) -> str:
        found = self.metrics(activated, targets, ("rmse",))
        return (
            f"mean absolute error {found['mae']:.6g}, root of the mean squared error {found['rmse']:.6g}, "
            f"R2 {found['r2']:.4f} on {len(targets)} texts"
        )
