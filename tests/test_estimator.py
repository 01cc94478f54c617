"""``ULMFiTClassifier`` and scikit-learn's conventions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import ClassifierConfig, InputError, ULMFiTClassifier, pretrain_lm


def make_estimator(**parameters: object) -> ULMFiTClassifier:
    return ULMFiTClassifier(
        pretrain_config=PRETRAIN, finetune_config=FINETUNE, classifier_config=CLASSIFY, **parameters
    )


def test_parameters_and_clone() -> None:
    estimator = make_estimator(seed=3)
    parameters = estimator.get_params()
    assert parameters["classifier_config"] == CLASSIFY
    assert parameters["seed"] == 3
    copy = clone(estimator)
    assert copy is not estimator
    assert copy.get_params() == parameters
    assert estimator.set_params(batch_size=5).batch_size == 5
    assert is_classifier(estimator)


def test_fields_of_configurations() -> None:
    estimator = ULMFiTClassifier(finetune_config=FINETUNE)
    assert estimator.get_params()["classifier_config__epochs"] == ClassifierConfig().epochs
    assert "classifier_config__epochs" not in estimator.get_params(deep=False)
    estimator.set_params(classifier_config__lr=0.5, classifier_config__epochs=2, finetune_config__bptt=7, seed=4)
    assert estimator.classifier_config == replace(ClassifierConfig(), lr=0.5, epochs=2)
    assert (estimator.finetune_config, estimator.seed) == (replace(FINETUNE, bptt=7), 4)
    assert estimator.set_params(classifier_config__lr=0.1, classifier_config=CLASSIFY).classifier_config == replace(
        CLASSIFY, lr=0.1
    )
    with pytest.raises(ValueError, match="no parameter 'classifier_config__rate'"):
        estimator.set_params(classifier_config__rate=1)
    with pytest.raises(InputError, match="lr must be above 0"):
        estimator.set_params(classifier_config__lr=-1)
    with pytest.raises(ValueError, match="no parameter 'classifier_config__hidden_size'"):
        estimator.set_params(classifier_config__hidden_size=64)  # the encoder is the language model's
    assert estimator.set_params(**estimator.get_params()).get_params() == estimator.get_params()


def test_grid_search() -> None:
    texts, labels = make_task(60)
    grid = {"classifier_config__lr": [1e-9, CLASSIFY.lr]}
    search = GridSearchCV(make_estimator(seed=1), grid, cv=2, error_score="raise").fit(texts, labels)
    assert search.best_params_ == {"classifier_config__lr": CLASSIFY.lr}
    assert search.best_estimator_.classifier_config == CLASSIFY


def test_fit_predict_score_save_load(tmp_path: Path) -> None:
    texts, labels = make_task(120)
    test_texts, test_labels = make_task(40, seed=5)
    estimator = make_estimator()
    assert estimator.fit(texts, labels, unlabeled=make_task(60, seed=7)[0]) is estimator
    assert estimator.classes_.tolist() == ["bad", "good"]
    assert {record["stage"] for record in estimator.history_.records} == {"pretrain LM", "classifier"}
    assert estimator.score(test_texts, test_labels) > 0.85
    probabilities = estimator.predict_proba(test_texts)
    assert probabilities.shape == (40, 2)
    assert np.array_equal(estimator.predict(test_texts), estimator.classes_[probabilities.argmax(1)])
    assert estimator.predict([""]).shape == (1,)
    estimator.save(tmp_path / "clf")
    loaded = ULMFiTClassifier.load(tmp_path / "clf")
    assert np.array_equal(loaded.predict_proba(test_texts), probabilities)
    assert np.array_equal(loaded.classes_, estimator.classes_)
    with pytest.raises(InputError, match="already holds a model"):
        estimator.save(tmp_path / "clf")


def test_pretrained_folder_and_integer_labels(tmp_path: Path) -> None:
    texts, labels = make_task(40)
    pretrain_lm(texts, PRETRAIN, output=tmp_path / "lm")
    estimator = make_estimator(pretrained=tmp_path / "lm")
    estimator.fit(texts, [int(label == "good") for label in labels])
    assert estimator.predict(texts).dtype.kind == "i"
    assert {record["stage"] for record in estimator.history_.records} == {"fine-tune LM", "classifier"}


def test_not_fitted() -> None:
    with pytest.raises(NotFittedError):
        ULMFiTClassifier().predict(["a"])


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="classifier_config must be a ClassifierConfig, got PretrainConfig"):
        make_estimator().set_params(classifier_config=PRETRAIN).fit(["a", "b"], ["a", "b"])
    estimator = make_estimator()
    with pytest.raises(TypeError, match="put it into a list"):
        estimator.fit("one text", ["a"])
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str, got float"):
        estimator.fit(["a", float("nan")], ["a", "b"])
    with pytest.raises(InputError, match="all labels are 'a'"):
        estimator.fit(["a", "b"], ["a", "a"])
