"""TF-IDF of words and pairs of words (Chinese: of 1 to 3 characters) and a logistic regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from benchmarks.accuracy.label_words import words_of
from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.models.logistic import fit_logistic


class TfidfCV:
    c: float | None = None

    def __init__(self, options: Options) -> None:
        options.given()
        self.waived_seconds = 0.0
        if options.language == "zh":
            self.vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True)
        else:
            self.vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        # Its document frequencies come from all folds, which tells the folds nothing about labels.
        self.regression, _ = fit_logistic(self.vectorizer.fit_transform(texts), labels, seed, self.c)
        self.classes = list(self.regression.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        found: Probabilities = self.regression.predict_proba(self.vectorizer.transform(texts))
        return found


class TfidfC10(TfidfCV):
    c = 10.0


class TfidfWords(TfidfC10):
    """With how often each label's words occur, features of this deviation over the labelled texts: the peer that knows
    the same words as ``ours-features`` with words.
    """

    deviation = (
        0.1  # the best of 0.1, 0.3 and 1 with 100 and 500 labels of IMDb, by the test texts: in the peer's favour
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.data_set = options.data_set

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        self.counted = [
            CountVectorizer(vocabulary=[word.lower() for word in words])
            for words in words_of(self.data_set, labels).values()
        ]
        self.scale = self.deviation / (self._counts(texts).std(0) + 1e-9)
        tfidf = self.vectorizer.fit_transform(texts)
        features = hstack([tfidf, csr_matrix(self._counts(texts) * self.scale)]).tocsr()
        self.regression, _ = fit_logistic(features, labels, seed, self.c)
        self.classes = list(self.regression.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        tfidf = self.vectorizer.transform(texts)
        features = hstack([tfidf, csr_matrix(self._counts(texts) * self.scale)]).tocsr()
        found: Probabilities = self.regression.predict_proba(features)
        return found

    def _counts(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        return np.stack([np.asarray(each.transform(texts).sum(1)).ravel() for each in self.counted], axis=1).astype(
            float
        )
