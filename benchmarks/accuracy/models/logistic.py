"""Logistic regression as the last step of several models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS, PENALTIES = 5, (0.01, 0.1, 1.0, 10.0, 100.0)
WITHOUT_FOLDS = 1.0  # C where a class has one text alone


def fit_logistic(
    features: Any, labels: Sequence[str], seed: int, c: float | None = None, standardize: bool = False
) -> tuple[Any, float]:
    """The fitted regression and its C: ``c``, or the best of PENALTIES in a cross-validation of the labelled texts."""

    def regression(penalty: float) -> Any:
        logistic = LogisticRegression(C=penalty, max_iter=2_000)
        return make_pipeline(StandardScaler(), logistic) if standardize else logistic

    folds = min(FOLDS, *Counter(labels).values())
    if c is not None or folds < 2:
        chosen = WITHOUT_FOLDS if c is None else c
        return regression(chosen).fit(features, list(labels)), chosen
    name = "logisticregression__C" if standardize else "C"
    search = GridSearchCV(
        regression(1.0), {name: PENALTIES}, cv=StratifiedKFold(folds, shuffle=True, random_state=seed)
    )
    search.fit(features, list(labels))
    return search.best_estimator_, float(search.best_params_[name])
