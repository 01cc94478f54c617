"""One of two classes by one logit: the same as two logits whose difference it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ulmfit_fast import InputError
from ulmfit_fast.tasks.binary import Binary
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.single_label import SingleLabel

LOGITS = torch.tensor([[2.0], [-1.0], [0.3], [-4.0]])
TARGETS = torch.tensor([1, 1, 0, 0])


def test_it_is_the_softmax_of_zero_and_the_logit() -> None:
    two = torch.cat([torch.zeros_like(LOGITS), LOGITS], dim=1)
    one, both = Binary(["no", "yes"]), SingleLabel(["no", "yes"])
    assert one.outputs == 1
    assert float(one.loss(LOGITS, TARGETS)) == pytest.approx(float(F.cross_entropy(two, TARGETS)))
    np.testing.assert_allclose(one.activate(LOGITS), both.activate(two), rtol=1e-6)
    assert one.decode(one.activate(LOGITS).numpy()).tolist() == ["yes", "no", "yes", "no"]
    weights, weight = torch.tensor([1.0, 2.0, 0.0, 1.0]), torch.tensor([3.0, 0.5])
    for smoothing, gamma in ((0.0, 0.0), (0.2, 0.0), (0.0, 2.0)):
        pair = [
            task(["no", "yes"], weight, smoothing, gamma).loss(logits, TARGETS, weights)
            for task, logits in ((Binary, LOGITS), (SingleLabel, two))
        ]
        assert float(pair[0]) == pytest.approx(float(pair[1]), rel=1e-6)


def test_focal_loss_by_hand() -> None:
    probability = LOGITS.sigmoid().squeeze(1)
    true = torch.where(TARGETS == 1, probability, 1 - probability)
    expected = (-((1 - true) ** 2) * true.log()).mean()
    assert float(Binary(["no", "yes"], focal_gamma=2.0).loss(LOGITS, TARGETS)) == pytest.approx(float(expected))


def test_two_labels() -> None:
    assert Binary.made_for(["b", "a"], TaskOptions(), "labels").labels == ["a", "b"]
    with pytest.raises(InputError, match="needs two labels, there are 3; use the task single_label"):
        Binary.made_for(["a", "b", "c"], TaskOptions(), "labels")
