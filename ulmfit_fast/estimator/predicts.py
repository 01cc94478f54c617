"""What ``ULMFiTClassifier`` can do once it is fitted: the methods that take texts and change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.estimator.configured import NAME, Configured
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.inference.stream import TextStream
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.training.trained import TrainedClassifier


def _has_probabilities(estimator: Predicts) -> bool:
    """Whether there are any, for a method that exists only then. Raises AttributeError where not."""
    if estimator._predicts_numbers():
        raise AttributeError(f"{NAME}: this task predicts numbers, which have no probabilities")
    return True


class Predicts(ClassifierMixin, Configured):
    """Predictions of the fitted parts: ``model_``, ``tokenizer_``, ``task_``, and where there is one ``backward_``."""

    backward_: TrainedClassifier

    def predict(self, texts: Sequence[str], abstain: float | None = None, reject_label: Any = None) -> np.ndarray:
        """What is predicted of each text. An empty text gets a prediction, too.

        Args:
            texts: to predict.
            abstain: where the probability of the label is below this, the prediction is ``reject_label``.
            reject_label: stands for no label.

        Returns:
            A label each, the most probable one; of several labels a list each, in an array of objects, or zeros and
            ones where ``fit`` was given such; with "regression" a number each.

        Raises:
            InputError: ``abstain`` with a task that has no confidence: several labels, a number.
        """
        check_is_fitted(self)
        if abstain is not None and self.task_.confidence(self.task_.examples()) is None:
            raise InputError(f"{NAME}: abstain: the task {self.task_.type} has no confidence; leave it out")
        activated = self._activated(texts)
        predictions = self.task_.decode(activated)
        if abstain is not None:
            confidence = self.task_.confidence(activated)
            assert confidence is not None
            predictions = predictions.astype(object)
            predictions[confidence < abstain] = reject_label
        if getattr(self, "_as_table", False):
            return self.task_.encode(predictions.tolist(), "predictions").numpy().astype(np.int64)
        return predictions

    def score(self, texts: Sequence[str], labels: Iterable[Any], sample_weight: Any = None) -> float:
        """The share of texts whose prediction is right, for several labels all of them; of numbers R2."""
        check_is_fitted(self)
        if self.task_.labels and self.task_.label_delimiter is None:
            return float(super().score(texts, labels, sample_weight))
        expected, predicted = self.task_.read(labels), self.task_.decode(self._activated(texts))
        if not self.task_.labels:
            return float(r2_score(expected, predicted, sample_weight=sample_weight))
        right = [set(one) == set(other) for one, other in zip(expected, predicted, strict=True)]
        return float(np.average(right, weights=sample_weight))

    @available_if(_has_probabilities)
    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of each class for each text, [len(texts), len(classes_)]; of several labels one each."""
        return self._activated(texts)

    def _activated(self, texts: Sequence[str]) -> np.ndarray:
        check_is_fitted(self)
        checked = as_texts(NAME, texts)
        found = [
            predict_probabilities(
                each.model, each.tokenizer, each.task, checked, self.batch_size, self.progress, precision=self.precision
            )
            for each in self._members()
        ]
        return found[0] if len(found) == 1 else np.mean(found, axis=0)

    def stream(self) -> TextStream:
        """Reads one text as it comes and knows the prediction so far; see ``TextStream``.

        Raises:
            InputError: models of both directions, of which one reads from the text's end.
        """
        check_is_fitted(self)
        if len(self._members()) > 1:
            raise InputError(f"{NAME}.stream: the backward model needs the whole text; load the folder forward alone")
        return TextStream(self.model_, self.tokenizer_, self.task_)

    def _members(self) -> list[TrainedClassifier]:
        """The fitted model; of both directions forward and backward, the mean of whose probabilities counts."""
        first = TrainedClassifier(self.model_, self.tokenizer_, self.task_, self.history_)
        return [first, self.backward_] if hasattr(self, "backward_") else [first]
