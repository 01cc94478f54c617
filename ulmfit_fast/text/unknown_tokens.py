"""A warning where a tokenizer does not know the words of the texts that it is given."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import numpy as np

from ulmfit_fast.core.errors import InputWarning
from ulmfit_fast.text.tokenizer import Tokenizer

_MOST = 0.2  # share of unknown tokens without a warning
_FEW = 100  # tokens that say nothing about a share


class UnknownTokens:
    """Counts the unknown tokens of texts as they are encoded.

    Args:
        tokenizer: that encodes them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokens = 0
        self.unknown = 0.0

    def watch(self, ids: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same, each text's ids, counted as they pass."""
        for text in ids:
            self.tokens += len(text) - 1
            self.unknown += self.tokenizer.unknown_share([text]) * (len(text) - 1)
            yield text

    def warn(self, source: str) -> None:
        """InputWarning if more than a fifth of a hundred tokens or more were unknown; ``source`` is named in it."""
        if self.tokens < _FEW or self.unknown <= _MOST * self.tokens:
            return
        warnings.warn(
            f"{source}: {self.unknown / self.tokens:.0%} of the {self.tokens:,} tokens are unknown to the vocabulary "
            f"({len(self.tokenizer):,} tokens), and all unknown ones look alike to the model; {self._advice()}",
            InputWarning,
            stacklevel=3,
        )

    def _advice(self) -> str:
        if self.tokenizer.kind in ("subword", "sentencepiece"):
            return "the texts have characters that those behind the vocabulary lacked: make one of texts like these"
        return (
            "text without spaces between words (Chinese, Japanese, Thai), in another language than the model's or with "
            "few words that come again needs a model made with --tokenizer subword (tokenizer='subword')"
        )


def warn_of_unknown(source: str, tokenizer: Tokenizer, ids: Iterable[np.ndarray]) -> None:
    """``UnknownTokens`` of texts that are encoded already."""
    found = UnknownTokens(tokenizer)
    for _ in found.watch(ids):
        pass
    found.warn(source)
