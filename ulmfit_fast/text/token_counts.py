"""How often texts have each token of the text rules: what a vocabulary of words is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from ulmfit_fast.text.piece_table import LINE_BREAK, PieceTable, in_pieces
from ulmfit_fast.text.rule_versions import rules_of
from ulmfit_fast.text.rules import BOS, encodable
from ulmfit_fast.text.token_pieces import WordCutting

_MOST_TOKENS = 1 << 20  # different ones, held between calls
_CHARACTERS_AT_A_TIME = 1 << 20


class _Numbers(dict[str, int]):
    """Tokens in the order in which they came, as the ids of ``WordCutting``."""

    def __missing__(self, token: str) -> int:
        self[token] = number = len(self) + (LINE_BREAK if token.isspace() else 0)
        return number


class TokenCounter:
    """Counts tokens, call by call.

    Args:
        rules_version: of the text rules.
    """

    def __init__(self, rules_version: int) -> None:
        self._rules = rules_of(rules_version)
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCounter, (self._rules.VERSION,)

    def _begin(self) -> None:
        self._numbers = _Numbers()
        self._cutting = WordCutting(self._rules, self._numbers.__getitem__)
        self._table = PieceTable(self._cutting.numbered, self._numbers[BOS])

    def count(self, texts: Iterable[str]) -> dict[str, int]:
        """Tokens of these texts and how often they come."""
        if len(self._numbers) > _MOST_TOKENS:
            self._begin()
        found = self._table.encode([self._cutting.prepare(encodable(text)) for text in texts])
        ids = np.concatenate([*(ids[1:] for ids in found if ids is not None), np.empty(0, np.int32)])
        frequency = np.bincount(ids, minlength=len(self._numbers)).tolist()
        return {token: times for token, times in zip(self._numbers, frequency, strict=True) if times}


def count_tokens(texts: Iterable[str], rules_version: int) -> Counter[str]:
    """How often raw texts, read once, have each token."""
    counter, result = TokenCounter(rules_version), Counter[str]()
    for batch in in_pieces(texts, _CHARACTERS_AT_A_TIME):
        result.update(counter.count(batch))
    return result
