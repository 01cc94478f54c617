"""The made sets of ``benchmarks.accuracy``: their law, and that the comparison runs (at sizes that measure nothing)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy import made_sets
from benchmarks.accuracy.made_sets import LABELS, MOST_FREQUENT, NEGATIONS, RAREST, scores, several_labels


def test_labels_are_the_words_that_are_not_negated() -> None:
    made = several_labels(800, negations=True, seed=1)
    assert made.texts == several_labels(800, negations=True, seed=1).texts != several_labels(800, True, seed=2).texts
    for text, labels in zip(made.texts, made.targets, strict=True):
        named, negated = set(), False
        for word in text.split():
            if word in NEGATIONS:
                negated = True
            elif word.startswith("topic"):
                if not negated:
                    named.add(f"label{int(word[5:].split('x')[0]):02}")
                negated = False
        assert sorted(named) == labels
    counts = np.array([sum(f"label{i:02}" in labels for labels in made.targets) for i in (0, LABELS - 1)]) / 800
    assert counts == pytest.approx([MOST_FREQUENT, RAREST], rel=0.6)


def test_scores_are_the_sum_of_opinions() -> None:
    made = scores(50, negations=True, seed=3, spread=0.0)
    worth = np.linspace(-3, 3, 24)
    for text, target in zip(made.texts, made.targets, strict=True):
        total, factor = 50.0, 1.0
        for word in text.split():
            if word in NEGATIONS:
                factor = -factor
            elif word == "very":
                factor *= 2
            elif word.startswith("opinion"):
                total, factor = total + factor * worth[int(word[7:])], 1.0
        assert target == pytest.approx(total)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_the_comparison_runs(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TRAIN": 60, "VALID": 20, "TEST": 20, "UNLABELLED": 20, "RAREST": 0.2}.items():
        monkeypatch.setattr(made_sets, name, value)
    small = {"embedding_size": 8, "hidden_size": 8, "epochs": 1}
    monkeypatch.setattr(made_sets, "PRETRAIN", replace(made_sets.PRETRAIN, **small))
    monkeypatch.setattr(made_sets, "CLASSIFY", replace(made_sets.CLASSIFY, **small))
    found = made_sets.compare(task, negations=True, seed=0)
    assert set(found) == {"ours", "TF-IDF"}
    assert all(np.isfinite(list(measured.values())).all() for measured in found.values())
