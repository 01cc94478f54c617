"""scikit-learn's own tools and checks on the estimator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from tests.test_estimator_tasks import make_estimator, make_sets
from tests.tiny import CLASSIFY, FINETUNE, make_task
from ulmfit_fast import ULMFiTClassifier

QUICK = replace(CLASSIFY, epochs=4)

# Those of scikit-learn's checks that give the estimator no numbers to fit.
CHECKS = [
    "check_estimator_cloneable", "check_estimator_tags_renamed", "check_valid_tag_types", "check_estimator_repr",
    "check_no_attributes_set_in_init", "check_mixin_order", "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible", "check_get_params_invariance", "check_set_params",
]  # fmt: skip


KINDS: list[dict[str, str]] = [{}, {"task": "multi_label"}, {"task": "regression"}, {"direction": "both"}]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "".join(kind.values()))
def test_checks_of_scikit_learn(name: str, kind: dict[str, str]) -> None:
    getattr(estimator_checks, name)("ULMFiTClassifier", make_estimator(**kind))


@pytest.mark.filterwarnings("ignore:Can't test estimator:sklearn.exceptions.SkipTestWarning")
def test_check_estimator() -> None:
    """Of an estimator of texts it checks what needs no numbers, as its tags ask."""
    found = estimator_checks.check_estimator(make_estimator())
    assert {each["status"] for each in found} == {"passed"}


def test_checks_of_fitting() -> None:
    """What the other checks ask of any estimator, on texts: check_dict_unchanged, check_estimators_overwrite_params,
    check_dont_overwrite_attributes, check_estimators_fit_returns_self, check_fit_idempotent,
    check_methods_subset_invariance, check_methods_sample_order_invariance, check_n_features_in_after_fitting.
    """
    texts, labels = make_task(40)
    estimator = make_estimator(QUICK, seed=0)
    parameters, attributes = estimator.get_params(), set(vars(estimator))
    assert estimator.fit(np.array(texts), np.array(labels)) is estimator
    assert estimator.get_params() == parameters
    added = set(vars(estimator)) - attributes
    assert all(name.endswith("_") or name.startswith("_") for name in added)
    before = dict(vars(estimator))
    probabilities = estimator.predict_proba(texts)
    assert vars(estimator) == before
    assert np.array_equal(np.concatenate([estimator.predict_proba(texts[i : i + 1]) for i in range(40)]), probabilities)
    order = np.random.default_rng(0).permutation(40)
    assert np.array_equal(estimator.predict_proba([texts[i] for i in order]), probabilities[order])
    assert np.array_equal(estimator.fit(texts, labels).predict_proba(texts), probabilities)
    assert np.array_equal(clone(estimator).fit(texts, labels).predict_proba(texts), probabilities)


def test_cross_validation() -> None:
    texts, labels = make_task(90)
    estimator = make_estimator(CLASSIFY, seed=0)
    assert cross_val_score(estimator, texts, labels, cv=3).mean() > 0.8
    assert cross_val_score(estimator, np.array(texts, dtype=object), labels, cv=3, scoring="roc_auc").mean() > 0.8
    found = cross_val_predict(estimator, texts, labels, cv=3, method="predict_proba")
    assert found.shape == (90, 2)


def test_cross_validation_of_several_labels_and_of_numbers() -> None:
    texts, sets = make_sets(200)
    table = np.array([[int(label in each) for label in ("animal", "plant", "stone")] for each in sets])
    config = replace(CLASSIFY, epochs=12)
    estimator = make_estimator(config, seed=0)
    scores = cross_val_score(estimator, texts, table, cv=KFold(2), scoring="f1_macro", error_score="raise")
    assert scores.mean() > 0.6
    numbers = table.sum(1).astype(float)
    scores = cross_val_score(
        make_estimator(replace(CLASSIFY, epochs=20, lr=0.01), task="regression", seed=0), texts, numbers, cv=2
    )
    assert scores.mean() > 0.3  # R2


def test_calibrated_classifier() -> None:
    texts, labels = make_task(90)
    calibrated = CalibratedClassifierCV(make_estimator(CLASSIFY, seed=0), cv=2).fit(texts, labels)
    probabilities = calibrated.predict_proba(texts)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (calibrated.predict(texts) == np.array(labels)).mean() > 0.8


def test_pipeline() -> None:
    texts, labels = make_task(60)
    upper = [text.upper() for text in texts]
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipeline = Pipeline([("lower", lower), ("classify", make_estimator(CLASSIFY, seed=0))]).fit(upper, labels)
    assert pipeline.score(upper, labels) > 0.8
    assert pipeline.classes_.tolist() == ["bad", "good"]
    expected = make_estimator(CLASSIFY, seed=0).fit(texts, labels)
    assert np.array_equal(pipeline.predict_proba(upper), expected.predict_proba(texts))


def test_grid_search_in_two_processes() -> None:
    texts, labels = make_task(60)
    grid = {"classifier_config__lr": [1e-9, CLASSIFY.lr]}
    search = GridSearchCV(make_estimator(CLASSIFY, seed=1), grid, cv=2, n_jobs=2, error_score="raise").fit(
        texts, labels
    )
    assert search.best_params_ == {"classifier_config__lr": CLASSIFY.lr}
    alone = GridSearchCV(make_estimator(CLASSIFY, seed=1), grid, cv=2, n_jobs=1).fit(texts, labels)
    assert search.cv_results_["mean_test_score"].tolist() == alone.cv_results_["mean_test_score"].tolist()


def test_pooled_vectors_in_a_pipeline(models: Path) -> None:
    """``transform``: what the head sees, whatever the batch, and a step before another classifier."""
    rows = pd.read_csv(models / "train.csv")[:40]
    texts, labels = rows["text"].tolist(), rows["label"].tolist()
    fitted = ULMFiTClassifier.load(models / "clf", device="cpu")
    vectors = fitted.transform([*texts, texts[0] * 200])
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[[3]], fitted.transform(texts[3:4]))
    head = fitted.model_.eval().head(torch.from_numpy(vectors[:40])).softmax(1).detach().numpy()
    np.testing.assert_allclose(head, fitted.predict_proba(texts), atol=1e-5)
    assert list(fitted.get_feature_names_out()) == [f"{k}{i}" for k in ("last", "maximum", "mean") for i in range(12)]
    assert make_pipeline(FrozenEstimator(fitted), LogisticRegression()).fit(texts, labels).score(texts, labels) > 0.9
    quick = {"finetune_config": FINETUNE, "classifier_config": replace(CLASSIFY, epochs=1), "progress": False}
    whole = make_pipeline(ULMFiTClassifier(models / "lm", **quick), LogisticRegression())
    assert whole.fit(texts, labels).predict(texts).shape == (40,)
