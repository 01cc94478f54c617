"""fastai's text rules for word tokenizers: what is upper case, repeated or HTML becomes a marker token of its own."""

from __future__ import annotations

import html
import re

UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ = SPECIAL_TOKENS = (
    "xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj",
)  # fmt: skip

_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_REPEATED_CHARACTER = re.compile(r"(\S)(\1{3,})")
_REPEATED_WORD = re.compile(r"(?<!\w)(\w+)((?:\s+\1){2,})(?!\w)")
_SEPARATED = re.compile(r"([/#\n])")
_SPACES = re.compile(r" {2,}")
_WORD = re.compile(r"(?<!\w)[^\W\d_]\w*")


def apply_rules(text: str) -> str:
    """Mark and normalise one text.

    HTML entities and line breaks are undone; ``aaaaa`` becomes ``xxrep 5 a``, ``no no no`` becomes ``xxwrep 3 no``;
    ``/`` and ``#`` stand apart; ``NASA`` becomes ``xxup nasa``, ``Paris`` becomes ``xxmaj paris``; all is lower case.
    """
    text = html.unescape(_LINE_BREAK.sub("\n", text))
    text = _REPEATED_CHARACTER.sub(lambda m: f" {REP} {len(m[2]) + 1} {m[1]} ", text)
    text = _REPEATED_WORD.sub(lambda m: f" {WREP} {len(m[2].split()) + 1} {m[1]} ", text)
    text = _SEPARATED.sub(r" \1 ", text)
    text = _WORD.sub(lambda m: _mark_case(m[0]), text)
    return _SPACES.sub(" ", text).strip().lower()


def _mark_case(word: str) -> str:
    if len(word) > 1 and word.isupper():
        return f"{UP} {word}"
    if word[0].isupper() and word[1:] == word[1:].lower():
        return f"{MAJ} {word}"
    return word
