"""What the demo compares: classifiers that see the same few labels, and what each reaches on texts it has not seen."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ulmfit_fast.core.errors import InputWarning
from ulmfit_fast.demo.topics import draw_labelled
from ulmfit_fast.few_labels.features import Features
from ulmfit_fast.few_labels.probe import Probe
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.pipeline import finetune_classifier
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.training.config import ClassifierConfig
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

TFIDF = "TF-IDF and logistic regression"
SCRATCH = "this network, no language model"
PRETRAINED = "language model, not fine-tuned"
STAGES = "all three stages"
WORDS = "linear, topics' names as words"
_TEMPLATE = "{text} This is about {label}."


@dataclass(frozen=True)
class Draw:
    """One draw of labels: the share of right predictions of each method, and the classifier of all three stages."""

    right: dict[str, float]
    sure: float  # of all three stages on the half of the test texts with the highest confidence
    best: TrainedClassifier


class NamedTopics:
    """A linear classifier on what a language model has read, and on how much it expects each topic's name after it.

    Args:
        language_model: stays as it is.
        test: the test table, which is read once.
    """

    def __init__(self, language_model: TrainedLanguageModel, test: pd.DataFrame) -> None:
        topics = sorted(set(test["topic"]))
        self.task = SingleLabel(topics)
        self.features = Features(language_model, {topic: topic for topic in topics}, [_TEMPLATE])
        self.vectors, self.expected = self.features.read(test["text"].tolist()), test["topic"].to_numpy()

    def right(self, texts: list[str], topics: list[str]) -> float:
        """Learn from these; the share of the test texts that are right."""
        targets, emphasis = self.task.encode(topics, "topics"), self.features.emphasis
        probe = Probe(self.features.read(texts), targets, self.task, emphasis=emphasis)
        return float((self.task.decode(probe.predict(self.vectors)) == self.expected).mean())


def compare(
    train: pd.DataFrame,
    test: pd.DataFrame,
    labels: int,
    pretrained: TrainedLanguageModel,
    tuned: TrainedLanguageModel,
    named: NamedTopics | None,
    config: ClassifierConfig,
    from_scratch: ClassifierConfig,
    seed: int,
) -> Draw:
    """Train every method on ``labels`` rows of each topic and score it on the test table.

    ``named`` is None for a language model that does not know the topics' names.
    """
    drawn = draw_labelled(train, labels, seed)
    texts, topics = drawn["text"].tolist(), drawn["topic"].tolist()
    bases = {SCRATCH: (None, from_scratch), PRETRAINED: (pretrained, config), STAGES: (tuned, config)}
    shares = {TFIDF: _tfidf(texts, topics, test)}
    for name, (base, settings) in bases.items():
        trained = finetune_classifier(texts, topics, base, replace(settings, seed=seed))
        with warnings.catch_warnings():
            if base is None:  # a third of the words is unknown to it, as it has seen the labelled texts alone
                warnings.simplefilter("ignore", InputWarning)
            activated = predict_probabilities(trained.model, trained.tokenizer, trained.task, test["text"].tolist())
        columns = trained.task.columns(activated)
        right = np.asarray(columns["prediction"]) == test["topic"].to_numpy()
        shares[name] = float(right.mean())
    surest = np.argsort(-np.asarray(columns["confidence"]), kind="stable")[: len(right) // 2]
    if named is not None:
        shares[WORDS] = named.right(texts, topics)
    return Draw(shares, float(right[surest].mean()), trained)


def _tfidf(texts: list[str], topics: list[str], test: pd.DataFrame) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=1000))
    return float(model.fit(texts, topics).score(test["text"], test["topic"]))
