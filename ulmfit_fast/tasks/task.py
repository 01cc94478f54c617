"""The seam between what is predicted and the rest: labels, loss and scores of training, validation and folders.

Prediction (``inference.prediction``, ``TextStream``, the commands predict and evaluate) still computes the
probabilities of one label of several itself; a second task needs them to go through ``activate`` and ``decode``.
"""

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

    A new objective is a class with these members, and a line in ``TASKS``.
    """

    type: ClassVar[str]  # its name in config.json
    score: ClassVar[str]  # the metric that is shown beside the loss
    labels: list[Label]  # in the order of the outputs

    @property
    def outputs(self) -> int:
        """Columns of the logits."""

    def encode(self, labels: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        """Targets of labels, [len(labels), ...]. Raises InputError at the first label that is unknown."""

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """What training descends, []: the mean over the rows, or their weighted mean."""

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities (or what stands for them) of logits [B, outputs]."""

    def decode(self, activated: np.ndarray) -> np.ndarray:
        """The prediction of each row of ``activate``'s result, as users write labels."""

    def metrics(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Scores of a whole set of texts; one of them is ``score``."""


TASKS: dict[str, type[SingleLabel]] = {SingleLabel.type: SingleLabel}


def task_of(type_name: str, labels: list[Label]) -> Task:
    """The task that a model folder names. Raises InputError for a name that this version does not know."""
    if type_name not in TASKS:
        raise InputError(f"task {type_name!r} is unknown to this version; it knows {', '.join(TASKS)}; update")
    return TASKS[type_name](labels)
