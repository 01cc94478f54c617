"""A number: it is learned in its own spread, and told in its own unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ulmfit_fast import InputError
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.regression import Regression
from ulmfit_fast.tasks.task import task_of

NUMBERS = [1_000_000.0, 1_000_004.0, 1_000_002.0]


def test_numbers_far_from_zero() -> None:
    task = Regression.made_for(NUMBERS, TaskOptions(), "labels")
    logits = torch.tensor([[-1.0], [1.0], [0.0]])
    targets = task.encode(NUMBERS, "labels")
    scaled = (np.array(NUMBERS) - np.mean(NUMBERS)) / np.std(NUMBERS)
    expected = np.square(logits.squeeze(1).numpy() - scaled)
    assert float(task.loss(logits, targets)) == pytest.approx(expected.mean(), rel=1e-5)
    assert float(task.loss(logits, targets, torch.tensor([1.0, 0.0, 0.0]))) == pytest.approx(expected[0], rel=1e-5)
    again = task_of("regression", [], task.settings())
    activated = again.activate(torch.tensor(scaled[:, None], dtype=torch.float32)).numpy()
    assert again.decode(activated).tolist() == pytest.approx(NUMBERS, abs=0.1)
    assert again.metrics(activated, targets)["r2"] > 0.99


def test_what_is_no_number() -> None:
    assert Regression.read(["3", "-1e2", " 4.5 "]) == [3, -100, 4.5]
    for labels, message in (
        (["1", "x"], "row 2: a finite number is needed, got 'x'"),
        ([1, float("nan")], "row 2"),
        ([1, None], "row 2"),
    ):
        with pytest.raises(InputError, match=message):
            Regression.read(labels)
    with pytest.raises(InputError, match="all labels are 3; there is nothing to learn"):
        Regression.made_for([3.0, 3.0], TaskOptions(), "labels")
    for options, name in ((TaskOptions("balanced"), "class_weight"), (TaskOptions(focal_gamma=1), "focal_gamma")):
        with pytest.raises(InputError, match=f"{name} means nothing for the task regression"):
            Regression.made_for(NUMBERS, options, "labels")


def test_written_numbers_are_short() -> None:
    assert Regression([]).columns(np.array([[3.4], [1e-9]], dtype=np.float32)) == {"prediction": [3.4, 1e-9]}
