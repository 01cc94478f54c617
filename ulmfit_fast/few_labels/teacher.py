"""Who labels texts in self-training, where there is a language model: a probe of it, alone or beside a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from ulmfit_fast.few_labels.features import Features
from ulmfit_fast.few_labels.probe import Probe
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.training.trained import TrainedClassifier

READ_FOR_DEVIATION = 3_000  # unlabelled texts that say by how much each feature varies


class Vectors:
    """Features of unlabelled texts, each text read once, when it is first asked for.

    Args:
        features: reads them.
        texts: all of them.
        precision: "float32" or "bfloat16".
        progress: show bars.
    """

    def __init__(
        self, features: Features, texts: Sequence[str], precision: str = "float32", progress: bool = False
    ) -> None:
        self.features, self.texts, self.precision, self.progress = features, texts, precision, progress
        self._read: dict[int, np.ndarray] = {}

    def of(self, rows: np.ndarray) -> np.ndarray:
        """float32 [len(rows), F] of the texts at these places."""
        new = [row for row in rows.tolist() if row not in self._read]
        if new:
            self._read.update(zip(new, self.read([self.texts[row] for row in new]), strict=True))
        return np.stack([self._read[row] for row in rows.tolist()])

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), F] of any texts."""
        return self.features.read(texts, precision=self.precision, progress=self.progress)


class Teacher:
    """What labels unlabelled texts: a probe, alone or beside a classifier.

    Args:
        vectors: of the unlabelled texts.
        data: the labelled ones.
        task: with one label a text.
        seed: draws the unlabelled texts that the probe is fitted with.

    Attributes:
        classifier: labels together with the probe; None: the probe alone.
    """

    def __init__(self, vectors: Vectors, data: Dataset, task: Task, seed: int) -> None:
        self.vectors, self.task = vectors, task
        self.classifier: TrainedClassifier | None = None
        like = np.random.default_rng(seed).permutation(len(vectors.texts))[:READ_FOR_DEVIATION]
        targets = task.encode(data.labels or [], "labels")
        self.probe = Probe(
            vectors.read(data.texts), targets, task, data.weights, vectors.of(like), vectors.features.emphasis
        )

    def beside(self, classifier: TrainedClassifier) -> Teacher:
        """The same probe, together with this classifier."""
        both = copy(self)
        both.classifier = classifier
        return both

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities of the texts at these places, float32 [len(rows), K]."""
        probe = self.probe.predict(self.vectors.of(rows))
        if self.classifier is None:
            return probe
        texts, vectors = [self.vectors.texts[row] for row in rows.tolist()], self.vectors
        return evenly(probe, activated(self.classifier, texts, vectors.precision, vectors.progress))


def activated(trained: TrainedClassifier, texts: Sequence[str], precision: str, progress: bool) -> np.ndarray:
    """``predict_probabilities`` of a trained classifier."""
    return predict_probabilities(
        trained.model, trained.tokenizer, trained.task, texts, progress=progress, precision=precision
    )


def evenly(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mean of two classifiers, however sure each is of itself: a network is sure of everything with few labels.

    The log-probabilities of each are divided by their deviation over all texts, so that both have the same say.

    Args:
        one, other: probabilities [n, K] of the same texts.
    """
    logits, deviations = [], []
    for probabilities in (one, other):
        logs = np.log(np.maximum(probabilities, 1e-12))
        logs -= logs.mean(1, keepdims=True)
        deviations.append(max(float(logs.std()), 1e-12))
        logits.append(logs / deviations[-1])
    mean = np.exp((logits[0] + logits[1]) / 2 * min(deviations))
    found: np.ndarray = mean / mean.sum(1, keepdims=True)
    return found
