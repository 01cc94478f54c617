"""Late evidence: what decides a long document stands in a small part of it, anywhere."""

from __future__ import annotations

import lzma
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

SHORTEST, LONGEST = 2_000, 50_000  # words around the review; their logarithm is drawn evenly
BOUNDS = (SHORTEST, 5_000, 20_000, LONGEST)


def read_paragraphs(path: Path, megabytes: int = 60) -> list[str]:
    """Paragraphs of the first articles, without titles: more than any document needs, less than all of the file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        lines = file.read(megabytes << 20).split("\n")[:-1]
    return [line for line in lines if len(line) > 80 and not line.startswith("= ")]


class LateEvidence(Sequence[str]):
    """Each review at a random place, between paragraphs, of its own stretch of consecutive paragraphs.

    A document is made when it is asked for, always the same: thousands of them would not fit in memory.

    Args:
        reviews: what decides.
        paragraphs: what hides it.
        seed: of lengths, stretches and places.
    """

    def __init__(self, reviews: Sequence[str], paragraphs: Sequence[str], seed: int) -> None:
        self.reviews, self.paragraphs, self.seed = reviews, paragraphs, seed
        self._words = np.array([0, *np.cumsum([paragraph.count(" ") + 1 for paragraph in paragraphs])])

    def __len__(self) -> int:
        return len(self.reviews)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        words, place, where = self._draw(index)
        total = int(self._words[-1])
        words = min(words, total)
        first = int(np.searchsorted(self._words, place * (total - words), side="right")) - 1
        last = int(np.searchsorted(self._words, self._words[first] + words))
        stretch = list(self.paragraphs[first : min(last, len(self.paragraphs))])
        stretch.insert(int(where * (len(stretch) + 1)), self.reviews[index])
        return "\n".join(stretch)

    def subsets(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Which documents are short, medium and long."""
        words = np.array([self._draw(i)[0] for i in range(len(self))])
        return {f"{low:,} to {high:,} words": (words >= low) & (words < high) for low, high in pairwise(BOUNDS)}

    def _draw(self, index: int) -> tuple[int, float, float]:
        """Words of filler; the stretch's place in it and the review's in the stretch, from 0 to 1."""
        random = np.random.default_rng([self.seed, index])
        words = int(np.exp(random.uniform(np.log(SHORTEST), np.log(LONGEST))))
        return words, float(random.random()), float(random.random())
