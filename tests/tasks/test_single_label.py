"""One of several classes: the loss beside torch's and by hand, weights, predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ulmfit_fast import InputError
from ulmfit_fast.tasks.class_weights import class_weights
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import task_of

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.5, 0.0, 3.0]])
TARGETS = torch.tensor([0, 1, 1])


def test_loss() -> None:
    task = SingleLabel(["a", "b", "c"])
    assert torch.equal(task.loss(LOGITS, TARGETS), F.cross_entropy(LOGITS, TARGETS))
    each = F.cross_entropy(LOGITS, TARGETS, reduction="none")
    weights = torch.tensor([1.0, 0.0, 3.0])
    assert task.loss(LOGITS, TARGETS, weights) == pytest.approx(float((each[0] + 3 * each[2]) / 4))
    balanced = SingleLabel(["a", "b", "c"], torch.tensor([2.0, 0.5, 1.0]))
    assert balanced.loss(LOGITS, TARGETS) == pytest.approx(
        float(F.cross_entropy(LOGITS, TARGETS, weight=balanced.class_weight))
    )
    assert balanced.loss(LOGITS, TARGETS, weights) == pytest.approx(float((2 * each[0] + 1.5 * each[2]) / 3.5))
    smooth = SingleLabel(["a", "b", "c"], label_smoothing=0.2)
    assert torch.equal(smooth.loss(LOGITS, TARGETS), F.cross_entropy(LOGITS, TARGETS, label_smoothing=0.2))


def test_a_batch_of_weight_zero_has_no_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    SingleLabel(["a", "b", "c"]).loss(logits, TARGETS, torch.zeros(3)).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_predictions() -> None:
    task = SingleLabel(["a", "b", "c"])
    probabilities = task.activate(LOGITS)
    assert probabilities.sum(1).numpy() == pytest.approx(np.ones(3))
    assert task.decode(probabilities.numpy()).tolist() == ["a", "b", "c"]
    assert task.metrics(probabilities.numpy(), TARGETS) == {"accuracy": pytest.approx(2 / 3)}
    assert task.encode(["c", "a"], "labels").tolist() == [2, 0]


def test_weights_of_classes() -> None:
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    labels, targets = ["a", "b", "c"], torch.tensor([0] * 6 + [1] * 3 + [2])
    ours = class_weights("balanced", labels, targets)
    theirs = sklearn.compute_class_weight("balanced", classes=np.arange(3), y=targets.numpy())
    assert ours is not None
    assert ours.numpy() == pytest.approx(theirs)
    assert class_weights(None, labels, targets) is class_weights("none", labels, targets) is None
    assert class_weights({"b": 2}, labels, targets).tolist() == [1, 2, 1]
    for wrong, message in (
        ("even", "must be 'balanced'"),
        ({"d": 1}, "'d' is no label"),
        ({"a": -1}, "got -1"),
        ({"a": "x"}, "got 'x'"),
    ):
        with pytest.raises(InputError, match=message):
            class_weights(wrong, labels, targets)


def test_a_task_of_a_later_version() -> None:
    with pytest.raises(InputError, match="task 'ranking' is unknown to this version; it knows single_label"):
        task_of("ranking", ["a", "b"])
