"""Where in a text each of its tokens stands, and the words and sentences that a person sees there.

Tokenizers change texts before they cut them: case, HTML, repetitions, the forms of characters. So each piece between
white space is tokenized by itself. The pieces' tokens are those of the whole, but for a few that are aligned, and
within a piece a token is looked for by how it is written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ulmfit_fast.text.rules import MAJ, REP, SPECIAL_TOKENS, UNK, UP, WREP, encodable
from ulmfit_fast.text.tokenizer import Tokenizer

_PIECES = re.compile(r"<br\s*/?>|\s+", re.IGNORECASE)  # what stands between them; a tag is a piece, too
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_WORD = re.compile(r"\w+(?:['\u2019\u02bc-]\w+)*")
_SENTENCE_END = re.compile(
    r"[.!?\u2026\u3002\uff01\uff1f]+[\"'\u2019\u201d\u00bb)\]]*(?=\s|$|[^\x00-\x7f])|\n\s*\n|<br\s*/?>"
)
# Scripts whose words stand without a space between: a run of letters is no word there.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_AHEAD = 100  # tokens in which two ways to cut a text agree again
_SUBWORD_MARKS = "\u2581\u0120"


class Part(NamedTuple):
    """A stretch of a text, ``text[start:end]``, and the positions of its tokens among ``encode``'s ids."""

    start: int
    end: int
    tokens: tuple[int, ...]


def token_spans(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A text's ids, as ``encode`` gives them, and for each the stretch (start, end) of the text that became it.

    ``xxbos`` has (0, 0). A marker such as ``xxmaj`` has the beginning of its word, of no length. The stretches follow
    the text (backward: from its end), and overlap only where a token cannot be told from its neighbours.
    """
    (ids,) = tokenizer.encode([text])
    in_order = ids if tokenizer.direction == "forward" else ids[::-1]
    pieces = _pieces(text)
    prefix, found = _encoded_alone(tokenizer, [text[begin:end] for begin, end in pieces])
    guessed: list[int] = [*prefix]
    spans: list[tuple[int, int]] = [(0, 0)] * len(prefix)
    names = tokenizer.vocabulary
    for (begin, end), own in zip(pieces, found, strict=True):
        guessed += own
        spans += _within(text, begin, end, [names[i] for i in own])
    if guessed != in_order.tolist():
        spans = _aligned(guessed, spans, in_order.tolist(), names)
    return ids, spans if tokenizer.direction == "forward" else spans[::-1]


def words(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, list[Part]]:
    """A text's ids and its words and marks in order, each with its tokens; of unspaced scripts token by token.

    ``xxbos`` belongs to none. Every other token belongs to one.
    """
    ids, spans = token_spans(tokenizer, text)
    order = range(len(ids)) if tokenizer.direction == "forward" else range(len(ids) - 1, -1, -1)
    word_of = _word_of_character(text)
    parts: list[tuple[int, int, list[int]]] = []
    waiting: list[int] = []  # markers, for the word that follows
    for position in order:
        if int(ids[position]) == tokenizer.bos_id and spans[position] == (0, 0):
            continue
        start, end = spans[position]
        if start == end:
            waiting.append(position)
            continue
        word = word_of.get(start)
        same = parts and (
            start < parts[-1][1]
            or (word is not None and word_of.get(parts[-1][1] - 1) == word)
            or (start == parts[-1][1] and not text[start].isalnum() and set(text[start:end]) == {text[start - 1]})
        )
        if same:
            before = parts[-1]
            parts[-1] = (before[0], max(before[1], end), [*before[2], *waiting, position])
        else:
            parts.append((start, end, [*waiting, position]))
        waiting = []
    if waiting and parts:
        parts[-1][2].extend(waiting)
    return ids, [Part(start, end, tuple(sorted(tokens))) for start, end, tokens in parts]


def sentences(tokenizer: Tokenizer, text: str) -> tuple[np.ndarray, list[Part]]:
    """A text's ids and its sentences in order, each with its tokens: ends are . ! ? and the like, and empty lines."""
    ids, found = words(tokenizer, text)
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    grouped: list[list[Part]] = []
    passed, begins = 0, True
    for part in found:
        while passed < len(ends) and part.start >= ends[passed]:
            passed, begins = passed + 1, True
        written = text[part.start : part.end].strip()
        blank = not written or _BREAK.fullmatch(written) is not None  # it belongs to the sentence before it
        if not grouped or (begins and not blank):
            grouped.append([])
            begins = False
        grouped[-1].append(part)
    return ids, [
        Part(group[0].start, group[-1].end, tuple(sorted(t for part in group for t in part.tokens)))
        for group in grouped
    ]


def _pieces(text: str) -> list[tuple[int, int]]:
    """What stands between white space, and line breaks, in order."""
    found, last = [], 0
    for match in _PIECES.finditer(text):
        found.append((last, match.start()))
        if match[0][0] == "<" or "\n" in match[0]:
            found.append(match.span())
        last = match.end()
    found.append((last, len(text)))
    return [(begin, end) for begin, end in found if begin < end]


def _encoded_alone(tokenizer: Tokenizer, pieces: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """What every text begins with, and each piece's own ids. Line breaks count between words alone."""
    step = 1 if tokenizer.direction == "forward" else -1
    is_word = [(bool(piece.strip()) and piece[0] != "<") or piece == "<" for piece in pieces]
    texts = [piece if word else f"a{piece} a" for piece, word in zip(pieces, is_word, strict=True)]
    empty, letter, *others = (ids[::step].tolist() for ids in tokenizer.encode(["", "a", *texts]))
    beside = len(letter) - len(empty)
    found = []
    for ids, word in zip(others, is_word, strict=True):
        own = ids[len(empty) :] if ids[: len(empty)] == empty else ids[1:]
        found.append(own if word else own[beside : len(own) - beside])
    return empty, found


def _aligned(
    guessed: list[int], spans: list[tuple[int, int]], ids: list[int], names: Sequence[str]
) -> list[tuple[int, int]]:
    """The spans of ``ids``, given those of nearly the same ones, of the pieces alone.

    What the pieces do not know are words that are repeated (``xxwrep``). Whatever else differs shares the stretch of
    what it stands for.
    """
    found: list[tuple[int, int]] = []
    i = j = 0
    while i < len(ids):
        if j < len(guessed) and ids[i] == guessed[j]:
            found.append(spans[j])
            i, j = i + 1, j + 1
            continue
        count, replaced = _repeated(guessed, j, ids, i, names) or _until_equal(guessed, j, ids, i)
        stretch = [span for span in spans[j : j + replaced] if span[0] < span[1]]
        begin = found[-1][1] if found else 0
        found += [(stretch[0][0], stretch[-1][1]) if stretch else (begin, begin)] * count
        i, j = i + count, j + replaced
    return found


def _repeated(guessed: list[int], j: int, ids: list[int], i: int, names: Sequence[str]) -> tuple[int, int] | None:
    """How many ids say that a word is repeated, and how many of the pieces' ids say the same; None: they do not."""
    if names[ids[i]] != WREP:
        return None
    word = i + 2  # behind the marker and the number
    while word < len(ids) and names[ids[word]] in (UP, MAJ):
        word += 1
    end, last = j, j
    while word < len(ids) and end < len(guessed):
        name = names[guessed[end]]
        if guessed[end] == ids[word]:
            last = end + 1
        elif name not in (UP, MAJ) and not name.isspace():
            break
        end += 1
    return (word + 1 - i, last - j) if last > j else None


def _until_equal(guessed: list[int], j: int, ids: list[int], i: int) -> tuple[int, int]:
    """How many of both differ, before two in a row are equal again."""
    for total in range(1, _AHEAD):
        for mine in range(total + 1):
            left, right = ids[i + mine : i + mine + 2], guessed[j + total - mine : j + total - mine + 2]
            if left and left == right:
                return mine, total - mine
    return len(ids) - i, len(guessed) - j


def _within(text: str, begin: int, end: int, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """The spans of one piece's tokens."""
    if len(tokens) == 1:
        return [(begin, end)]
    characters, places = _settled(text, begin, end)
    found: list[tuple[int, int] | None] = []
    position = 0
    skip = 0  # tokens that count a repetition, and are not written
    for index, token in enumerate(tokens):
        if skip or token in SPECIAL_TOKENS:
            if token in (REP, WREP) and not skip:
                skip = 2
            skip = max(skip - 1, 0)
            found.append(None if token == UNK else (-1, -1))
            continue
        written = _settled(token.lstrip(_SUBWORD_MARKS), 0, len(token))[0]
        place = characters.find(written, position) if written else position
        if place < 0 or not written:
            found.append((-1, -1) if not written else None)
            continue
        stop = place + len(written)
        if index and tokens[index - 1].isdigit() and index > 1 and tokens[index - 2] == REP:
            while stop < len(characters) and characters[stop : stop + len(written)] == written:
                stop += len(written)
        found.append((places[place], places[stop]))
        position = stop
    return _filled(found, begin, end)


def _filled(found: list[tuple[int, int] | None], begin: int, end: int) -> list[tuple[int, int]]:
    """Markers at the beginning of what follows them; tokens that were not found in the stretch between the others."""
    spans: list[tuple[int, int]] = [(begin, begin)] * len(found)
    next_start = end
    for index in range(len(found) - 1, -1, -1):  # where the next one that was found begins
        span = found[index]
        if span is None:
            spans[index] = (-1, next_start)
        elif span == (-1, -1):
            spans[index] = (-2, next_start)
        else:
            spans[index] = span
            next_start = span[0]
    last = begin
    for index, (start, stop) in enumerate(spans):
        if start == -1:
            spans[index] = (min(last, stop), stop)
        elif start == -2:
            spans[index] = (min(last, stop),) * 2 if _unknown_follows(found, index) else (stop, stop)
        else:
            last = stop
    return spans


def _unknown_follows(found: list[tuple[int, int] | None], index: int) -> bool:
    """Whether the next token that is no marker was not found."""
    for span in found[index + 1 :]:
        if span != (-1, -1):
            return span is None
    return False


def _settled(text: str, begin: int, end: int) -> tuple[str, list[int]]:
    """A stretch as tokens are written, and where in the text each of its characters stands, with the end behind."""
    characters: list[str] = []
    places: list[int] = []
    for place in range(begin, min(end, len(text))):
        form = unicodedata.normalize("NFKD", encodable(text[place])).lower()
        for character in form:
            if unicodedata.category(character)[0] == "M" or character in "\u00ad\ufeff\u200b":
                continue
            characters.append(_PLAIN.get(character, character))
            places.append(place)
    return "".join(characters), [*places, end]


_PLAIN = dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u00b4", "'") | dict.fromkeys("\u201c\u201d\u201e\u201f", '"') | {
    "\u2010": "-", "\u2011": "-", "\u03c2": "\u03c3",
}  # fmt: skip


def _word_of_character(text: str) -> dict[int, int]:
    """The number of the word that each character belongs to, of spaced scripts."""
    found: dict[int, int] = {}
    for number, match in enumerate(_WORD.finditer(text)):
        if not _UNSPACED.search(match[0]):
            found |= dict.fromkeys(range(*match.span()), number)
    return found
