"""A language model's vectors as a step of scikit-learn's pipelines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.tiny import make_task
from ulmfit_fast import InputError, TrainedLanguageModel, ULMFiTVectorizer
from ulmfit_fast.inference.pooled_vectors import language_model_vectors

TEXTS, LABELS = make_task(60, seed=1)


def test_it_is_the_scaled_pooled_state(models: Path) -> None:
    trained = TrainedLanguageModel.load(models / "lm")
    plain = language_model_vectors(trained.model, trained.tokenizer, TEXTS)
    raw = ULMFiTVectorizer(models / "lm", standardize=False).fit(TEXTS[:1])
    assert np.array_equal(raw.transform(TEXTS), plain)
    assert raw.transform(iter(TEXTS[:3])).dtype == np.float32
    scaled = ULMFiTVectorizer(trained, batch_size=7)
    expected = StandardScaler().fit(plain[:40].astype(np.float64))
    found = scaled.fit_transform(TEXTS[:40])
    np.testing.assert_allclose(found, expected.transform(plain[:40]), atol=1e-4)
    np.testing.assert_allclose(scaled.transform(TEXTS), expected.transform(plain), atol=1e-4)
    assert len(scaled.get_feature_names_out()) == plain.shape[1]
    assert scaled.get_feature_names_out()[[0, -1]].tolist() == ["last0", f"mean{plain.shape[1] // 3 - 1}"]


def test_texts_are_read_once_by_fit_transform(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectorizer, read = ULMFiTVectorizer(models / "lm"), []
    plain = vectorizer._read
    monkeypatch.setattr(vectorizer, "_read", lambda texts: (read.append(len(texts)), plain(texts))[1])
    vectorizer.fit_transform(TEXTS)
    assert read == [len(TEXTS)]


def test_in_a_pipeline(models: Path) -> None:
    pipeline = make_pipeline(ULMFiTVectorizer(str(models / "lm")), LogisticRegression())
    scores = cross_val_score(clone(pipeline), TEXTS, LABELS, cv=3)
    assert scores.mean() > 0.7
    assert pipeline.get_params()["ulmfitvectorizer__standardize"] is True


def test_what_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no texts; give fit at least one"):
        ULMFiTVectorizer(models / "lm").fit([])
    with pytest.raises(TypeError, match="ULMFiTVectorizer: texts must be a sequence of texts, got one str"):
        ULMFiTVectorizer(models / "lm").fit("one text")
    with pytest.raises(InputError, match="no such model folder"):
        ULMFiTVectorizer(tmp_path / "none").fit(TEXTS)
    with pytest.raises(Exception, match="not fitted"):
        ULMFiTVectorizer(models / "lm").transform(TEXTS)
