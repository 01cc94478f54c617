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


class _Columns(NamedTuple):
    """``Numbered`` of all known pieces, with where each piece's ids begin."""

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    blank: np.ndarray
    whole: np.ndarray


class PieceTable:
    """The pieces that were met, each with its ids.

    Args:
        split: what pieces become, each on its own.
        begin: the id that begins every text.
    """

    def __init__(self, split: Callable[[list[str]], Numbered], begin: int) -> None:
        self._split = split
        self._numbers: dict[str, int] = defaultdict(count().__next__)
        self._characters = 0
        integers, flags = np.empty(0, np.int64), np.empty(0, bool)
        self._columns = _Columns(np.empty(0, np.int32), integers, integers, integers, integers, flags, flags)
        self._numbers[_BEGIN]
        self._add([_BEGIN], Numbered.alone([begin], [1]))

    def encode(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """Ids of each prepared text, int32 [length >= 1]; None for one that cannot be taken in pieces."""
        if not texts:
            return []
        pieces = f"{_BEGIN} {f' {_BEGIN} '.join(texts)}".split(" ")
        numbers = self._look_up(pieces)
        whole = self._columns.whole[numbers]
        untaken = set((np.cumsum(numbers == 0)[whole] - 1).tolist()) if whole.any() else set()
        numbers = self._join_repeated(pieces, numbers)
        lengths = self._columns.lengths[numbers]
        ends = np.cumsum(lengths)
        begins = ends - lengths
        ids = self._columns.ids[np.repeat(self._columns.starts[numbers] - begins, lengths) + np.arange(ends[-1])]
        result = self._cut(ids, begins[numbers == 0].tolist())
        self._forget()
        return [None if i in untaken else found for i, found in enumerate(result)]

    def _look_up(self, pieces: list[str]) -> np.ndarray:
        """Each piece's number. A piece's number is its place in the table, new ones are added."""
        numbers = np.fromiter(map(self._numbers.__getitem__, pieces), np.int64, len(pieces))
        unknown = len(self._numbers) - len(self._columns.starts)  # of an interrupted call, too
        if unknown:
            new = list(islice(reversed(self._numbers), unknown))[::-1]
            self._add(new, self._split(new))
        return numbers

    def _add(self, pieces: list[str], found: Numbered) -> None:
        old, lengths = self._columns, np.array(found.lengths, np.int64)
        # Equal hashes of unequal words join two pieces for nothing; the ids are the same.
        added = _Columns(
            np.array(found.ids, np.int32), len(old.ids) + np.cumsum(lengths) - lengths, lengths,
            np.array(found.firsts, np.int64), np.array(found.lasts, np.int64),
            np.array(found.blank, bool), np.array(found.whole, bool),
        )  # fmt: skip
        self._columns = _Columns(*map(np.append, old, added))
        self._characters += sum(map(len, pieces))

    def _join_repeated(self, pieces: list[str], numbers: np.ndarray) -> np.ndarray:
        """The same with neighbours that share a word as one piece each."""
        columns = self._columns
        solid = np.flatnonzero(~columns.blank[numbers])
        shared = columns.lasts[numbers[solid[:-1]]] == columns.firsts[numbers[solid[1:]]]
        if not shared.any():
            return numbers
        edges = np.diff(np.concatenate([[0], shared.astype(np.int8), [0]]))
        begins, ends = solid[np.flatnonzero(edges == 1)], solid[np.flatnonzero(edges == -1)]
        joined = [" ".join(pieces[a : b + 1]) for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
        inside = np.zeros(len(numbers) + 1, np.int64)
        inside[begins + 1] += 1
        inside[ends + 1] -= 1
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
        if len(self._numbers) <= _MOST_PIECES and self._characters <= _MOST_CHARACTERS:
            return
        kept: list[str] = []
        characters = 0
        for piece in islice(self._numbers, _MOST_PIECES // 2):
            if kept and characters + len(piece) > _MOST_CHARACTERS // 2:
                break
            characters += len(piece)
            kept.append(piece)
        count_kept, old = len(kept), self._columns
        ids = old.ids[: old.starts[count_kept - 1] + old.lengths[count_kept - 1]]
        self._columns = _Columns(ids, *(column[:count_kept] for column in old[1:]))
        self._numbers = defaultdict(count(count_kept).__next__, zip(kept, range(count_kept), strict=True))
        self._characters = characters


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
