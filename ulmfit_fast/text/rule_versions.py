"""The text rules by version, and where a text that still comes can be cut under each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text import rules, rules_v1
from ulmfit_fast.text.rules import Piece

_BETWEEN_SPACES = re.compile(r"[^ \t\n]+")  # an HTML entity ends at one of these
_OPEN_BREAK = re.compile(r"<br\s*$", re.IGNORECASE)


class Rules(Protocol):
    """One version: a text is prepared, and its pieces between single spaces are split one by one."""

    VERSION: int

    def prepare(self, text: str, /) -> str: ...

    def split(self, pieces: Iterable[str], /) -> Iterator[Piece]: ...

    def apply_rules(self, text: str, /) -> str: ...


RULES: dict[int, Rules] = {1: rules_v1, 2: rules}


def rules_of(version: int) -> Rules:
    """The rules of a version. Raises InputError if this release does not know it."""
    if version not in RULES:
        raise InputError(f"text rules of version {version!r}; this release of ulmfit_fast has 1 to {max(RULES)}")
    return RULES[version]


def split_whole(version: Rules, text: str) -> Piece:
    """A well-formed text, or a part of one cut by ``end_of_whole_pieces``, in one go."""
    return next(version.split([version.prepare(text)]))


def end_of_whole_pieces(version: Rules, text: str, searched: int = 0) -> tuple[int, int]:
    """How much of the beginning of a text has the same tokens whatever follows ``text``; it ends after white space.

    Two words stay behind: the last may go on, and the one before it may be part of a repetition. A cut must not divide
    a repetition of words, nor a line break with white space in its tag.

    Args:
        version: the rules.
        text: what has come so far.
        searched: what the last call returned for the beginning of this text, where it found nothing.

    Returns:
        The end, 0 where nothing is certain; and how far there is certainly no cut.
    """
    words = list(_BETWEEN_SPACES.finditer(text, searched))
    for i in range(len(words) - 3, 0 if searched else -1, -1):
        if any(_OPEN_BREAK.search(word[0]) for word in words[max(0, i - 1) : i + 2]):
            continue
        left, right = split_whole(version, words[i][0]), split_whole(version, words[i + 1][0])
        if not (left.blank or right.blank or (left.last and left.last == right.first)):
            return words[i + 1].start(), 0
    # The next call begins far enough back to know the word before each cut that was not looked at.
    return 0, words[-4].start() if len(words) > 4 else searched
