"""Which texts to label next: those that a classifier is unsure of, those that are unlike the others, or both.

Pure functions of what models say of the texts; ``suggest`` puts them together.

Sources: Settles, Active Learning Literature Survey, 2009 (entropy, margin, disagreement); Sener and Savarese, arXiv
1708.00489 (core-set); Zhdanov, arXiv 1901.05954 (the unsure ones, spread out); Arthur and Vassilvitskii, 2007
(k-means++).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.deviations import deviations

MARGIN, K_MEANS = "margin", "k-means++"
UNSURE = ("entropy", MARGIN, "disagreement")  # by what is predicted
SPREAD = ("core-set", K_MEANS)  # by the vectors alone
BOTH = ("margin-spread",)
RANDOM = "random"
STRATEGIES = (*BOTH, *UNSURE, *SPREAD, RANDOM)
_AT_ONCE = 64  # labelled texts whose distances to all texts are in memory together
_AMONG = 10  # times as many unsure texts as are wanted, among which margin-spread chooses


@dataclass(frozen=True)
class Suggestions:
    """Which texts to label.

    Args:
        rows: int64 [n], places among the texts, the first to label first.
        scores: float [n], by what they were chosen: an uncertainty, or a distance.
    """

    rows: np.ndarray
    scores: np.ndarray


def entropy(activated: np.ndarray, several: bool) -> np.ndarray:
    """In nats, [texts]; of several labels a text the sum over the labels."""
    p = activated.astype(np.float64)
    each = -p * np.log(np.maximum(p, 1e-300))
    if several:
        each -= (1 - p) * np.log(np.maximum(1 - p, 1e-300))
    return np.asarray(each.sum(1))


def margin(activated: np.ndarray, several: bool) -> np.ndarray:
    """One minus how far the first label is before the second, [texts]; of several labels by the one nearest to 0.5."""
    if several:
        return np.asarray(1 - np.abs(2 * activated.astype(np.float64) - 1).min(1))
    first = np.partition(activated.astype(np.float64), -2, axis=1)
    return np.asarray(1 - (first[:, -1] - first[:, -2]))


def disagreement(each: np.ndarray, several: bool) -> np.ndarray:
    """Entropy of the mean of several models less the mean of their entropies, [texts]: what they say unlike.

    ``each`` is [models, texts, ...].
    """
    return entropy(each.mean(0), several) - np.mean([entropy(activated, several) for activated in each], axis=0)


def suggest(
    strategy: str,
    count: int,
    *,
    activated: np.ndarray | None = None,
    vectors: np.ndarray | None = None,
    labelled: np.ndarray | None = None,
    several: bool = False,
    seed: int = 0,
) -> Suggestions:
    """The texts to label next.

    Args:
        strategy: one of ``STRATEGIES``. "margin-spread": of ten times as many texts with the smallest margin those that
            are spread out (k-means++).
        count: texts to suggest; fewer where there are fewer.
        activated: [models, texts, ...], what classifiers compute; needed by what is unsure.
        vectors: [texts, F], needed by what is spread out.
        labelled: [n, F], vectors of texts that have labels, from which suggestions keep their distance.
        several: a text may have several labels.
        seed: of what is drawn.

    Raises:
        InputError: an unknown strategy; one that needs a classifier, vectors, or several classifiers, without.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"suggest: strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if strategy in (*UNSURE, *BOTH) and activated is None:
        raise InputError(
            f"suggest: {strategy} asks a classifier what it is unsure of, and there is none yet; use {SPREAD[0]} or "
            f"{SPREAD[1]}"
        )
    if strategy in (*SPREAD, *BOTH) and vectors is None:
        raise InputError(f"suggest: {strategy} needs vectors of the texts")
    if strategy == "disagreement" and activated is not None and len(activated) < 2:
        raise InputError("suggest: disagreement needs two classifiers or more; give several models")
    random = np.random.default_rng(seed)
    if strategy == RANDOM:
        total = len(vectors) if vectors is not None else len(activated[0]) if activated is not None else 0
        rows = random.permutation(total)[:count]
        return Suggestions(rows, np.zeros(len(rows)))
    if strategy in SPREAD:
        assert vectors is not None
        scaled, anchors = _scaled(vectors, labelled)
        return _spread(scaled, anchors, count, None if strategy == "core-set" else random)
    assert activated is not None
    if strategy == "disagreement":
        unsure = disagreement(activated, several)
    else:
        unsure = (entropy if strategy == "entropy" else margin)(activated.mean(0), several)
    order = np.argsort(-unsure, kind="stable")
    if strategy in UNSURE:
        rows = order[:count]
        return Suggestions(rows, unsure[rows])
    assert vectors is not None
    among = np.sort(order[: count * _AMONG])
    scaled, anchors = _scaled(vectors, labelled)
    found = _spread(scaled[among], anchors, count, random, unsure[among])
    rows = among[found.rows]
    return Suggestions(rows, unsure[rows])


def first_of_each(texts: Iterable[str], known: Iterable[str] = ()) -> np.ndarray:
    """Places of the texts that are not blank, not known, and not a repetition of an earlier one; int64, ascending."""
    seen, rows = set(known), []
    for row, text in enumerate(texts):
        if text.strip() and text not in seen:
            seen.add(text)
            rows.append(row)
    return np.array(rows, dtype=np.int64)


def _scaled(vectors: np.ndarray, labelled: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Both with each feature in units of its deviation: the maximum of states varies more than their mean."""
    deviation = deviations(vectors).astype(vectors.dtype)
    return vectors / deviation, None if labelled is None or not len(labelled) else labelled / deviation


def _spread(
    vectors: np.ndarray, anchors: np.ndarray | None, count: int, random: np.random.Generator | None,
    weights: np.ndarray | None = None,
) -> Suggestions:  # fmt: skip
    """Texts far from the anchors and from each other, one after the other.

    Without ``random`` always the farthest one (core-set's greedy k-center). With it, drawn by the squared distance, and
    by ``weights``, as k-means++ draws its centres. Without anchors the first is the one nearest to the mean, or drawn.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    nearest = np.full(len(vectors), np.inf)

    def approach(points: np.ndarray) -> None:
        own = np.einsum("ij,ij->i", points, points, dtype=np.float64)
        distances = squares[:, None] + own - 2.0 * (vectors @ points.T)
        np.minimum(nearest, np.maximum(distances.min(1), 0), out=nearest)

    if anchors is not None:
        for start in range(0, len(anchors), _AT_ONCE):
            approach(anchors[start : start + _AT_ONCE])
    rows, scores = [], []
    free = np.ones(len(vectors), dtype=bool)
    for _ in range(min(count, len(vectors))):
        begins = not np.isfinite(nearest).any()
        if begins and random is None:
            row = int(np.square(vectors - vectors.mean(0)).sum(1).argmin())
        else:
            value = np.ones(len(vectors)) if begins else nearest.copy()
            if weights is not None:
                value *= np.maximum(weights, 0)
            value = np.where(free, value, 0.0)
            if value.sum() <= 0:  # what is left is like what is taken, or not unsure at all
                value = free.astype(np.float64)
            if random is None:
                row = int(np.flatnonzero(value == value.max())[0])
            else:
                row = int(random.choice(len(value), p=value / value.sum()))
        rows.append(row)
        scores.append(0.0 if begins else float(np.sqrt(nearest[row])))
        free[row] = False
        approach(vectors[row : row + 1])
    return Suggestions(np.array(rows, dtype=np.int64), np.array(scores))
