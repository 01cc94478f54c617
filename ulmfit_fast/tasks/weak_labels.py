"""Weak labels: several sources that each label some of the texts, and are wrong now and then, made into one label.

A source is right with some probability, its accuracy, and where it is wrong any other label is as likely. Sources are
taken to be independent given the true label, so a text's label has a probability by Bayes' rule. Accuracies that nobody
knows are those that explain best how the sources agree (expectation maximization).

Source: Dawid and Skene, Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm, 1979; here each
source has one error rate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.tasks.labels import Label, encode_labels, shown

UNKNOWN_ACCURACY = 0.7  # where agreement cannot tell it
_FEWEST_SOURCES = 3  # of which agreement tells the accuracies
_MOST_STEPS = 100
_CLOSE = 1e-6  # between two steps
_SUREST = 0.99  # no source is taken to be right more often: one alone would silence all others


@dataclass(frozen=True)
class WeakLabels:
    """What sources say of texts, all together.

    Args:
        labels: of each text, the most probable; None where no source has one.
        confidence: float64 [texts], its probability; 0 where there is no label.
        accuracies: of each source, given or found.
    """

    labels: list[Label | None]
    confidence: np.ndarray
    accuracies: dict[str, float]


def combine(
    sources: Mapping[str, Sequence[Any]],
    classes: Sequence[Label],
    accuracies: Mapping[str, float] | None = None,
    shares: np.ndarray | None = None,
) -> WeakLabels:
    """One label a text from what several sources say.

    Args:
        sources: by name, a label for each text, None where a source has none for it.
        classes: the labels that there are.
        accuracies: how often a source is right, above 1 / len(classes) and below 1; those of others are found by how
            the sources agree, where there are three or more; else 0.7.
        shares: float [len(classes)], how frequent each label is; None: all alike.

    Raises:
        InputError: no source; sources of several lengths; a label that is none of the classes; an accuracy out of
            range or of a source that is not there.
    """
    given = dict(accuracies or {})
    votes = _votes(sources, classes)
    for name, value in given.items():
        if name not in sources:
            raise InputError(f"weak labels: an accuracy is given for {shown(name)}, which is no source of labels")
        if not 1 / len(classes) < value < 1:
            raise InputError(
                f"weak labels: {name}: how often it is right must be above {1 / len(classes):.4g} (guessing) and below "
                f"1, got {value!r}"
            )
    prior = np.full(len(classes), 1 / len(classes)) if shares is None else np.asarray(shares, np.float64)
    prior = np.maximum(prior, 1e-9) / np.maximum(prior, 1e-9).sum()
    found = np.array([given.get(name, UNKNOWN_ACCURACY) for name in sources])
    free = np.array([name not in given for name in sources])
    probability = _posterior(votes, found, prior)
    if len(sources) >= _FEWEST_SOURCES and free.any():
        for _ in range(_MOST_STEPS):
            before, found = found, np.where(free, _accuracies(votes, probability), found)
            probability = _posterior(votes, found, prior)
            if np.abs(found - before).max() < _CLOSE:
                break
    labelled = np.asarray((votes >= 0).any(1))
    best = probability.argmax(1)
    labels = [classes[place] if has else None for place, has in zip(best.tolist(), labelled.tolist(), strict=True)]
    confidence = np.where(labelled, probability[np.arange(len(best)), best], 0.0)
    return WeakLabels(labels, confidence, dict(zip(sources, found.tolist(), strict=True)))


def _votes(sources: Mapping[str, Sequence[Any]], classes: Sequence[Label]) -> np.ndarray:
    """Places of the labels among the classes, int64 [texts, sources]; -1 where there is none."""
    if not sources:
        raise InputError("weak labels: there is no source of labels")
    lengths = {name: len(labels) for name, labels in sources.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"weak labels: all sources must label the same texts, got {lengths}")
    votes = np.full((next(iter(lengths.values())), len(sources)), -1, np.int64)
    for column, (name, labels) in enumerate(sources.items()):
        rows = [row for row, label in enumerate(labels) if label is not None]
        said = [labels[row] for row in rows]
        votes[rows, column] = encode_labels(said, classes, f"weak labels: {name}", [row + 1 for row in rows]).numpy()
    return votes


def _posterior(votes: np.ndarray, accuracies: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The probability of each class for each text, [texts, classes]."""
    logarithm = np.tile(np.log(prior), (len(votes), 1))
    for column, accuracy in enumerate(accuracies):
        rows = np.flatnonzero(votes[:, column] >= 0)
        wrong = (1 - accuracy) / max(len(prior) - 1, 1)
        # What a source says of a class beside the others; the constant goes out in the end.
        logarithm[rows, votes[rows, column]] += np.log(accuracy) - np.log(wrong)
    logarithm -= logarithm.max(1, keepdims=True)
    probability = np.exp(logarithm)
    return np.asarray(probability / probability.sum(1, keepdims=True))


def _accuracies(votes: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """How often each source is right if the classes have these probabilities; no worse than guessing."""
    found = np.full(votes.shape[1], UNKNOWN_ACCURACY)
    for column in range(votes.shape[1]):
        rows = np.flatnonzero(votes[:, column] >= 0)
        if len(rows):
            found[column] = probability[rows, votes[rows, column]].mean()
    return np.clip(found, 1 / probability.shape[1] + 1e-3, _SUREST)
