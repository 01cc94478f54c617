"""One text piece by piece to the token ids of the whole."""

from __future__ import annotations

import re

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.rule_versions import end_of_whole_pieces, rules_of
from ulmfit_fast.text.rules import encodable
from ulmfit_fast.text.tokenizer import Tokenizer

_SPACES = re.compile(r"(?<!\s)[ \t\r\n]+(?!\s)")
_NEW_WORD = re.compile(r"[ \t\r\n][^ \t\r\n]")  # without one, what has come ends where it ended before


class TokenStream:
    """One text as it comes: pieces of text in, the token ids that no later piece can change out.

    All that was fed and ``rest()`` together equal ``Tokenizer.encode`` of the whole text. What waits is a few words, or
    as much as comes without white space between words, as one word over and over, or as line breaks alone.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.direction != "forward":
            raise InputError(
                "a backward model reads a text from its end, which has not come yet; predict on the whole text instead"
            )
        if not tokenizer.takes_parts:
            raise InputError(
                f"{tokenizer.described} reads whole texts, not one that still comes; predict on the whole text instead"
            )
        self.tokenizer = tokenizer
        self._text = ""
        self._waiting: list[str] = []  # behind it, nothing that could be cut
        self._last = ""  # the last character
        self._searched = 0  # no cut before this point of the text
        self._first = [tokenizer.bos_id]
        self._begun = False  # something other than white space has come
        self._line_breaks: list[int] = []  # the last tokens so far; at the end of a text they do not count

    def feed(self, text: str) -> list[int]:
        """Take a piece; returns the ids that are certain now."""
        text = encodable(text)
        ids, self._first = self._first, []
        self._waiting.append(text)
        begins_word = _NEW_WORD.search(self._last + text) is not None
        self._last = text[-1:] or self._last
        if not begins_word:
            return ids
        text = self._all()
        end = self._end_of_certain(text)
        piece, self._text = text[:end], text[end:]
        return ids + self._encode(piece)

    def rest(self) -> list[int]:
        """The ids of what waits, as if nothing else came. Changes nothing."""
        before = self._begun, list(self._line_breaks)
        ids = self._first + self._encode(self._all())
        self._begun, self._line_breaks = before
        return ids

    def _all(self) -> str:
        self._text = "".join([self._text, *self._waiting])
        self._waiting = []
        return self._text

    def _end_of_certain(self, text: str) -> int:
        if self.tokenizer.uses_rules:
            end, self._searched = end_of_whole_pieces(rules_of(self.tokenizer.rules_version), text, self._searched)
            return end
        # A subword begins with the white space before it.
        return max((spaces.start() for spaces in _SPACES.finditer(text)), default=0)

    def _encode(self, piece: str) -> list[int]:
        ids: list[int] = []
        for token, line_break in zip(*self.tokenizer.encode_part(piece), strict=True):
            if not line_break:
                ids += [*self._line_breaks, token]
                self._begun, self._line_breaks = True, []
            elif self._begun:  # line breaks at the beginning do not count either
                self._line_breaks.append(token)
        return ids
