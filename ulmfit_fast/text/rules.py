"""The text rules of word tokenizers, after fastai's: how a text becomes tokens. This is version 2.

What is upper case, repeated or HTML becomes a marker token of its own. One definition of a word serves markers and
splits, so that tokens do not depend on case (but for the markers), on the form of quotes, or on Unicode's form.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ulmfit_fast.text import character_forms

UNK, PAD, BOS, EOS, FLD, REP, WREP, UP, MAJ = SPECIAL_TOKENS = (
    "xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxrep", "xxwrep", "xxup", "xxmaj",
)  # fmt: skip

VERSION = RULES_VERSION = 2  # raise it whenever the same text gives other tokens; the old rules stay for old models

LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_DECIMAL_REFERENCE = re.compile(r"&#0*([0-9]+)(;?)")
_CONTROLS = r"\x00-\x1f\x7f-\x9f"


class _Patterns(NamedTuple):
    """What finds tokens, and one character again and again, in lower case."""

    token: re.Pattern[str]
    repeated: re.Pattern[str]


def _compile(within_word: str, marks: str) -> _Patterns:
    """Given the classes of what words are made of and of what belongs to the character before it."""
    word, own = f"[{within_word}]", f"[{marks}]*+" if marks else ""
    # Contractions split as in English treebanks (do n't, it 's); numbers; words; any other character alone, newlines
    # included.
    token = (
        rf"n't(?!{word})|'(?:s|re|ve|ll|d|m|t)(?!{word})|\d+(?:[.,]\d+)*{own}|{word}+?(?=n't(?!{word}))|{word}+|\n"
        rf"|[^\w\s{_CONTROLS}]{own}"
    )
    begins = f"(?![{marks}])" if marks else ""
    return _Patterns(re.compile(token), re.compile(rf"({begins}[^\s{_CONTROLS}]{own})\1{{3,}}"))


_ASCII = _compile(r"\w", "")


@functools.cache
def _any_script() -> _Patterns:
    marks = character_forms.combining_marks()
    return _compile(rf"\w{marks}{character_forms.JOINERS}", marks)


class Piece(NamedTuple):
    """What a piece of text between two spaces becomes."""

    tokens: list[str]
    first: str  # the word it begins with, "" if it begins with another mark
    last: str
    blank: bool  # nothing but white space


class _Token(NamedTuple):
    text: str
    marks: tuple[str, ...]  # what stands before it
    word: bool  # one that counts when it comes again and again
    apart: bool  # white space is before it


def encodable(text: str) -> str:
    """The text with ``?`` for halves of surrogate pairs, which no file or tokenizer takes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def unescape(text: str) -> str:
    """HTML's character references as characters. Any text will do: a number beyond Unicode's becomes U+FFFD."""
    try:
        return html.unescape(text)
    except ValueError:  # Python reads no number of more than 4,300 digits
        return html.unescape(_DECIMAL_REFERENCE.sub(lambda m: "\ufffd" if len(m[1]) > 7 else f"&#{m[1]}{m[2]}", text))


def prepare(text: str) -> str:
    """A well-formed text as pieces between single spaces, which ``split`` takes one by one.

    HTML's line breaks and references are undone, and the forms of characters settled (``character_forms``).
    """
    if "<" in text:
        text = LINE_BREAK.sub("\n", text)
    if "&" in text:
        text = unescape(text)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = character_forms.settle(text)
    return text.replace("\n", " \n ").replace("\t", " ")


def split(pieces: Iterable[str]) -> Iterator[Piece]:
    """Each piece's tokens; a piece never depends on another, but for repeated words."""
    for piece in pieces:
        yield _split_ascii(piece) if piece.isascii() else _split(piece)


def apply_rules(text: str) -> str:
    """One text's tokens with a space between each two.

    ``aaaaa`` becomes ``xxrep 5 a``, ``no No NO`` becomes ``xxwrep 3 no``, ``NASA`` becomes ``xxup nasa``, ``DON'T``
    becomes ``xxup do n't``, ``Paris`` becomes ``xxmaj paris``; all is lower case.
    """
    return " ".join(_split(prepare(encodable(text))).tokens).strip("\n ")


def _split_ascii(piece: str) -> Piece:
    """The short way for most pieces: no repetition, nothing in upper case but the first letter."""
    lower = piece.lower()
    if piece[1:] != lower[1:] or " " in piece or not piece.isprintable() or _ASCII.repeated.search(lower):
        return _split(piece)
    tokens = _ASCII.token.findall(lower)
    if not tokens:
        return Piece(tokens, "", "", True)
    first, last = tokens[0], tokens[-1]
    if piece != lower and first != "n't":
        tokens = [*_marks(piece[: len(first)], first), *tokens]
    return Piece(tokens, first if _is_word(first) else "", last if _is_word(last) else "", False)


def _split(piece: str) -> Piece:
    found = _find(piece)
    tokens: list[str] = []
    i = 0
    while i < len(found):
        end, count = _end_of_repetition(found, i)
        if count > 2:
            tokens += [WREP, str(count)]
        tokens += [*found[i].marks, found[i].text]
        i = end if count > 2 else i + 1
    solid = [token for token in found if token.text != "\n"]
    if not solid:
        return Piece(tokens, "", "", True)
    first, last = solid[0], solid[-1]
    return Piece(tokens, first.text if first.word else "", last.text if last.word else "", False)


def _find(piece: str) -> list[_Token]:
    """The tokens with their marks, repeated characters being one, repeated words not yet."""
    patterns = _ASCII if piece.isascii() else _any_script()
    lower = character_forms.lower(piece)
    found: list[_Token] = []
    begin = 0
    for run in [*patterns.repeated.finditer(lower), None]:
        end = len(lower) if run is None else run.start()
        before = begin
        for m in patterns.token.finditer(lower, begin, end):
            start, stop = m.span()
            word, text = _is_word(m[0]), m[0]
            apart = start > before or begin == start == 0
            marks: tuple[str, ...] = ()
            if word and (apart or not found or not found[-1].word) and text != "n't":
                marks = _marks(piece[start:stop], text)
            found.append(_Token(character_forms.final(text) if word else text, marks, word, apart))
            before = stop
        if run is not None:
            count = (run.end() - run.start()) // len(run[1])
            marks = (REP, str(count), *_marks(piece[run.start() : run.end()], run[0]))
            found.append(_Token(run[1], marks, False, run.start() > before))
            begin = run.end()
    return found


def _end_of_repetition(found: list[_Token], begin: int) -> tuple[int, int]:
    """Where the same word ends to come again and again, with nothing but white space between, and how often it came."""
    end, count, i = begin + 1, 1, begin + 1
    while found[begin].word and i < len(found):
        if found[i].text == "\n":
            i += 1
            continue
        apart = found[i].apart or found[i - 1].text == "\n"
        if not (found[i].word and found[i].text == found[begin].text and apart):
            break
        i += 1
        end, count = i, count + 1
    return end, count


def _marks(word: str, lower: str) -> tuple[str, ...]:
    """The markers of a word's case, given the word as it stands and in lower case."""
    if word == lower or not word[0].isalpha():
        return ()
    if word.isupper() and sum(map(str.isalnum, word)) > 1:
        return (UP,)
    return (MAJ,) if word[0] != lower[0] and word[1:] == lower[1:] else ()


def _is_word(token: str) -> bool:
    return token[0].isalnum() or token[0] == "_"
