"""One of several classes that have an order, such as stars: a question a step, is it above this class?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label, as_number, shown
from ulmfit_fast.tasks.losses import yes_or_no
from ulmfit_fast.tasks.metrics import OF_CLASSES, mean_absolute_error
from ulmfit_fast.tasks.one_label import OneLabel


class Ordinal(OneLabel):
    """Each text has one of several labels that are numbers, or texts that read as numbers. Arguments as ``OneLabel``.

    Logit k says whether the label is above the k-th. The logits are put into descending order first, so probabilities
    are never negative. The prediction is the median: the class below which less than half of the probability lies, and
    with which half of it is reached. It errs by fewer steps than the most probable class.

    Source: Frank and Hall, A Simple Approach to Ordinal Classification (ECML 2001); Niu et al., Ordinal Regression with
    Multiple Output CNN (CVPR 2016).
    """

    type: ClassVar[str] = "ordinal"
    scores: ClassVar[tuple[str, ...]] = ("accuracy", "mae")
    known_scores: ClassVar[Collection[str]] = (*OF_CLASSES, "mae")

    def __init__(self, labels: list[Label], *arguments: Any, **options: Any) -> None:
        super().__init__(labels, *arguments, **options)
        if len(labels) < 2 or any(as_number(label) is None for label in labels):
            raise ValueError(f"ordinal has two labels or more, which are numbers, got {labels}")

    @property
    def outputs(self) -> int:
        return len(self.labels) - 1

    @classmethod
    def order(cls, classes: list[Label], source: str) -> list[Label]:
        if any(as_number(label) is None for label in classes):
            wrong = next(label for label in classes if as_number(label) is None)
            raise InputError(
                f"{source}: the task ordinal needs labels that are numbers, got {shown(wrong)}; number the classes in "
                "their order"
            )
        return sorted(classes, key=as_number)  # type: ignore[arg-type]

    def each(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0, gamma: float = 0.0) -> Tensor:
        above = targets.unsqueeze(1) > torch.arange(self.outputs, device=targets.device)
        return yes_or_no(logits, above, smoothing, gamma).mean(1)

    def evidence(self, logits: Tensor, place: int | None = None) -> Tensor:
        """The log-odds that the label is at least this one, of the lowest that it is this one.

        Those of a class in the middle fall on both sides: a word could speak against it by speaking for more.
        """
        assert place is not None
        above = self.tempered(logits).sort(dim=1, descending=True).values
        return above[:, place - 1] if place else -above[:, 0]

    def evidence_for(self, place: int | None) -> str:
        return f"at least {super().evidence_for(place)}" if place else super().evidence_for(place)

    def activate(self, logits: Tensor) -> Tensor:
        above = self.tempered(logits).sort(dim=1, descending=True).values.sigmoid()
        whole = torch.ones_like(above[:, :1])
        return torch.cat([whole, above], dim=1) - torch.cat([above, 0 * whole], dim=1)

    def places(self, activated: np.ndarray) -> np.ndarray:
        below = np.cumsum(activated, axis=1, dtype=np.float64)[:, :-1]
        return (below < 0.5).sum(1)

    def decision(self) -> dict[str, Any]:
        return {"decision": "median"}  # as ``places`` finds it

    def metrics(self, activated: np.ndarray, targets: Tensor, also: Sequence[str] = ()) -> dict[str, float]:
        values = np.array([as_number(label) for label in self.labels], dtype=np.float64)
        error = mean_absolute_error(values[targets.numpy()], values[self.places(activated)])
        others = [name for name in dict.fromkeys((*self.scores, *also)) if name != "mae"]
        predicted, expected = self.places(activated), targets.numpy()
        return {name: OF_CLASSES[name](expected, predicted, activated) for name in others} | {"mae": error}

    def report(self, activated: np.ndarray, targets: Tensor) -> str:
        error = self.metrics(activated, targets)["mae"]
        return f"{super().report(activated, targets)}\nmean absolute error {error:.4f}"
