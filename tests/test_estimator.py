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


def test_going_on_with_more_labels() -> None:
    """The outputs of known labels begin as they were; a label that is new is learned beside them."""
    texts, labels = make_task(80)
    estimator = make_estimator(warm_start=True).fit(texts, labels)
    before = estimator.predict_proba(texts)
    config = replace(CLASSIFY, epochs=1, lr=1e-9)
    estimator.set_params(classifier_config=config).fit([*texts, "film film film"] * 2, [*labels, "none"] * 2)
    assert estimator.classes_.tolist() == ["bad", "good", "none"]
    known = estimator.predict_proba(texts)[:, :2]
    assert (known.argmax(1) == before.argmax(1)).mean() > 0.95  # not all: BatchNorm saw one more epoch
    assert known / known.sum(1, keepdims=True) == pytest.approx(before, abs=0.25)
    estimator.set_params(classifier_config=replace(CLASSIFY, epochs=6))
    random = np.random.default_rng(0)
    plain = [" ".join(random.choice(["the", "film", "was", "its", "story"], random.integers(4, 30))) for _ in range(60)]
    estimator.fit([*texts, *plain[:40]], [*labels, *["none"] * 40])
    assert (estimator.predict(plain[40:]) == "none").mean() > 0.8
    assert estimator.score(texts, labels) > 0.8
    estimator.fit(texts, ["yes" if label == "good" else "no" for label in labels])  # nothing in common: a new head
    assert estimator.classes_.tolist() == ["no", "yes"]


def test_fit_after_load_trains_a_model_of_the_same_kind(tmp_path: Path) -> None:
    texts, labels = make_task(40)
    weights = {"good": 2.0}
    estimator = make_estimator(class_weight=weights, batch_size=7, seed=5).fit(texts, labels)
    estimator.save(tmp_path / "clf")
    loaded = ULMFiTClassifier.load(tmp_path / "clf")
    assert loaded.get_params(deep=False) == estimator.get_params(deep=False)
    expected = estimator.predict_proba(texts)
    assert np.array_equal(loaded.fit(texts, labels).predict_proba(texts), expected)


def test_load_what_the_command_line_trained(models: Path) -> None:
    """``train`` knows nothing of a language model's training but its sizes."""
    loaded = ULMFiTClassifier.load(models / "clf")
    assert (loaded.classifier_config.epochs, loaded.classifier_config.lr) == (8, 0.03)
    sizes = loaded.model_.bpt3c.encoder.config
    assert (loaded.pretrain_config.hidden_size, loaded.pretrain_config.num_layers) == (
        sizes.hidden_size,
        sizes.num_layers,
    )


def test_weights_of_texts_and_classes() -> None:
    """Texts that weigh nothing teach nothing; a heavy class is predicted more often."""
    texts, labels = make_task(80)
    flipped = ["bad" if label == "good" else "good" for label in labels]
    both, weights = [*texts, *texts], [1.0] * 80 + [0.0] * 80
    estimator = make_estimator(seed=1).fit(both, [*labels, *flipped], sample_weight=weights)
    assert estimator.score(texts, labels) > 0.8
    predicted = [
        np.mean(make_estimator(seed=1, class_weight=weight).fit(both, [*labels, *flipped]).predict(texts) == "good")
        for weight in ({"good": 20.0}, {"bad": 20.0})
    ]
    assert predicted[0] > 0.9
    assert predicted[1] < 0.1
    assert make_estimator(class_weight="balanced").fit(texts, labels).score(texts, labels) > 0.8


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
