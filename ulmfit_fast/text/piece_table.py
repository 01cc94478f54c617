"""Texts to token ids by looking up what stands between two spaces: most of any text has been met before.

A piece is split once, its ids kept. A whole batch of texts is one join, one split and one pass through a dictionary;
the rest is arrays. What was met first is kept longest, as the frequent pieces are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import NamedTuple

import numpy as np

LINE_BREAK = 1 << 30  # added to the ids of tokens that do not count at the ends of a text
_BEGIN = "\ud800"  # stands before each text; in no well-formed one
_MOST_PIECES = 1 << 17
_MOST_CHARACTERS = 1 << 23


class Numbered(NamedTuple):
    """What pieces become, one list a property. Neighbours of which one's ``last`` equals the next one's ``first`` are
    made one piece.
    """

    ids: list[int]  # of all pieces, one after the other
    lengths: list[int]  # how many of them each has
    firsts: list[int]  # the hash of the word it begins with, 0 without one
    lasts: list[int]  # of the word it ends with, 1 without one
    blank: list[bool]  # nothing but white space: the pieces beside it are neighbours
    whole: list[bool]  # a text that holds it cannot be taken in pieces

    @classmethod
    def alone(cls, ids: list[int], lengths: list[int]) -> Numbered:
        """Pieces that are never made one."""
        count = len(lengths)
        return cls(ids, lengths, [0] * count, [1] * count, [False] * count, [False] * count)


class PieceTable:
    """The pieces that were met, each with its ids.

    Args:
        split: what pieces become, each on its own.
        begin: the id that begins every text.
    """

    def __init__(self, split: Callable[[list[str]], Numbered], begin: int) -> None:
        self._split = split
        self._numbers: dict[str, int] = defaultdict(count().__next__)
        self._known = self._characters = 0
        self._ids = np.empty(0, np.int32)
        self._starts = self._lengths = self._firsts = self._lasts = np.empty(0, np.int64)
        self._blank = self._whole = np.empty(0, bool)
        self._numbers[_BEGIN]
        self._add([_BEGIN], Numbered.alone([begin], [1]))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """Ids of each prepared text, int32 [length >= 1]; None for one that cannot be cut into pieces."""
        pieces = f"{_BEGIN} {f' {_BEGIN} '.join(texts)}".split(" ") if texts else []
        numbers = self._look_up(pieces)
        whole = self._whole[numbers]
        uncut = set((np.cumsum(numbers == 0)[whole] - 1).tolist()) if whole.any() else set()
        numbers = self._join_repeated(pieces, numbers)
        lengths = self._lengths[numbers]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        ids = self._ids[np.repeat(self._starts[numbers] - (ends - lengths), lengths) + np.arange(total)]
        begins = (ends - lengths)[numbers == 0].tolist()
        result = self._cut(ids, begins)
        self._forget()
        return [None if i in uncut else found for i, found in enumerate(result)]

    def _look_up(self, pieces: list[str]) -> np.ndarray:
        numbers = np.fromiter(map(self._numbers.__getitem__, pieces), np.int64, len(pieces))
        if len(self._numbers) > self._known:
            new = list(islice(reversed(self._numbers), len(self._numbers) - self._known))[::-1]
            self._add(new, self._split(new))
        return numbers

    def _add(self, pieces: list[str], found: Numbered) -> None:
        lengths = np.array(found.lengths, np.int64)
        self._starts = np.append(self._starts, len(self._ids) + np.cumsum(lengths) - lengths)
        self._lengths = np.append(self._lengths, lengths)
        self._ids = np.append(self._ids, np.array(found.ids, np.int32))
        # Equal hashes of unequal words join two pieces for nothing; the ids are the same.
        self._firsts = np.append(self._firsts, np.array(found.firsts, np.int64))
        self._lasts = np.append(self._lasts, np.array(found.lasts, np.int64))
        self._blank = np.append(self._blank, np.array(found.blank, bool))
        self._whole = np.append(self._whole, np.array(found.whole, bool))
        self._known += len(pieces)
        self._characters += sum(map(len, pieces))

    def _join_repeated(self, pieces: list[str], numbers: np.ndarray) -> np.ndarray:
        """The same with neighbours that share a word as one piece each."""
        solid = np.flatnonzero(~self._blank[numbers])
        shared = self._lasts[numbers[solid[:-1]]] == self._firsts[numbers[solid[1:]]]
        if not shared.any():
            return numbers
        edges = np.diff(np.concatenate([[0], shared.astype(np.int8), [0]]))
        begins, ends = solid[np.flatnonzero(edges == 1)], solid[np.flatnonzero(edges == -1)]
        joined = [" ".join(pieces[a : b + 1]) for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
        inside = np.zeros(len(numbers) + 1, np.int64)
        inside[begins + 1] += 1
        inside[ends + 1] -= 1
        numbers = numbers.copy()
        numbers[begins] = self._look_up(joined)
        return numbers[np.cumsum(inside)[:-1] == 0]

    def _cut(self, ids: np.ndarray, begins: list[int]) -> list[np.ndarray]:
        """Each text's ids, without the line breaks at its ends."""
        line_breaks = ids >= LINE_BREAK
        at_ends = bool(line_breaks.any())
        result = []
        for begin, end in zip(begins, [*begins[1:], len(ids)], strict=True):
            first, stop = begin + 1, end
            while at_ends and stop > first and line_breaks[stop - 1]:
                stop -= 1
            while at_ends and first < stop and line_breaks[first]:
                first += 1
            text = ids[first - 1 : stop] & (LINE_BREAK - 1)
            text[0] = ids[begin]
            result.append(text)
        return result

    def _forget(self) -> None:
        """Keep the pieces that were met first, within the table's bounds."""
        if self._known <= _MOST_PIECES and self._characters <= _MOST_CHARACTERS:
            return
        kept: list[str] = []
        self._characters = 0
        for piece in islice(self._numbers, _MOST_PIECES // 2):
            self._characters += len(piece)
            if self._characters > _MOST_CHARACTERS // 2 and kept:
                self._characters -= len(piece)
                break
            kept.append(piece)
        self._known = known = len(kept)
        self._numbers = defaultdict(count(known).__next__, zip(kept, range(known), strict=True))
        self._ids = self._ids[: self._starts[known - 1] + self._lengths[known - 1]]
        self._starts, self._lengths = self._starts[:known], self._lengths[:known]
        self._firsts, self._lasts = self._firsts[:known], self._lasts[:known]
        self._blank, self._whole = self._blank[:known], self._whole[:known]


def in_pieces(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Texts in lists that hold so many characters or little more, or one text."""
    piece: list[str] = []
    held = 0
    for text in texts:
        piece.append(text)
        held += len(text) + 1
        if held >= characters:
            yield piece
            piece, held = [], 0
    if piece:
        yield piece
