"""Which labels are probably wrong, by probabilities from models that have not seen them: confident learning.

A text counts as one of class j where its probability of j is at least what texts labelled j get on the mean. How often
texts labelled i count as j estimates how often i was written for j; those texts are the suspects.

Source: Northcutt, Jiang and Chuang, Confident Learning, arXiv 1911.00068, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ulmfit_fast.core.errors import InputError


@dataclass(frozen=True)
class LabelErrors:
    """What is suspected.

    Args:
        rows: int64 [n], places of the suspects, the least probable label first.
        likely: int64 [n], the class that each more probably has.
        joint: float64 [K, K], the estimated share of texts by the class that they are labelled and that they have.
    """

    rows: np.ndarray
    likely: np.ndarray
    joint: np.ndarray

    @property
    def share(self) -> float:
        """The estimated share of wrong labels."""
        return float(1 - np.trace(self.joint))


def find_label_errors(probabilities: np.ndarray, given: np.ndarray) -> LabelErrors:
    """The suspects among labelled texts.

    Args:
        probabilities: [texts, K], out of fold: each by a model that did not learn from the text.
        given: int64 [texts], the class that each is labelled.

    Raises:
        InputError: other shapes; probabilities that are not finite; a class that no text is labelled.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or given.shape != (len(probabilities),) or not len(given):
        raise InputError(
            f"find_label_errors: probabilities must be [texts, K] and given [texts], got {list(probabilities.shape)} "
            f"and {list(given.shape)}"
        )
    if not np.isfinite(probabilities).all():
        raise InputError("find_label_errors: probabilities must be finite")
    classes = probabilities.shape[1]
    counts = np.bincount(given, minlength=classes)
    if len(counts) > classes or not counts.all():
        raise InputError(f"find_label_errors: every one of {classes} classes needs a text that is labelled so")
    thresholds = np.array([probabilities[given == label, label].mean() for label in range(classes)])
    confident = probabilities >= thresholds - 1e-6  # of probabilities that are all alike, each is at the mean
    # Where several classes are, the most probable of them counts; where none is, the text counts nowhere.
    counted = np.where(confident, probabilities, -np.inf).argmax(1)
    texts = np.arange(len(given))
    own = probabilities[texts, given]
    counted = np.where(confident[texts, given] & (own >= probabilities[texts, counted]), given, counted)
    counts_somewhere = confident.any(1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (given[counts_somewhere], counted[counts_somewhere]), 1)
    suspect = counts_somewhere & (counted != given) & (probabilities.max(1) > own)
    rows = np.flatnonzero(suspect)
    rows = rows[np.argsort(own[rows], kind="stable")]
    return LabelErrors(rows, counted[rows], _as_shares(joint, counts))


def _as_shares(joint: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The counts made to add up to the labels that there are, then to one. A class that counts nowhere is right."""
    joint = np.where(joint.sum(1, keepdims=True) > 0, joint, np.diag(counts))
    joint = joint / joint.sum(1, keepdims=True) * counts[:, None]
    return np.asarray(joint / joint.sum())
