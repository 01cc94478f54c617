"""The seam between what is predicted and the rest: nobody else turns logits into probabilities, labels or scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.single_label import SingleLabel


class Task(Protocol):
    """What a classifier predicts, from labels as users write them to scores as they read them.

    A new objective is a class with these members, and a line in ``TASKS``. What ``activate`` gives is called
    *activated* everywhere: float32 [texts, ...], a row for each text. Several models are one by its mean.
    """

    type: ClassVar[str]  # its name in config.json
    score: ClassVar[str]  # the metric that is shown beside the loss, one of ``metrics.METRICS``
    labels: list[Label]  # in the order of what is activated

    @property
    def outputs(self) -> int:
        """Columns of the logits."""

    def encode(self, labels: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        """Targets of labels, [len(labels), ...]. Raises InputError at the first label that is unknown."""

    def encode_cells(self, cells: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        """``encode`` of labels as a table's cells hold them, which are texts."""

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """What training descends, []: the mean over the rows, or their weighted mean."""

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities (or what stands for them) of logits [B, outputs]."""

    def decode(self, activated: np.ndarray) -> np.ndarray:
        """The prediction of each row, as users write labels."""

    def columns(self, activated: np.ndarray, every_label: bool = False) -> dict[str, Any]:
        """What a table of predictions says of each row, by column; with ``every_label`` also of each label."""

    def examples(self) -> np.ndarray:
        """Activated rows that could be, with every label among their predictions: what columns there will be."""

    def metrics(self, activated: np.ndarray, targets: Tensor) -> dict[str, float]:
        """Scores of a whole set of texts; one of them is ``score``."""

    def report(self, activated: np.ndarray, targets: Tensor) -> str:
        """What there is to say of a whole set of texts, for people to read."""


TASKS: dict[str, type[SingleLabel]] = {SingleLabel.type: SingleLabel}


def task_of(type_name: str, labels: list[Label]) -> Task:
    """The task that a model folder names. Raises InputError for a name that this version does not know."""
    if type_name not in TASKS:
        raise InputError(f"task {type_name!r} is unknown to this version; it knows {', '.join(TASKS)}; update")
    return TASKS[type_name](labels)
