"""Version 1 of the text rules, as version 0.1.0 had them: for models that were trained with it. It never changes.

Marks and splits disagree here about what a word is, so that tokens depend on case, quotes and Unicode form; version 2
(``rules.py``) is for everything new.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import pre_tokenizers

from ulmfit_fast.text.rules import LINE_BREAK, MAJ, REP, UP, WREP, Piece, unescape

VERSION = 1

_REPEATED_CHARACTER = re.compile(r"(\S)(\1{3,})")
_REPEATED_WORD = re.compile(r"(?<!\w)(\w+)((?:\s+\1){2,})(?!\w)")
_SEPARATED = re.compile(r"([/#\n])")
_SPACES = re.compile(r" {2,}")
_FIRST_WORD = re.compile(r"\w+")
_WORD = re.compile(r"(?<!\w)[^\W\d_]\w*")
# Contractions split as in English treebanks (do n't, it 's); numbers; words; any other mark alone, newlines included.
_TOKEN = r"n't\b|['\u2019](?:s|re|ve|ll|d|m|t)\b|\d+(?:[.,]\d+)*|\w+?(?=n't\b)|\w+|\n|[^\w\s]"
_ASCII_TOKEN = re.compile(_TOKEN, re.ASCII)
# The library's words hold combining marks, Python's do not. It has no "find all", so: isolate the matches, then drop
# the white space between them.
_ANY_TOKEN = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(tokenizers.Regex(_TOKEN), behavior="isolated"),
        pre_tokenizers.Split(tokenizers.Regex(r"[^\S\n]+"), behavior="removed"),
    ]
)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """What files of this version hold: it splits a text that has been marked."""
    return _ANY_TOKEN


def prepare(text: str) -> str:
    """A well-formed text as pieces between single spaces, which ``split`` takes one by one."""
    if "<" in text:
        text = LINE_BREAK.sub("\n", text)
    return text.replace("\n", " \n ").replace("\t", " ")


def split(pieces: Iterable[str]) -> Iterator[Piece]:
    """Each piece's tokens; a piece never depends on another, but for repeated words."""
    for piece in pieces:
        yield _split_ascii(piece) if piece.isascii() and piece.isprintable() else _split(piece)


def apply_rules(text: str) -> str:
    """Mark and normalise one text.

    HTML entities and line breaks are undone; ``aaaaa`` becomes ``xxrep 5 a``, ``no no no`` becomes ``xxwrep 3 no``;
    ``/`` and ``#`` stand apart; ``NASA`` becomes ``xxup nasa``, ``Paris`` becomes ``xxmaj paris``; all is lower case.
    """
    return _mark_words(_mark_characters(LINE_BREAK.sub("\n", text))).strip()


def _split_ascii(piece: str) -> Piece:
    """The short way for most pieces: no repetition, no reference, nothing in upper case but the first letter."""
    lower = piece.lower()
    if piece[1:] != lower[1:] or "&" in piece or " " in piece or _REPEATED_CHARACTER.search(piece):
        return _split(piece)
    tokens = _ASCII_TOKEN.findall(lower)
    if piece != lower:
        tokens = [*_mark_case(_outer_words(piece)[0]).split()[:-1], *tokens]
    return Piece(tokens, *_outer_words(piece), not piece)


def _split(piece: str) -> Piece:
    marked = _mark_characters(piece)
    words = marked.split()
    if not words:
        return Piece(_tokens(marked.lower()), "", "", True)
    tokens = _tokens(_mark_words(marked, len(words) > 2))
    return Piece(tokens, _outer_words(words[0])[0], _outer_words(words[-1])[1], False)


def _outer_words(piece: str) -> tuple[str, str]:
    """The words that a piece begins and ends with, "" without one."""
    first, last = _FIRST_WORD.match(piece), _FIRST_WORD.match(piece[::-1])
    return first[0] if first else "", last[0][::-1] if last else ""


def _tokens(marked: str) -> list[str]:
    if marked.isascii():
        return _ASCII_TOKEN.findall(marked)
    return [token for token, _ in _ANY_TOKEN.pre_tokenize_str(marked)]


def _mark_characters(text: str) -> str:
    if "&" in text:
        text = unescape(text)
    return _REPEATED_CHARACTER.sub(lambda m: f" {REP} {len(m[2]) + 1} {m[1]} ", text)


def _mark_words(text: str, repeated: bool = True) -> str:
    if repeated:
        text = _REPEATED_WORD.sub(lambda m: f" {WREP} {len(m[2].split()) + 1} {m[1]} ", text)
    text = _SEPARATED.sub(r" \1 ", text)
    text = _WORD.sub(lambda m: _mark_case(m[0]), text)
    return _SPACES.sub(" ", text).lower()


def _mark_case(word: str) -> str:
    if len(word) > 1 and word.isupper():
        return f"{UP} {word}"
    if word[0].isupper() and word[1:] == word[1:].lower():
        return f"{MAJ} {word}"
    return word
