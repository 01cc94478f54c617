"""Token ids to text for people to read, as they come: case, repetitions and spaces as a writer would set them.

What was lost is chosen: a text's case is that of its markers, quotes open and close in turn. Tokenized again, the text
gives the same tokens, nearly always.
"""

from __future__ import annotations

from typing import Protocol

from ulmfit_fast.text.rules import MAJ, REP, SPECIAL_TOKENS, UP, WREP
from ulmfit_fast.text.tokenizer import Tokenizer

_MOST_REPETITIONS = 40  # that are written out, whatever number a model says
_TO_THE_LEFT = frozenset(".,;:!?)]}%°…\u201d\u2019»")  # no space before
_TO_THE_RIGHT = frozenset("([{$£€#\u201c\u2018«")  # no space after
_BETWEEN = frozenset("-/_@\n")  # no space on either side
_QUOTES = frozenset("\"'")
_CONTRACTIONS = frozenset(["n't", "'s", "'re", "'ve", "'ll", "'d", "'m", "'t"])
_KEPT, _SHOWN = 16, 64  # ids of pieces of words that are decoded together, at least and at most


class Detokenizer(Protocol):
    """Ids in, text out."""

    def feed(self, token: int) -> str:
        """The text that is settled with this token; may be empty."""

    def rest(self) -> str:
        """What waited for further tokens."""


def detokenizer(tokenizer: Tokenizer) -> Detokenizer:
    """One for a text of this tokenizer, whose ids are fed in the order of the text."""
    if tokenizer.kind in ("word", "spacy"):
        return _OfWords(tokenizer)
    return _OfPieces(tokenizer)


def detokenize(tokenizer: Tokenizer, ids: list[int]) -> str:
    """A whole text."""
    reader = detokenizer(tokenizer)
    return "".join([*map(reader.feed, ids), reader.rest()])


class _OfWords:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._words = tokenizer.vocabulary
        self._case = ""
        self._repeats = ""  # REP or WREP, whose number is next
        self._count = 1
        self._of_words = False  # what is repeated
        self._last = "\n"  # as if at the beginning of a line
        self._open: set[str] = set()

    def feed(self, token: int) -> str:
        word = self._words[token]
        if word in (REP, WREP):
            self._repeats = word
            return ""
        if self._repeats:
            kind, self._repeats = self._repeats, ""
            if word.isdecimal():
                self._count, self._of_words = min(int(word), _MOST_REPETITIONS), kind == WREP
                return ""
        if word in (MAJ, UP):
            self._case = word
            return ""
        if word in SPECIAL_TOKENS:
            return ""
        count, of_words = self._count, self._of_words
        self._count, self._of_words = 1, False
        if of_words:
            return "".join(self._written(word) for _ in range(count))
        return self._written(word, count)

    def rest(self) -> str:
        return ""

    def _written(self, word: str, count: int = 1) -> str:
        """A word, or a character ``count`` times, with the space before it."""
        case, self._case = self._case, ""
        shown = word.upper() if case == UP else word[:1].upper() + word[1:] if case == MAJ else word
        space = " " if self._apart(word) else ""
        if word in _QUOTES:
            self._open ^= {word}
        elif word == "\n":
            self._open.clear()
        self._last = word
        return space + shown * count

    def _apart(self, word: str) -> bool:
        """Whether a space stands between the last word and this one. A quote opens and closes in turn."""
        before = self._last
        if before in _BETWEEN or before in _TO_THE_RIGHT or (before in _QUOTES and before in self._open):
            return False
        if word in _QUOTES:
            return word not in self._open
        return word not in _TO_THE_LEFT and word not in _BETWEEN and word not in _CONTRACTIONS


class _OfPieces:
    """Pieces of words, whose spaces only the library knows: the last ones are decoded with and without the new one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decode = tokenizer.backend.decode
        self._ids: list[int] = []
        self._shown = ""  # of these ids

    def feed(self, token: int) -> str:
        if token < len(SPECIAL_TOKENS):
            return ""
        self._ids.append(token)
        text = self._decode(self._ids)
        if text.endswith("\ufffd") and len(self._ids) < _SHOWN:  # a character whose other bytes are still to come
            return ""
        new, self._shown = text[len(self._shown) :], text
        if len(self._ids) >= _SHOWN:
            self._ids = self._ids[-_KEPT:]
            self._shown = self._decode(self._ids)
        return new

    def rest(self) -> str:
        before, self._shown = self._shown, self._decode(self._ids)
        return self._shown[len(before) :]
