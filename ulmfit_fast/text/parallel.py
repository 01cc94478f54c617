"""Tokenizing on several cores: processes that read no model and import no torch."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import tokenizers

from ulmfit_fast.text.rules import apply_rules
from ulmfit_fast.text.tokenizer import Tokenizer

_CHARACTERS = 1 << 18  # of the texts that a process takes at a time
_SMALL = 16  # so many pieces are not worth starting processes

_tokenizer: Tokenizer | None = None


def available_processes() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode(tokenizer: Tokenizer, texts: Iterable[str], processes: int) -> Iterator[np.ndarray]:
    """``tokenizer.encode(texts)``, in order, on several cores. Reads and holds few texts at a time.

    With ``processes`` above 1 a program that calls this needs the usual ``if __name__ == "__main__":``, as with
    ``multiprocessing`` and DataLoader workers.
    """
    for ids in _map(_encode, texts, processes, tokenizer):
        yield from ids


def with_rules(texts: Iterable[str], processes: int) -> Iterator[str]:
    """``apply_rules`` of each text, likewise."""
    for marked in _map(_apply_rules, texts, processes, None):
        yield from marked


def _map(function: Any, texts: Iterable[str], processes: int, tokenizer: Tokenizer | None) -> Iterator[Any]:
    pieces = _cut(texts)
    first = [piece for _, piece in zip(range(_SMALL), pieces, strict=False)]
    if processes <= 1 or len(first) < _SMALL:
        global _tokenizer
        _tokenizer = tokenizer
        for piece in first:
            yield function(piece)
        for piece in pieces:
            yield function(piece)
        return
    state = None if tokenizer is None else tokenizer.to_json()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (state,)) as pool:
        waiting: deque[Future[Any]] = deque(pool.submit(function, piece) for piece in first[: 2 * processes])
        rest = iter(first[2 * processes :])
        for source in (rest, pieces):
            for piece in source:
                yield waiting.popleft().result()
                waiting.append(pool.submit(function, piece))
        while waiting:
            yield waiting.popleft().result()


def _cut(texts: Iterable[str]) -> Iterator[list[str]]:
    piece: list[str] = []
    characters = 0
    for text in texts:
        piece.append(text)
        characters += len(text)
        if characters >= _CHARACTERS:
            yield piece
            piece, characters = [], 0
    if piece:
        yield piece


def _start(tokenizer: str | None) -> None:
    global _tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _tokenizer = None if tokenizer is None else Tokenizer(tokenizers.Tokenizer.from_str(tokenizer))


def _encode(texts: list[str]) -> list[np.ndarray]:
    assert _tokenizer is not None
    return list(_tokenizer.encode(texts))


def _apply_rules(texts: list[str]) -> list[str]:
    return [apply_rules(text) for text in texts]
