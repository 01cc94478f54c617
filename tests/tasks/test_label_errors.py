"""Confident learning by hand, on made noise, and beside cleanlab."""

from __future__ import annotations

import numpy as np
import pytest

from ulmfit_fast import InputError
from ulmfit_fast.tasks.label_errors import find_label_errors


def made(texts: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, given labels and true ones: a tenth of class 0 is labelled 1, nothing else is wrong."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, texts)
    given = np.where((truth == 0) & (random.random(texts) < 0.1), 1, truth)
    logits = random.normal(size=(texts, 3)) + 3.0 * np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, given, truth


def test_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [0.1, 0.9], [0.85, 0.15]])
    given = np.array([0, 0, 0, 1, 1, 1])
    # Means of the own class: 0.6 and 0.55. Text 2 counts as 1, text 5 as 0, the others as they are labelled.
    found = find_label_errors(probabilities, given)
    assert found.rows.tolist() == [5, 2]  # their own labels have 0.15 and 0.2
    assert found.likely.tolist() == [0, 1]
    assert found.joint == pytest.approx(np.array([[2, 1], [1, 2]]) / 6)
    assert found.share == pytest.approx(1 / 3)


def test_noise_is_found() -> None:
    probabilities, given, truth = made()
    found = find_label_errors(probabilities, given)
    wrong = np.flatnonzero(given != truth)
    assert found.joint.sum() == pytest.approx(1)
    assert found.joint[1, 0] == pytest.approx(len(wrong) / len(given), abs=0.01)
    assert np.isin(wrong, found.rows).mean() > 0.6
    first = found.rows[: len(wrong)]
    assert (given[first] != truth[first]).mean() > 0.6  # of all texts 3 % are wrong


def test_as_cleanlab_finds_them() -> None:
    cleanlab = pytest.importorskip("cleanlab", reason="needs cleanlab")
    from cleanlab.count import estimate_joint
    from cleanlab.filter import find_label_issues

    assert cleanlab
    for seed in range(3):
        probabilities, given, _ = made(500, seed)
        found = find_label_errors(probabilities, given)
        expected = find_label_issues(
            given, probabilities, filter_by="confident_learning", return_indices_ranked_by="self_confidence"
        )
        assert found.rows.tolist() == expected.tolist()
        assert found.joint == pytest.approx(
            estimate_joint(given, probabilities), abs=1 / 500
        )  # theirs counts whole texts


def test_what_cannot_be_judged() -> None:
    half = np.full((4, 2), 0.5)
    assert len(find_label_errors(half, np.array([0, 0, 1, 1])).rows) == 0  # nothing tells the classes apart
    with pytest.raises(InputError, match="every one of 2 classes needs a text"):
        find_label_errors(half, np.zeros(4, np.int64))
    with pytest.raises(InputError, match=r"got \[4, 2\] and \[3\]"):
        find_label_errors(half, np.zeros(3, np.int64))
    with pytest.raises(InputError, match="finite"):
        find_label_errors(half * np.nan, np.array([0, 0, 1, 1]))
