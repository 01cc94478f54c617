"""Classes with an order: probabilities that are ones, the median, and an order of numbers, not of letters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ulmfit_fast import InputError
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.ordinal import Ordinal


def test_probabilities_and_median() -> None:
    task = Ordinal([1, 2, 3, 4])
    logits = torch.randn(200, task.outputs, generator=torch.Generator().manual_seed(0)) * 3
    activated = task.activate(logits).numpy()
    assert activated.min() >= 0
    np.testing.assert_allclose(activated.sum(1), 1, atol=1e-6)
    above = np.sort(logits.numpy())[:, ::-1] > 0  # the class is above the first, the second, ... at even odds
    assert task.decode(activated).tolist() == (above.sum(1) + 1).tolist()
    [by_hand] = task.activate(torch.tensor([[2.0, 0.5, -1.0]])).tolist()
    above_each = [1.0, *(1 / (1 + np.exp(-x)) for x in (2.0, 0.5, -1.0)), 0.0]
    assert by_hand == pytest.approx(-np.diff(above_each), abs=1e-6)
    task.temperature = 5.0
    assert task.decode(task.activate(logits).numpy()).tolist() == (above.sum(1) + 1).tolist()


def test_loss_is_a_question_for_each_step() -> None:
    task, logits, targets = Ordinal([1, 2, 3]), torch.tensor([[1.0, -2.0], [0.5, 0.25]]), torch.tensor([1, 2])
    above = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    p = logits.sigmoid()
    expected = -(above * p.log() + (1 - above) * (1 - p).log())
    assert float(task.loss(logits, targets)) == pytest.approx(float(expected.mean()))
    weights = torch.tensor([3.0, 1.0])
    assert float(task.loss(logits, targets, weights)) == pytest.approx(float((expected.mean(1) * weights).sum() / 4))


def test_the_order_is_of_numbers() -> None:
    task = Ordinal.made_for(["10", "9", "2.5"] * 2, TaskOptions(), "labels")
    assert task.labels == ["2.5", "9", "10"]
    activated = np.eye(3, dtype=np.float32)
    assert task.metrics(activated, torch.tensor([0, 2, 2])) == {
        "accuracy": pytest.approx(2 / 3),
        "mae": pytest.approx(1 / 3),
    }
    with pytest.raises(InputError, match="needs labels that are numbers, got 'good'; number the classes"):
        Ordinal.made_for(["1", "2", "good"], TaskOptions(), "labels")
