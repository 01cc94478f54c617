"""Scores beside scikit-learn's, and where they cannot be told."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as theirs
import torch

from ulmfit_fast import InputError
from ulmfit_fast.tasks.metrics import METRICS, OF_CLASSES, OF_LABEL_SETS, OF_NUMBERS
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import TASKS, check_metric

RANDOM = np.random.default_rng(0)
PROBABILITIES = RANDOM.dirichlet(np.ones(4), 60).astype(np.float32)
EXPECTED, PREDICTED = RANDOM.integers(0, 4, 60), PROBABILITIES.argmax(1)
HAS, FOUND = (RANDOM.random((60, 4)) < 0.3).astype(int), (PROBABILITIES > 0.3).astype(int)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", theirs.accuracy_score(EXPECTED, PREDICTED)),
        ("balanced_accuracy", theirs.balanced_accuracy_score(EXPECTED, PREDICTED)),
        ("f1_macro", theirs.f1_score(EXPECTED, PREDICTED, average="macro")),
        ("f1_micro", theirs.f1_score(EXPECTED, PREDICTED, average="micro")),
        ("f1_weighted", theirs.f1_score(EXPECTED, PREDICTED, average="weighted")),
        ("mcc", theirs.matthews_corrcoef(EXPECTED, PREDICTED)),
        ("auroc", theirs.roc_auc_score(EXPECTED, PROBABILITIES, multi_class="ovr")),
        ("average_precision", theirs.average_precision_score(np.eye(4)[EXPECTED], PROBABILITIES)),
        ("brier", 4 * theirs.mean_squared_error(np.eye(4)[EXPECTED], PROBABILITIES)),
    ],
)
def test_of_classes(name: str, expected: float) -> None:
    assert OF_CLASSES[name](EXPECTED, PREDICTED, PROBABILITIES) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", theirs.accuracy_score(HAS, FOUND)),
        ("f1_macro", theirs.f1_score(HAS, FOUND, average="macro")),
        ("f1_micro", theirs.f1_score(HAS, FOUND, average="micro")),
        ("auroc", theirs.roc_auc_score(HAS, PROBABILITIES)),
        ("average_precision", theirs.average_precision_score(HAS, PROBABILITIES)),
        ("brier", theirs.mean_squared_error(HAS, PROBABILITIES)),
    ],
)
def test_of_label_sets(name: str, expected: float) -> None:
    assert OF_LABEL_SETS[name](HAS, FOUND, PROBABILITIES) == pytest.approx(expected, rel=1e-6)


def test_of_numbers() -> None:
    expected, predicted = RANDOM.normal(size=(2, 30))
    assert OF_NUMBERS["mae"](expected, predicted) == pytest.approx(theirs.mean_absolute_error(expected, predicted))
    assert OF_NUMBERS["rmse"](expected, predicted) == pytest.approx(theirs.root_mean_squared_error(expected, predicted))
    assert OF_NUMBERS["r2"](expected, predicted) == pytest.approx(theirs.r2_score(expected, predicted))
    assert [OF_NUMBERS["r2"](np.ones(3), np.full(3, x)) for x in (1.0, 2.0)] == [1.0, 0.0]


def test_a_label_that_no_text_has() -> None:
    """Left out of what needs both kinds of texts; in F1 it counts 0, as it does in a report."""
    some, found = np.array([0, 1, 0, 1]), np.array([0, 1, 1, 1])
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.4, 0.5, 0.1], [0.1, 0.9, 0.0]])
    assert OF_CLASSES["auroc"](some, found, probabilities) == pytest.approx(1.0)
    assert OF_CLASSES["f1_macro"](some, found, probabilities) == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    assert math.isnan(OF_CLASSES["auroc"](np.zeros(4, int), found, probabilities))


def test_every_score_of_a_task_has_a_description() -> None:
    for task in TASKS.values():
        assert set(task.scores) <= set(task.known_scores) <= set(METRICS)


def test_metrics_that_cannot_choose() -> None:
    task, targets = SingleLabel(["a", "b"]), torch.tensor([0, 0])
    check_metric("loss", task, None)
    check_metric("f1_macro", task, targets)
    for name, wrong, message in (
        ("f1_macro", None, "measured on validation texts, and there are none"),
        ("r2", targets, "means nothing for the task single_label; it has f1_macro, "),
        ("auroc", targets, "needs validation texts that have, and that have not"),
    ):
        with pytest.raises(InputError, match=message):
            check_metric(name, task, wrong)
    with pytest.raises(InputError, match="mcc"):
        check_metric("mcc", MultiLabel(["a", "b"]), torch.zeros(2, 2))
