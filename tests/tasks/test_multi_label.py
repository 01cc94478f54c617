"""Several labels at once: reading, the loss beside torch's, weights, thresholds, predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import f1_score
from torch.nn import functional as F

from ulmfit_fast import InputError
from ulmfit_fast.tasks.class_weights import label_weights
from ulmfit_fast.tasks.label_sets import are_sets, as_label_sets
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.thresholds import ENOUGH, fit_thresholds

SETS = [["b", "a"], [], ["c"], ["a"]]
TARGETS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
TABLE = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize("table", [TABLE, TABLE.astype(float), csr_matrix(TABLE), torch.tensor(TABLE), TABLE == 1])
def test_a_table_of_zeros_and_ones(table: object) -> None:
    """A column of zeros is a label, too: predictions must have it."""
    assert are_sets(table)
    task = MultiLabel.made_for(MultiLabel.read(table), TaskOptions(), "labels")
    assert task.labels == [0, 1, 2, 3]
    assert task.encode(MultiLabel.read(table), "labels").numpy().tolist() == TABLE.tolist()


def test_labels_as_callers_give_them() -> None:
    expected = [["a", "b"], [], ["c"], ["a"]]
    for sets in (SETS, [tuple(each) for each in SETS], [set(each) for each in SETS], pd.Series(SETS)):
        assert are_sets(sets)
        assert as_label_sets(sets) == expected
    assert as_label_sets([["a", "a"]]) == [["a"]]
    frame = pd.DataFrame(TABLE[:, :3], columns=["x", "y", "z"])
    assert as_label_sets(frame) == [["x", "y"], [], ["z"]]
    assert not are_sets(["a", "b"])
    task = MultiLabel.made_for(as_label_sets(SETS), TaskOptions(), "labels")
    assert torch.equal(task.encode(SETS, "labels"), TARGETS)
    assert torch.equal(MultiLabel([1, 2]).encode_cells([["2"], []], "file"), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a;b"], "row 1: a list of labels is needed for each text, got 'a;b'"),
        ([["a"], [None]], "row 2: row 1: a label must be a text or a number"),
        ([["a"], [1]], "labels are all texts or all numbers"),
        ([[], []], "no text has a label"),
        ([["a;b"], ["c"]], "'a;b' has the delimiter ';' in it"),
        (np.array([[0, 2]]), "row 1: column 1 must be 0 or 1, got "),
    ],
)
def test_what_cannot_be_labels(labels: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MultiLabel.made_for(MultiLabel.read(labels), TaskOptions(), "labels")


def test_an_unknown_label_is_named_with_its_row() -> None:
    with pytest.raises(InputError, match="test: row 7: unknown label 'z'; the model knows a, b"):
        MultiLabel(["a", "b"]).encode([["a"], ["b", "z"]], "test", [4, 7])


def test_loss() -> None:
    task, each = MultiLabel(["a", "b", "c"]), F.binary_cross_entropy_with_logits(LOGITS, TARGETS, reduction="none")
    assert float(task.loss(LOGITS, TARGETS)) == pytest.approx(float(each.mean()))
    weights = torch.tensor([1.0, 0.0, 3.0, 2.0])
    assert float(task.loss(LOGITS, TARGETS, weights)) == pytest.approx(float((each.mean(1) * weights).sum() / 6))
    ours = float(MultiLabel(["a", "b", "c"], torch.tensor([[1.0] * 3, [2.0, 3.0, 4.0]])).loss(LOGITS, TARGETS))
    positive = F.binary_cross_entropy_with_logits(
        LOGITS, TARGETS, pos_weight=torch.tensor([2.0, 3.0, 4.0]), reduction="sum"
    )
    assert ours == pytest.approx(float(positive) / float(1 * (TARGETS == 0).sum() + 2 * 2 + 3 + 4))
    with torch.no_grad():
        assert float(task.loss(LOGITS, TARGETS, torch.zeros(4))) == 0


def test_balanced_weights() -> None:
    weights = label_weights("balanced", ["a", "b", "c"], TARGETS)
    assert weights is not None
    counts = torch.where(TARGETS == 1, weights[1], weights[0])
    present, absent = (counts * TARGETS).sum(0), (counts * (1 - TARGETS)).sum(0)
    assert present.tolist() == pytest.approx([2.0, 2.0, 2.0])
    assert absent.tolist() == pytest.approx([2.0, 2.0, 2.0])
    assert label_weights({"b": 5}, ["a", "b", "c"], TARGETS).tolist() == [[1, 1, 1], [1, 5, 1]]
    with pytest.raises(InputError, match="'d' is no label"):
        label_weights({"d": 5}, ["a", "b", "c"], TARGETS)


def test_predictions() -> None:
    task = MultiLabel(["a", "b", "c"], label_delimiter="|", thresholds=[0.5, 0.9, 0.1])
    activated = np.array([[0.6, 0.6, 0.05], [0.4, 0.95, 0.2], [0, 0, 0]], dtype=np.float32)
    assert task.decode(activated).tolist() == [["a"], ["b", "c"], []]
    columns = task.columns(activated, every_label=True)
    assert columns["prediction"] == ["a", "b|c", ""]
    assert columns["probability:b"].tolist() == pytest.approx([0.6, 0.95, 0])
    assert task.columns(task.examples())["prediction"] == ["a", "b", "c"]
    settings = task.settings()
    assert (settings["label_delimiter"], settings["thresholds"]) == ("|", pytest.approx([0.5, 0.9, 0.1]))


def test_thresholds_have_the_highest_f1() -> None:
    """Beside a search over all thresholds."""
    random = np.random.default_rng(0)
    has = random.random((300, 4)) < [0.5, 0.2, 0.1, 0.003]
    probabilities = (0.3 * has + 0.7 * random.random((300, 4))).astype(np.float32)
    probabilities[:, 1] = probabilities[:, 1].round(1)  # with ties
    thresholds = fit_thresholds(probabilities, has)
    assert has[:, 3].sum() < ENOUGH <= has[:, 2].sum()
    for label in range(3):
        best = max(f1_score(has[:, label], probabilities[:, label] >= t) for t in np.unique(probabilities[:, label]))
        assert f1_score(has[:, label], probabilities[:, label] >= thresholds[label]) == pytest.approx(best)
    assert fit_thresholds(probabilities, np.zeros_like(has)).tolist() == [0.5] * 4
    assert 0 < fit_thresholds(np.zeros((9, 1), np.float32), np.ones((9, 1), bool))[0] < 1e-6
    assert fit_thresholds(np.ones((9, 1), np.float32), np.ones((9, 1), bool)).tolist() == [0.5]
