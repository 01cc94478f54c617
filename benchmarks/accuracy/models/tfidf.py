"""TF-IDF of words and pairs of words (Chinese: of 1 to 3 characters) and a logistic regression."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer

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
