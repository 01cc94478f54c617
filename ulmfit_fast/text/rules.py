"""fastai's text rules for word tokenizers: what is upper case, repeated or HTML becomes a marker token of its own."""

from __future__ import annotations

import html
import re

UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ = SPECIAL_TOKENS = (
    "xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj",
)  # fmt: skip

RULES_VERSION = 1  # raise it whenever the same text gives other tokens

_LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_REPEATED_CHARACTER = re.compile(r"(\S)(\1{3,})")
_REPEATED_WORD = re.compile(r"(?<!\w)(\w+)((?:\s+\1){2,})(?!\w)")
_SEPARATED = re.compile(r"([/#\n])")
_SPACES = re.compile(r" {2,}")
_BETWEEN_SPACES = re.compile(r"[^ \t\n]+")  # an HTML entity ends at one of these
_OPEN_BREAK = re.compile(r"<br\s*$", re.IGNORECASE)
_LAST_WORD = re.compile(r"\w+$")
_FIRST_WORD = re.compile(r"\w+")
_WORD = re.compile(r"(?<!\w)[^\W\d_]\w*")


def encodable(text: str) -> str:
    """The text with ``?`` for halves of surrogate pairs, which no file or tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


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


def end_of_whole_pieces(text: str, searched: int = 0) -> tuple[int, int]:
    """How much of the beginning of a text is marked the same way whatever follows ``text``; it ends after white space.

    Two words stay behind: the last may go on, and the one before it may be part of a repetition. A cut must not divide
    a repetition of words, nor a line break with white space in its tag.

    Args:
        text: what has come so far.
        searched: what the last call returned for the beginning of this text, where it found nothing.

    Returns:
        The end, 0 where nothing is certain; and how far there is certainly no cut.
    """
    words = list(_BETWEEN_SPACES.finditer(text, searched))
    for i in range(len(words) - 3, 0 if searched else -1, -1):
        if any(_OPEN_BREAK.search(word[0]) for word in words[max(0, i - 1) : i + 2]):
            continue
        left, right = _mark_characters(words[i][0]).rstrip(), _mark_characters(words[i + 1][0]).lstrip()
        last, first = _LAST_WORD.search(left), _FIRST_WORD.match(right)
        repeated = last is not None and first is not None and last[0] == first[0]
        if left and right and not repeated:
            return words[i + 1].start(), 0
    # The next call begins far enough back to know the word before each cut that was not looked at.
    return 0, words[-4].start() if len(words) > 4 else searched


def _mark_characters(text: str) -> str:
    text = html.unescape(_LINE_BREAK.sub("\n", text))
    return _REPEATED_CHARACTER.sub(lambda m: f" {REP} {len(m[2]) + 1} {m[1]} ", text)


def _mark_case(word: str) -> str:
    if len(word) > 1 and word.isupper():
        return f"{UP} {word}"
    if word[0].isupper() and word[1:] == word[1:].lower():
        return f"{MAJ} {word}"
    return word
