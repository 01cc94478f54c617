"""One text piece by piece to the token ids of the whole."""

from __future__ import annotations

import re

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.rules import apply_rules_inside, end_of_whole_pieces
from ulmfit_fast.text.tokenizer import Tokenizer

_SPACES = re.compile(r"(?<!\s)[ \t\r\n]+(?!\s)")


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
        self.tokenizer = tokenizer
        self._text = ""
        self._searched = 0  # no cut before this point of it
        self._first = [tokenizer.bos_id]
        self._begun = False  # something other than white space has come
        self._line_breaks: list[int] = []  # the last tokens so far; at the end of a text they do not count

    def feed(self, text: str) -> list[int]:
        """Take a piece; returns the ids that are certain now."""
        self._text += text
        end = self._end_of_certain()
        piece, self._text = self._text[:end], self._text[end:]
        ids = self._first + self._encode(piece)
        self._first = []
        return ids

    def rest(self) -> list[int]:
        """The ids of what waits, as if nothing else came. Changes nothing."""
        before = self._begun, list(self._line_breaks)
        ids = self._first + self._encode(self._text)
        self._begun, self._line_breaks = before
        return ids

    def _end_of_certain(self) -> int:
        if self.tokenizer.uses_rules:
            end, self._searched = end_of_whole_pieces(self._text, self._searched)
            return end
        # A subword begins with the white space before it.
        return max((spaces.start() for spaces in _SPACES.finditer(self._text)), default=0)

    def _encode(self, piece: str) -> list[int]:
        if not self.tokenizer.uses_rules:
            return list(self.tokenizer.backend.encode(piece, add_special_tokens=False).ids) if piece else []
        marked = apply_rules_inside(piece)
        encoding = self.tokenizer.backend.encode(marked, add_special_tokens=False)
        ids: list[int] = []
        for token, (begin, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if not marked[begin:end].isspace():
                ids += [*self._line_breaks, token]
                self._begun, self._line_breaks = True, []
            elif self._begun:  # line breaks at the beginning do not count either
                self._line_breaks.append(token)
        return ids
