"""What reports show of each task, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ulmfit_fast.tasks.task import task_of


def test_of_one_label() -> None:
    task, targets = task_of("single_label", ["a", "b", "c"]), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    activated = task.activate(torch.randn(7, 3)).numpy()
    found, places = task.findings(activated, targets), activated.argmax(1)
    assert found.confusion is not None
    assert found.confusion.tolist() == confusion_matrix(targets, places, labels=range(3)).tolist()
    expected = precision_recall_fscore_support(targets, places, labels=range(3), zero_division=0.0)
    assert [each[3:] for each in found.classes] == [pytest.approx(each) for each in np.stack(expected[:3]).T.tolist()]
    assert found.right is not None
    assert found.right.tolist() == (places == targets.numpy()).tolist()
    assert found.badness == pytest.approx(-np.log(activated[range(7), targets]))
    assert sum(each.number for each in found.bins) == 7
    assert sum(each.number * each.right for each in found.bins) == pytest.approx(found.right.sum())
    assert task.findings(np.eye(3, dtype=np.float32)[[1]], torch.tensor([0])).badness[0] < 20  # not infinite


def test_of_several_labels() -> None:
    task, targets = task_of("multi_label", ["a", "b"]), torch.tensor([[1.0, 0], [0, 0], [1, 1]])
    activated = np.array([[0.9, 0.2], [0.6, 0.1], [0.7, 0.3]], np.float32)
    found = task.findings(activated, targets)
    assert found.predicted == [["a"], ["a"], ["a"]]
    assert found.right is not None
    assert found.right.tolist() == [True, False, False]
    assert found.confusion is None
    assert [each.f1 for each in found.classes] == [pytest.approx(0.8), 0.0]
    assert found.badness.argmax() == 2


def test_of_numbers() -> None:
    task = task_of("regression", [], {"mean": 0.0, "scale": 1.0})
    found = task.findings(np.array([[1.0], [5.0]], np.float32), torch.tensor([2.0, 5.5], dtype=torch.float64))
    assert found.right is None
    assert found.badness.tolist() == [1.0, 0.5]
    assert found.numbers is not None
    assert found.classes == found.bins == []
