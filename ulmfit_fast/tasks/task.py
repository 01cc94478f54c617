"""The seam between what is predicted and the rest: nobody else turns logits into probabilities, labels or scores."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.binary import Binary
from ulmfit_fast.tasks.findings import Findings
from ulmfit_fast.tasks.label_sets import are_sets
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.metrics import LOSS
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.ordinal import Ordinal
from ulmfit_fast.tasks.regression import Regression
from ulmfit_fast.tasks.single_label import SingleLabel


class Task(Protocol):
    """What a classifier predicts, from labels as users write them to scores as they read them.

    A new objective is a class with these members, and a line in ``TASKS``. A label belongs to one text: what compares
    texts with each other, such as a ranking of pairs, needs another interface. What ``activate`` gives is called
    *activated* everywhere: float32 [texts, ...], a row for each text. Several models are one by its mean.
    """

    type: ClassVar[str]  # its name in config.json and among options
    scores: ClassVar[tuple[str, ...]]  # the metrics that are shown beside the loss, the first on the curves, too
    known_scores: ClassVar[Collection[str]]  # all that can be asked for, of ``metrics.METRICS``
    predicts_numbers: ClassVar[bool]  # without labels, probabilities and confidence
    labels: list[Label]  # in the order of what is activated

    @classmethod
    def read(cls, labels: Any, source: str = "labels", rows: Sequence[int] | None = None) -> list[Any]:
        """Labels as users give them, checked, one for each text. Raises InputError (source, row)."""

    @classmethod
    def made_for(cls, labels: Sequence[Any], options: TaskOptions, source: str, known: Any = None) -> Self:
        """The task of training on these labels, which ``read`` gave.

        Args:
            labels: of the texts to train on.
            options: of the loss.
            source: where the labels come from, for messages.
            known: the task of a classifier to go on with, whose labels stay.

        Raises:
            InputError: nothing can be learned from the labels; an option that means nothing for the task.
        """

    @staticmethod
    def hold_out(labels: Sequence[Any], fraction: float, seed: int, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Positions to train on, and those of that share of the texts to validate on, both ascending."""

    @property
    def label_delimiter(self) -> str | None:
        """What stands between the labels of a text that may have several; None: it has one."""

    @property
    def outputs(self) -> int:
        """Columns of the logits."""

    def settings(self) -> dict[str, Any]:
        """What config.json holds of the task besides its type: arguments of the class, as JSON can hold them."""

    def calibrate(self, logits: Tensor, targets: Tensor) -> dict[str, Any]:
        """Choose by held-out texts what makes probabilities honest, and labels of them. Returns it, for JSON."""

    def adopt(self, chosen: dict[str, Any]) -> None:
        """Take over what ``calibrate`` chose."""

    def rows_of(self, known: Any) -> list[int | None] | None:
        """For each output that of a known task with the same meaning, None for a new one; None: nothing in common."""

    def encode(self, labels: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        """Targets of labels, [len(labels), ...]. Raises InputError at the first label that is unknown."""

    def encode_cells(self, cells: Sequence[Any], source: str, rows: Sequence[int] | None = None) -> Tensor:
        """``encode`` of labels as a table's cells hold them, which are texts."""

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """What training descends, []: the mean over the rows, or their weighted mean."""

    def weight(self, targets: Tensor, weights: Tensor | None = None) -> float:
        """What ``loss`` of these rows counts beside that of others, where both are to be one mean."""

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities (or what stands for them) of logits [B, outputs]."""

    def evidence(self, logits: Tensor, place: int | None = None) -> Tensor:
        """What explanations explain, [B]: a label's log-odds, log(p / (1 - p)); of a task without labels its number.

        It is smooth where probabilities are saturated.

        Args:
            logits: [B, outputs].
            place: the label's, among ``labels``; None where there are none.
        """

    def evidence_for(self, place: int | None) -> str:
        """Of what ``evidence`` is, for people to read: the label, or "number"."""

    def explained_place(self, activated: np.ndarray) -> int | None:
        """The label that an explanation of this one row [1, ...] is about unless another is asked for: the predicted
        one, of several the most probable. None where there are no labels.
        """

    def decode(self, activated: np.ndarray) -> np.ndarray:
        """The prediction of each row, as users write labels."""

    def decision(self) -> dict[str, Any]:
        """How a program that has not this package decodes what is activated, for JSON: "decision" and what it needs."""

    def confidence(self, activated: np.ndarray) -> np.ndarray | None:
        """How sure each prediction is, from 0 to 1, [texts]; None where the task has no such thing."""

    def columns(self, activated: np.ndarray, every_label: bool = False) -> dict[str, Any]:
        """What a table of predictions says of each row, by column; with ``every_label`` also of each label."""

    def examples(self) -> np.ndarray:
        """Activated rows that could be, with every label among their predictions: what columns there will be."""

    def metrics(self, activated: np.ndarray, targets: Tensor, also: Sequence[str] = ()) -> dict[str, float]:
        """Scores of a whole set of texts: ``scores``, and those asked for. NaN where the texts cannot tell."""

    def findings(self, activated: np.ndarray, targets: Tensor) -> Findings:
        """What reports and comparisons show beside scores."""

    def report(self, activated: np.ndarray, targets: Tensor) -> str:
        """What there is to say of a whole set of texts, for people to read."""


TASKS: dict[str, type[Task]] = {task.type: task for task in (SingleLabel, Binary, MultiLabel, Regression, Ordinal)}
AUTO = "auto"


def task_type(asked: str, labels: Any, known: Task | None = None) -> type[Task]:
    """The kind of task to train.

    Args:
        asked: a name of ``TASKS``; or "auto": several labels where a text has a list of them, else that of ``known``,
            else one of several.
        labels: as users give them.
        known: the task of a classifier to go on with.

    Raises:
        InputError: an unknown name.
    """
    if asked != AUTO:
        return kind_of(asked)
    if are_sets(labels):
        return MultiLabel
    return TASKS[known.type] if known is not None and known.type != MultiLabel.type else SingleLabel


def check_metric(name: str, task: Task, targets: Tensor | None) -> None:
    """Raises InputError where a metric cannot choose the best epoch by validation texts with these targets."""
    if name == LOSS:
        return
    if targets is None:
        raise InputError(f"metric {name!r} is measured on validation texts, and there are none; give some")
    if name not in task.known_scores:
        known = ", ".join(task.known_scores)
        raise InputError(f"metric {name!r} means nothing for the task {task.type}; it has {known}")
    anything = task.activate(torch.zeros(len(targets), task.outputs, device="cpu")).numpy()
    if not math.isfinite(task.metrics(anything, targets, (name,))[name]):
        raise InputError(f"metric {name!r} needs validation texts that have, and that have not, one of the labels")


def task_of(type_name: str, labels: list[Label], settings: dict[str, Any] | None = None) -> Task:
    """The task that a model folder names.

    Raises:
        InputError: a name that this version does not know.
        TypeError, ValueError: settings that cannot be the task's.
    """
    return kind_of(type_name)(labels, **settings or {})  # type: ignore[call-arg]


def kind_of(name: str) -> type[Task]:
    """The class of a task. Raises InputError for a name that this version does not know."""
    if name not in TASKS:
        raise InputError(f"task {name!r} is unknown to this version; it knows {', '.join(TASKS)}; update")
    return TASKS[name]
