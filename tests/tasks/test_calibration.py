"""Temperature: what it is found to be, what it changes and what it does not; calibration error and Brier score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_fast import InputError
from ulmfit_fast.tasks.binary import Binary
from ulmfit_fast.tasks.calibration import brier_score, calibration_error, fit_temperature
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.ordinal import Ordinal
from ulmfit_fast.tasks.reports import report_of_classes
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import task_of


def overconfident(count: int, factor: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are ``factor`` times those that the labels were drawn by."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 3, generator=random) * 2
    return logits * factor, torch.multinomial(logits.softmax(1), 1, generator=random).squeeze(1)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_many_texts_find_the_temperature(factor: float) -> None:
    logits, targets = overconfident(20_000, factor)
    task = SingleLabel(["a", "b", "c"])
    before = task.activate(logits).numpy()
    task.calibrate(logits, targets)
    assert task.temperature == pytest.approx(factor, rel=0.05)
    after = task.activate(logits).numpy()
    assert (after.argmax(1) == before.argmax(1)).all()
    right = after.argmax(1) == targets.numpy()
    assert calibration_error(after.max(1), right) < 0.015
    assert brier_score(targets.numpy(), after) <= brier_score(targets.numpy(), before) + 1e-6


def test_few_texts_change_little() -> None:
    """The cost by hand: the loss and log(T)^2 / 2, at the temperature and beside it."""
    logits, targets = overconfident(6, 3.0, seed=3)

    def cost(temperature: float) -> float:
        return float(F.cross_entropy(logits.double() / temperature, targets, reduction="sum")) + (
            math.log(temperature) ** 2 / 2
        )

    found = fit_temperature(logits, lambda scaled: F.cross_entropy(scaled, targets, reduction="sum"))
    assert cost(found) <= min(cost(found * 0.999), cost(found * 1.001), cost(1.0))
    assert cost(found) == pytest.approx(min(cost(math.exp(x)) for x in np.linspace(-2, 2, 4001)), abs=1e-4)
    right = torch.tensor([[9.0, 0.0]] * 3)  # all certain and right: the loss alone would ask for no temperature at all
    assert 0.3 < fit_temperature(right, lambda scaled: F.cross_entropy(scaled, torch.zeros(3).long())) <= 1
    nothing = fit_temperature(torch.zeros(0, 2), lambda scaled: scaled.sum())
    assert nothing == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "task", [SingleLabel(["a", "b", "c"]), Binary(["a", "b"]), Ordinal([1, 2, 3, 4]), MultiLabel(["a", "b"])],
    ids=lambda task: task.type,
)  # fmt: skip
def test_labels_do_not_depend_on_it(task: SingleLabel) -> None:
    logits = torch.randn(500, task.outputs, generator=torch.Generator().manual_seed(0)) * 4
    before = task.decode(task.activate(logits).numpy()).tolist()
    settings = task.settings() | {"temperature": 2.7}
    hotter = task_of(task.type, task.labels, settings)
    assert hotter.settings()["temperature"] == 2.7
    activated = hotter.activate(logits)
    assert hotter.decode(activated.numpy()).tolist() == before
    assert not torch.equal(activated, task.activate(logits))


def test_calibration_error_by_hand() -> None:
    confidence, right = np.array([0.95, 0.97, 0.55, 0.52, 1.0]), np.array([True, False, True, True, True])
    by_hand = (abs(0.95 + 0.97 + 1.0 - 2) + abs(0.55 + 0.52 - 2)) / 5  # bins from 14/15 on, and from 7/15 to 8/15 ...
    # 0.55 lies in the bin from 8/15 on, 0.52 in the one before.
    by_hand = (abs(0.95 + 0.97 + 1.0 - 2) + abs(0.55 - 1) + abs(0.52 - 1)) / 5
    assert calibration_error(confidence, right) == pytest.approx(by_hand)


def test_the_report_counts_what_abstaining_keeps() -> None:
    activated = np.array([[0.95, 0.05], [0.3, 0.7], [0.55, 0.45], [0.08, 0.92]], dtype=np.float32)
    lines = report_of_classes(["a", "b"], np.array([0, 1, 1, 0]), activated.argmax(1), activated).splitlines()
    table = {line.split()[0]: line.split()[1:] for line in lines[lines.index("") :] if line[:2] in ("0.", "ab")}
    assert table["0.50"] == ["4", "1.0000", "0.5000"]
    assert table["0.60"] == ["3", "0.7500", "0.6667"]
    assert table["0.95"] == ["1", "0.2500", "1.0000"]
    assert table["0.99"] == ["0", "0.0000", "-"]
    assert "0.9 to 1.0              2 0.9350   0.5000" in lines
    assert lines[-1] == "accuracy 0.5000 on 4 texts"


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), "2", True])
def test_a_wrong_temperature(temperature: object) -> None:
    with pytest.raises(ValueError, match="temperature must be a number above 0"):
        task_of("single_label", ["a", "b"], {"temperature": temperature})
    with pytest.raises(InputError, match="unknown to this version"):
        task_of("none", [])
