"""The probe against scikit-learn's regression, and as the first teacher of self-training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.tiny import CLASSIFY, make_task
from ulmfit_fast import InputError, SelfTrainingConfig, TrainedLanguageModel, self_train
from ulmfit_fast.few_labels.features import Features
from ulmfit_fast.few_labels.probe import STRENGTH, Probe
from ulmfit_fast.few_labels.teacher import Teacher, Vectors, evenly
from ulmfit_fast.inference.pooled_vectors import language_model_vectors
from ulmfit_fast.tasks.binary import Binary
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.single_label import SingleLabel

TEXTS, LABELS = make_task(24)
MORE, TRUE = make_task(60, seed=3)
QUICK = replace(CLASSIFY, epochs=2)


@pytest.mark.parametrize("kind", [SingleLabel, Binary])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_regression_of_scikit_learn(kind: type[SingleLabel] | type[Binary], weighted: bool) -> None:
    random = np.random.default_rng(0)
    classes = ["a", "b"] if kind is Binary else ["a", "b", "c"]
    labels = random.choice(classes, 50)
    x = random.normal(size=(50, 8)) * random.uniform(0.1, 9, 8) + 3
    weights = random.uniform(0.2, 2, 50) if weighted else np.ones(50)
    like = x[random.integers(0, 50, 200)] * 2
    task = kind(classes)
    emphasis = random.uniform(0.5, 20, 8)
    targets = task.encode(labels.tolist(), "labels")
    found = Probe(x, targets, task, torch.from_numpy(weights), like, emphasis).predict(like)

    everything = np.concatenate([x, like])
    mean, deviation = everything.mean(0), everything.std(0) / emphasis
    expected = LogisticRegression(C=1 / STRENGTH, tol=1e-10, max_iter=1000)
    expected.fit((x - mean) / deviation, labels, sample_weight=weights)
    np.testing.assert_allclose(found, expected.predict_proba((like - mean) / deviation), atol=1e-5)


def test_a_feature_that_never_changes_and_one_class_more_than_texts() -> None:
    x = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], dtype=np.float32)
    task = SingleLabel(["a", "b", "c"])
    found = Probe(x, torch.tensor([0, 0, 2]), task, strength=0.01).predict(x)
    assert np.isfinite(found).all()
    assert task.decode(found).tolist() == ["a", "a", "c"]


def test_vectors_are_read_once(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = TrainedLanguageModel.load(models / "lm")
    expected = language_model_vectors(trained.model, trained.tokenizer, MORE[:6])
    vectors = Vectors(Features(trained), MORE)
    assert np.array_equal(vectors.of(np.array([4, 1])), expected[[4, 1]])
    read: list[str] = []
    plain = vectors.read
    monkeypatch.setattr(vectors, "read", lambda texts: (read.extend(texts), plain(texts))[1])
    assert np.array_equal(vectors.of(np.arange(6)), expected)
    assert read == [MORE[i] for i in (0, 2, 3, 5)]


def test_both_have_the_same_say() -> None:
    """A network that is sure of everything, and a probe that is sure of nothing, in reverse: they cancel out."""
    sure = np.array([[0.999, 0.001], [0.001, 0.999], [0.999, 0.001]])
    logs = np.log(sure) / 100
    unsure = np.exp(logs[:, ::-1]) / np.exp(logs).sum(1, keepdims=True)
    np.testing.assert_allclose(evenly(sure, unsure), 0.5, atol=1e-6)
    agreed = evenly(sure, unsure[:, ::-1])
    np.testing.assert_allclose(agreed, unsure[:, ::-1], atol=1e-6)  # as sure as the one that is less so
    np.testing.assert_allclose(agreed.sum(1), 1)


def test_the_teacher_knows_the_task(models: Path) -> None:
    trained = TrainedLanguageModel.load(models / "lm")
    task = SingleLabel(["bad", "good"])
    teacher = Teacher(Vectors(Features(trained), MORE), Dataset(TEXTS, LABELS, None, None), task, seed=0)
    said = task.decode(teacher.predict(np.arange(60)))
    assert np.mean(said == np.array(TRUE)) > 0.7  # of two


def test_rounds_after_each_first_teacher(models: Path) -> None:
    """Of a language model both label first; where nobody is sure enough, the classifier of round 0 is left."""
    for first in ("auto", "probe", "classifier"):
        config = SelfTrainingConfig(rounds=1, first=first, share=0.5)
        found = self_train(TEXTS, LABELS, MORE, models / "lm", config, CLASSIFY, progress=False)
        assert {record["round"] for record in found.models[0].history.records} == {1}
        (taken,) = found.rounds[1].taken
        assert taken["bad"] == taken["good"] > 0, first
    for first in ("both", "probe"):
        config = SelfTrainingConfig(first=first, threshold=1.0)
        found = self_train(TEXTS, LABELS, MORE, models / "lm", config, CLASSIFY, progress=False)
        assert {record["round"] for record in found.models[0].history.records} == {0}
        assert len(found.rounds) == 1


def test_rounds_have_epochs_of_their_own(models: Path) -> None:
    config = SelfTrainingConfig(rounds=1, first="probe", round_epochs=3)
    found = self_train(TEXTS, LABELS, MORE, models / "lm", config, replace(QUICK, epochs=0), progress=False)
    assert [record["epoch"] for record in found.models[0].history.records] == [1, 2, 3]


def test_no_probe_without_a_language_model(models: Path) -> None:
    weak = {"x": ["good"] * 60}
    for base, given in ((models / "clf", None), (None, None), (models / "lm", weak)):
        with pytest.raises(InputError, match="give language models and no weak labels, or first 'classifier'"):
            self_train(TEXTS, LABELS, MORE, base, SelfTrainingConfig(first="probe"), QUICK, weak_labels=given)
