"""What a model reads of a long document: all, its beginning, or some random pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.accuracy.models import Model, Probabilities

WORDS, CHUNKS = 512, 8
SCHEMES = ("all", "first-512", "random-chunks")


class Reading:
    """A model that reads words split at spaces: the first 512, or 8 random chunks of 512 words.

    In training each chunk has its document's label; a prediction is the mean over the chunks. A document of less than
    512 words is read whole, and once.
    """

    def __init__(self, model: Model, scheme: str) -> None:
        if scheme not in SCHEMES[1:]:
            raise ValueError(f"Reading: scheme must be one of {', '.join(SCHEMES[1:])}, got {scheme!r}")
        self.model, self.scheme = model, scheme

    @property
    def classes(self) -> list[str]:
        return self.model.classes

    @property
    def waived_seconds(self) -> float:
        return self.model.waived_seconds

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        self._random = np.random.default_rng([77, seed])
        pieces, documents = self._pieces(texts)
        self.model.fit(pieces, [labels[i] for i in documents], unlabeled, seed)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        pieces, documents = self._pieces(texts)
        found = self.model.predict_proba(pieces)
        total = np.zeros((len(texts), found.shape[1]))
        np.add.at(total, documents, found)
        return total / np.bincount(documents, minlength=len(texts))[:, None]

    def _pieces(self, texts: Sequence[str]) -> tuple[list[str], list[int]]:
        """Pieces, and the document of each."""
        pieces: list[str] = []
        documents: list[int] = []
        for i in range(len(texts)):
            words = texts[i].split()
            if self.scheme == "first-512" or len(words) <= WORDS:
                starts = [0]
            else:
                starts = self._random.integers(0, len(words) - WORDS + 1, CHUNKS).tolist()
            pieces += [" ".join(words[start : start + WORDS]) for start in starts]
            documents += [i] * len(starts)
        return pieces, documents
