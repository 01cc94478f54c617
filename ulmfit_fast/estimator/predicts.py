"""What ``ULMFiTClassifier`` can do once it is fitted: the methods that take texts and change nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.estimator.configured import NAME, Configured
from ulmfit_fast.inference.explain import Explanation, explain
from ulmfit_fast.inference.pooled_vectors import pooled_vectors
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.inference.stream import TextStream
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.training.trained import TrainedClassifier


def _has_probabilities(estimator: Predicts) -> bool:
    """Whether there are any, for a method that exists only then. Raises AttributeError where not."""
    if estimator._predicts_numbers():
        raise AttributeError(f"{NAME}: this task predicts numbers, which have no probabilities")
    return True


class Predicts(ClassifierMixin, TransformerMixin, Configured):
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

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """The pooled vector of each text, of any length: what the classifier's head sees, for search and clustering.

        The last state of the top layer, the largest and the mean (with attention pooling the mean of each head),
        float32 [len(texts), 3 * embedding_size]; of both directions forward's, then backward's. No text's vector
        depends on others. In a scikit-learn Pipeline the estimator is a step before others by it.
        """
        check_is_fitted(self)
        checked = as_texts(NAME, texts)
        found = [
            pooled_vectors(
                each.model, each.tokenizer, checked, self.batch_size, self.progress, precision=self.precision
            )
            for each in self._members()
        ]
        return np.hstack(found)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns of ``transform``: last0, last1, ..., maximum0, ..., mean0, ..., backward_last0, ..."""
        check_is_fitted(self)
        names = [
            f"{direction}{kind}{place}"
            for direction, each in zip(("", "backward_"), self._members(), strict=False)
            for kind in each.model.bpt3c.pooling.parts
            for place in range(each.model.bpt3c.pooling.features)
        ]
        return np.array(names, dtype=object)

    def explain(
        self, text: str, method: str = "integrated_gradients", label: Label | None = None, *,
        chunk_tokens: int | None = None,
    ) -> Explanation:  # fmt: skip
        """Which parts of one text speak for a label, and how much; see ``Explanation``.

        Args:
            text: of any length.
            method: "integrated_gradients": words, whose weights sum to the label's log-odds (or to the number) above
                those of a text of unknown words. "occlusion": what the log-odds lose without each word;
                "sentence_occlusion": without each sentence. "chunks": the share of each chunk in the pooled vector, and
                in the log-odds by way of it. "attention": the share of attention that each word gets, of a classifier
                with attention pooling.
            label: that is explained; None: the predicted one, of several labels the most probable.
            chunk_tokens: of a chunk; None: as the model was trained.

        Raises:
            TypeError: no text.
            InputError: an unknown method or label; int8 with "integrated_gradients"; "attention" without attention
                pooling; "occlusion" of a very long text.
        """
        check_is_fitted(self)
        (text,) = as_texts(NAME, [text])
        members = [(each.model, each.tokenizer, each.task) for each in self._members()]
        return explain(members, text, method, label, chunk_tokens=chunk_tokens)

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
