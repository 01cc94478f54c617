"""``ULMFiTClassifier`` with each task: what fit takes, what predict gives, what a folder keeps."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import is_classifier, is_regressor

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import InputError, ULMFiTClassifier
from ulmfit_fast.tasks.calibration import calibration_error
from ulmfit_fast.training.config import ClassifierConfig

WORDS = {"animal": ["dog", "cat"], "plant": ["tree", "rose"], "stone": ["rock", "gem"]}


def make_estimator(config: ClassifierConfig = CLASSIFY, **parameters: object) -> ULMFiTClassifier:
    return ULMFiTClassifier(
        pretrain_config=PRETRAIN, finetune_config=FINETUNE, classifier_config=config, progress=False, **parameters
    )


def make_sets(count: int = 120, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    random, texts, sets = np.random.default_rng(seed), [], []
    for _ in range(count):
        labels = [label for label in WORDS if random.random() < 0.4]
        words = [str(random.choice(WORDS[label])) for label in labels for _ in range(2)] + ["the", "was", "it"] * 2
        random.shuffle(words)
        texts.append(" ".join(words))
        sets.append(labels)
    return texts, sets


def test_several_labels(tmp_path: Path) -> None:
    texts, sets = make_sets()
    new_texts, new_sets = make_sets(40, 5)
    estimator = make_estimator().fit(texts, sets, valid_texts=texts, valid_labels=sets)
    assert estimator.classes_.tolist() == list(WORDS)
    assert estimator.task_.type == "multi_label"
    assert estimator.score(new_texts, new_sets) > 0.8
    assert estimator.score(new_texts, [list(reversed(each)) for each in new_sets]) == estimator.score(
        new_texts, new_sets
    )
    found = estimator.predict(new_texts)
    assert [each == expected for each, expected in zip(found, new_sets, strict=True)].count(True) > 32
    estimator.save(tmp_path / "clf")
    loaded = ULMFiTClassifier.load(tmp_path / "clf")
    assert loaded.predict(new_texts).tolist() == found.tolist()
    assert np.array_equal(loaded.task_.thresholds, estimator.task_.thresholds)
    assert loaded.fit(texts, sets, valid_texts=texts, valid_labels=sets).predict(new_texts).tolist() == found.tolist()
    stream = estimator.stream()
    stream.feed(new_texts[0])
    assert stream.predict() == found[0]
    with pytest.raises(InputError, match="the task multi_label has no confidence"):
        estimator.predict(new_texts, abstain=0.5)


def test_zeros_and_ones_come_back_as_such(tmp_path: Path) -> None:
    texts, sets = make_sets()
    table = pd.DataFrame({label: [int(label in each) for each in sets] for label in [*WORDS, "water"]})
    estimator = make_estimator().fit(texts, table)
    assert estimator.classes_.tolist() == ["animal", "plant", "stone", "water"]
    predicted = estimator.predict(texts)
    assert predicted.shape == table.shape
    assert set(np.unique(predicted)) == {0, 1}
    assert not predicted[:, 3].any()
    assert estimator.score(texts, table) == pytest.approx((predicted == table.to_numpy()).all(1).mean())
    estimator.save(tmp_path / "clf")
    assert np.array_equal(ULMFiTClassifier.load(tmp_path / "clf").predict(texts), predicted)
    in_int8 = estimator.quantize().predict(texts)
    assert in_int8.dtype == predicted.dtype
    assert (in_int8 == predicted).mean() > 0.98
    lists = make_estimator().fit(texts, sets).predict(texts)  # without "water" another head, which begins otherwise
    as_table = np.array([[label in each for label in table] for each in lists])
    assert (as_table == predicted).mean() > 0.98


def test_numbers(tmp_path: Path) -> None:
    texts, sets = make_sets(160)
    numbers = [1e6 + 1000.0 * len(each) for each in sets]
    estimator = make_estimator(replace(CLASSIFY, epochs=12), task="regression").fit(texts, numbers)
    predicted = estimator.predict(texts)
    assert predicted.dtype == np.float64
    assert estimator.score(texts, numbers) > 0.7
    assert estimator.score(texts, numbers) == pytest.approx(
        1 - np.var(np.array(numbers) - predicted) / np.var(numbers), abs=0.05
    )
    assert not hasattr(estimator, "predict_proba")
    assert not hasattr(estimator, "classes_")
    estimator.save(tmp_path / "clf")
    loaded = ULMFiTClassifier.load(tmp_path / "clf")
    assert np.array_equal(loaded.predict(texts), predicted)
    assert loaded.task == "regression"
    stream = loaded.stream()
    stream.feed(texts[0])
    assert stream.predict() == predicted[0]
    assert make_estimator().fit(texts, [len(each) for each in sets]).task_.type == "single_label"  # unless asked for


@pytest.mark.parametrize("task", ["regression", "ordinal", "binary", "multi_label"])
def test_going_on(task: str) -> None:
    """Without a task given the classifier's own holds, and at hardly any rate its head is as it was."""
    texts, sets = make_sets(120)
    labels: list = sets
    if task != "multi_label":
        labels = ["animal" in each for each in sets] if task == "binary" else [len(each) + 3 for each in sets]
    config = replace(CLASSIFY, epochs=2, task=task)
    estimator = make_estimator(config, warm_start=True).fit(texts, labels)
    before, settings = estimator.model_.head[6].weight.detach().clone(), estimator.task_.settings()
    estimator.set_params(classifier_config=replace(config, epochs=1, lr=1e-9, task="auto")).fit(texts, labels)
    assert (estimator.task_.type, estimator.task_.settings()) == (task, settings)
    assert torch.allclose(estimator.model_.head[6].weight, before, atol=1e-5)
    if task == "ordinal":  # other classes: a new head
        estimator.fit(texts, [label + 1 for label in labels])
        assert not torch.allclose(estimator.model_.head[6].weight, before, atol=1e-2)


def test_it_says_what_it_is() -> None:
    assert is_classifier(make_estimator())
    assert is_classifier(make_estimator(task="multi_label"))
    for estimator in (make_estimator(task="regression"), make_estimator(replace(CLASSIFY, task="regression"))):
        assert is_regressor(estimator)
        assert not is_classifier(estimator)
        assert not hasattr(estimator, "predict_proba")


def noisy(count: int, seed: int) -> tuple[list[str], list[str]]:
    """A fifth of the labels is wrong: who is certain is wrong about it."""
    texts, labels = make_task(count, seed)
    flip = np.random.default_rng(seed).random(count) < 0.2
    return texts, [
        ("bad" if label == "good" else "good") if f else label for label, f in zip(labels, flip, strict=True)
    ]


def test_calibration_and_abstaining() -> None:
    texts, labels = noisy(100, 1)
    valid, test = noisy(300, 2), noisy(400, 3)
    config = replace(CLASSIFY, epochs=25, metric="accuracy")
    fitted = [
        make_estimator(config, calibrate=calibrate, seed=0).fit(
            texts, labels, valid_texts=valid[0], valid_labels=valid[1]
        )
        for calibrate in (True, False)
    ]
    assert fitted[1].task_.temperature == 1
    assert fitted[0].task_.temperature != 1
    errors = []
    for estimator in fitted:
        probabilities = estimator.predict_proba(test[0])
        right = estimator.predict(test[0]) == np.array(test[1])
        errors.append(calibration_error(probabilities.max(1), right))
    assert errors[0] < errors[1]
    assert np.array_equal(fitted[0].predict(test[0]), fitted[1].predict(test[0]))
    level = float(np.median(probabilities.max(1)))
    some = fitted[1].predict(test[0], abstain=level)
    assert [label is None for label in some] == (probabilities.max(1) < level).tolist()
    assert set(fitted[1].predict(test[0], abstain=level, reject_label="?")) == {"good", "bad", "?"}


def test_a_fitted_one_is_pickled() -> None:
    """What joblib does to send it to another process."""
    texts, sets = make_sets(60)
    estimator = make_estimator(replace(CLASSIFY, epochs=1)).fit(texts, sets)
    again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.predict_proba(texts), estimator.predict_proba(texts))
