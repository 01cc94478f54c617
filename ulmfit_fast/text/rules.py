"""fastai's text rules for word tokenizers: what is upper case, repeated or HTML becomes a marker token of its own."""

from __future__ import annotations

import html
import itertools
import re

UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ = SPECIAL_TOKENS = (
    "xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj",
)  # fmt: skip

_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_REPEATED_CHARACTER = re.compile(r"(\S)(\1{3,})")
_REPEATED_WORD = re.compile(r"(?<!\w)(\w+)((?:\s+\1){2,})(?!\w)")
_SEPARATED = re.compile(r"([/#\n])")
_SPACES = re.compile(r" {2,}")
_BETWEEN_SPACES = re.compile(r"[^ \t\n]+")  # an HTML entity ends at one of these
_LAST_WORD = re.compile(r"\w+$")
_FIRST_WORD = re.compile(r"\w+")
_WORD = re.compile(r"(?<!\w)[^\W\d_]\w*")


def apply_rules(text: str) -> str:
    """Mark and normalise one text.

    HTML entities and line breaks are undone; ``aaaaa`` becomes ``xxrep 5 a``, ``no no no`` becomes ``xxwrep 3 no``;
    ``/`` and ``#`` stand apart; ``NASA`` becomes ``xxup nasa``, ``Paris`` becomes ``xxmaj paris``; all is lower case.
    """
    return apply_rules_inside(text).strip()


def apply_rules_inside(text: str) -> str:
    """The same for a piece of a text, whose ends may stand beside others: they keep their white space."""
    text = _mark_characters(text)
    text = _REPEATED_WORD.sub(lambda m: f" {WREP} {len(m[2].split()) + 1} {m[1]} ", text)
    text = _SEPARATED.sub(r" \1 ", text)
    text = _WORD.sub(lambda m: _mark_case(m[0]), text)
    return _SPACES.sub(" ", text).lower()


def end_of_whole_pieces(text: str) -> int:
    """How much of the beginning of a text is marked the same way whatever follows ``text``; it ends after white space.

    The last two words stay behind: the last may go on, and the one before it may be part of a repetition.
    """
    words = list(_BETWEEN_SPACES.finditer(text))
    for before, word in reversed(list(itertools.pairwise(words[:-1]))):
        left, right = _mark_characters(before[0]).rstrip(), _mark_characters(word[0]).lstrip()
        last, first = _LAST_WORD.search(left), _FIRST_WORD.match(right)
        repeated = last is not None and first is not None and last[0] == first[0]
        if left and right and not repeated and not before[0].lower().endswith("<br"):
            return word.start()
    return 0


def _mark_characters(text: str) -> str:
    text = html.unescape(_LINE_BREAK.sub("\n", text))
    return _REPEATED_CHARACTER.sub(lambda m: f" {REP} {len(m[2]) + 1} {m[1]} ", text)


def _mark_case(word: str) -> str:
    if len(word) > 1 and word.isupper():
        return f"{UP} {word}"
    if word[0].isupper() and word[1:] == word[1:].lower():
        return f"{MAJ} {word}"
    return word
