"""How each kind of tokenizer cuts a text into pieces between spaces, and what a piece's ids are.

The ids are those of the whole text in one go, whatever its pieces are; pieces of which that is not true say so.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, islice
from typing import Protocol

import numpy as np
import tokenizers

from ulmfit_fast.text.piece_table import Numbered
from ulmfit_fast.text.rule_versions import Rules
from ulmfit_fast.text.rules import SPECIAL_TOKENS

_LONGEST = 100  # longer pieces do not come again: text without spaces is encoded whole
_WORD_BEGINS = "\u2581"  # how the library writes the space before a subword


class Cutting(Protocol):
    """Texts are well formed."""

    def prepare(self, text: str) -> str:
        """The text with single spaces between its pieces."""

    def numbered(self, pieces: list[str]) -> Numbered:
        """What pieces become, each on its own."""

    def part(self, text: str) -> list[int]:
        """A whole text's ids, or those of a part that begins and ends where it can be cut, not prepared.

        Those of white space have ``LINE_BREAK`` added.
        """

    def ending(self, text: str) -> Sequence[int]:
        """What comes after the ids of the last piece."""


class WordCutting:
    """By the text rules of a version; ``number`` gives a token's id, with ``LINE_BREAK`` for white space."""

    def __init__(self, rules: Rules, number: Callable[[str], int]) -> None:
        self._rules, self._number = rules, number

    def prepare(self, text: str) -> str:
        return self._rules.prepare(text)

    def numbered(self, pieces: list[str]) -> Numbered:
        ids: list[int] = []
        lengths, firsts, lasts, all_blank = [], [], [], []
        for tokens, first, last, blank in self._rules.split(pieces):
            ids += map(self._number, tokens)
            lengths.append(len(tokens))
            firsts.append(hash(first) if first else 0)
            lasts.append(hash(last) if last else 1)
            all_blank.append(blank)
        return Numbered(ids, lengths, firsts, lasts, all_blank, [False] * len(pieces))

    def part(self, text: str) -> list[int]:
        return self.numbered([self.prepare(text)]).ids

    def ending(self, text: str) -> Sequence[int]:
        return ()


class SpaceCutting:
    """Words as they stand between white space."""

    def __init__(self, backend: tokenizers.Tokenizer, number: Callable[[str], int]) -> None:
        self._backend, self._number = backend, number

    def prepare(self, text: str) -> str:
        return text.replace("\n", " <eos> ").replace("\t", " ").replace("\r", " ")

    def numbered(self, pieces: list[str]) -> Numbered:
        ids: list[int] = []
        lengths = []
        for piece in pieces:
            found = [self._number(piece)] if piece.split() == [piece] else self.part(piece)
            ids += found
            lengths.append(len(found))
        return Numbered.alone(ids, lengths)

    def part(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def ending(self, text: str) -> Sequence[int]:
        return ()


class SubwordCutting:
    """Byte-pair encodings: a word's do not depend on the words beside it."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._ending = self.part(" ")
        self._begins = np.zeros(backend.get_vocab_size(), bool)  # ids of tokens that begin a word
        for token, i in backend.get_vocab().items():
            self._begins[i] = token.startswith(_WORD_BEGINS)

    def prepare(self, text: str) -> str:
        return text.replace("\n", " ").replace("\t", " ").replace("\r", " ")

    def numbered(self, pieces: list[str]) -> Numbered:
        plain = [0 < len(piece) <= _LONGEST and _is_plain(piece) for piece in pieces]
        texts = [" ".join(some) for some in _in_lists(compress(pieces, plain))]
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        ids = np.array([i for encoding in found for i in encoding.ids], np.int32)
        begins = np.flatnonzero(self._begins[ids])
        if len(begins) != sum(plain) or (len(begins) and begins[0] != 0):  # the vocabulary has not even the space
            return self._one_by_one(pieces)
        lengths = np.zeros(len(pieces), np.int64)
        lengths[plain] = np.diff(np.append(begins, len(ids)))
        whole = [piece != "" and not is_plain for piece, is_plain in zip(pieces, plain, strict=True)]
        return Numbered.alone(ids.tolist(), lengths.tolist())._replace(whole=whole)

    def _one_by_one(self, pieces: list[str]) -> Numbered:
        ids = [self.part(piece) for piece in pieces]
        whole = [piece != "" and not _is_plain(piece) for piece in pieces]
        return Numbered.alone([i for each in ids for i in each], list(map(len, ids)))._replace(whole=whole)

    def part(self, text: str) -> list[int]:
        return list(self._backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def ending(self, text: str) -> Sequence[int]:
        return self._ending if text[-1:] in (" ", "\t", "\n", "\r") else ()


def _in_lists(pieces: Iterator[str]) -> Iterator[list[str]]:
    """Pieces by the hundred: a text of its own for each would cost more than its encoding."""
    while some := list(islice(pieces, 100)):
        yield some


def _is_plain(piece: str) -> bool:
    """Whether a piece holds neither white space of any kind, nor what becomes such, nor what the library sets apart."""
    if not piece.isascii():
        piece = unicodedata.normalize("NFKC", piece)
        if _WORD_BEGINS in piece:
            return False
    return piece.split() == [piece] and not ("xx" in piece and any(token in piece for token in SPECIAL_TOKENS))
