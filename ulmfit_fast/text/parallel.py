"""Tokenizing on several cores: processes that read no model and import no torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

import numpy as np

from ulmfit_fast.core.processes import begin_worker, ordered_map
from ulmfit_fast.text.piece_table import in_pieces
from ulmfit_fast.text.token_counts import TokenCounter
from ulmfit_fast.text.tokenizer import Tokenizer

_CHARACTERS = 1 << 18  # of the texts that a process takes at a time
_SMALL = 16  # so many pieces are not worth starting processes

_State = Tokenizer | TokenCounter
_state: _State | None = None  # a worker's


def encode(tokenizer: Tokenizer, texts: Iterable[str], processes: int) -> Iterator[np.ndarray]:
    """``tokenizer.encode(texts)``, in order, on several cores. Reads and holds few texts at a time.

    With ``processes`` above 1 a program that calls this needs the usual ``if __name__ == "__main__":``, as with
    ``multiprocessing`` and DataLoader workers.
    """
    for ids in _map(_encode, texts, processes, tokenizer):
        yield from ids


def count_tokens(texts: Iterable[str], counter: TokenCounter | Tokenizer, processes: int) -> Counter[str]:
    """``counter.count(texts)``, likewise."""
    result = Counter[str]()
    for counts in _map(_count, texts, processes, counter):
        result.update(counts)
    return result


def _map(function: Any, texts: Iterable[str], processes: int, state: _State) -> Iterator[Any]:
    pieces = in_pieces(texts, _CHARACTERS)
    first = list(islice(pieces, max(_SMALL, 2 * processes)))
    if processes <= 1 or len(first) < _SMALL:
        for piece in chain(first, pieces):
            yield function(piece, state)
        return
    yield from ordered_map(function, chain(first, pieces), processes, _start, (state,), "tokenizes")


def _start(state: _State) -> None:
    global _state
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    begin_worker()
    _state = state


def _encode(texts: list[str], state: _State | None = None) -> list[np.ndarray]:
    tokenizer = state if state is not None else _state
    assert isinstance(tokenizer, Tokenizer)
    return list(tokenizer.encode(texts))


def _count(texts: list[str], state: _State | None = None) -> Mapping[str, int]:
    counter = state if state is not None else _state
    assert counter is not None
    return counter.count(texts)
