"""Several sources of labels made into one, against Bayes' rule by hand and against what is true of made labels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ulmfit_fast import InputError
from ulmfit_fast.tasks.weak_labels import UNKNOWN_ACCURACY, combine

CLASSES = ["a", "b", "c"]


def test_the_probability_is_that_of_bayes_rule() -> None:
    said = {"x": ["a", "b", None, None], "y": ["b", "b", "c", None]}
    right, shares = {"x": 0.9, "y": 0.6}, np.array([0.5, 0.3, 0.2])
    found = combine(said, CLASSES, right, shares)
    for row in range(3):
        joint = shares.copy()
        for (place, label), source in product(enumerate(CLASSES), said):
            if said[source][row] is not None:
                joint[place] *= right[source] if said[source][row] == label else (1 - right[source]) / 2
        joint /= joint.sum()
        assert found.labels[row] == CLASSES[joint.argmax()]
        assert found.confidence[row] == pytest.approx(joint.max(), abs=1e-12)
    assert found.labels[3] is None
    assert found.confidence[3] == 0
    assert found.accuracies == right


def test_agreement_tells_how_often_sources_are_right() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, 3000)
    right = {"good": 0.9, "fair": 0.75, "poor": 0.5, "few": 0.8}
    said: dict[str, list[str | None]] = {}
    for name, share in right.items():
        wrong = (truth + random.integers(1, 3, len(truth))) % 3
        labels = np.where(random.random(len(truth)) < share, truth, wrong)
        has = random.random(len(truth)) < (0.2 if name == "few" else 0.8)
        said[name] = [CLASSES[label] if it else None for label, it in zip(labels, has, strict=True)]
    found = combine(said, CLASSES)
    for name, share in right.items():
        assert found.accuracies[name] == pytest.approx(share, abs=0.06), name
    labelled = [i for i, label in enumerate(found.labels) if label is not None]
    score = np.mean([found.labels[i] == CLASSES[truth[i]] for i in labelled])
    votes = np.mean([said["good"][i] == CLASSES[truth[i]] for i in labelled if said["good"][i] is not None])
    assert score > 0.8
    assert np.mean(found.confidence[labelled]) == pytest.approx(score, abs=0.03)  # honest
    assert votes < 0.93
    half = combine(said, CLASSES, {"poor": 0.5})  # what is given stays
    assert half.accuracies["poor"] == 0.5


def test_two_sources_cannot_tell() -> None:
    found = combine({"x": ["a", "b"], "y": ["a", None]}, CLASSES)
    assert set(found.accuracies.values()) == {UNKNOWN_ACCURACY}


def test_what_cannot_be_combined() -> None:
    with pytest.raises(InputError, match="no source of labels"):
        combine({}, CLASSES)
    with pytest.raises(InputError, match="must label the same texts"):
        combine({"x": ["a"], "y": ["a", "b"]}, CLASSES)
    with pytest.raises(InputError, match="weak labels: x: row 2: unknown label 'd'"):
        combine({"x": [None, "d"]}, CLASSES)
    with pytest.raises(InputError, match="'z', which is no source"):
        combine({"x": ["a"]}, CLASSES, {"z": 0.8})
    with pytest.raises(InputError, match=r"above 0.3333 \(guessing\) and below 1, got 0.2"):
        combine({"x": ["a"]}, CLASSES, {"x": 0.2})
