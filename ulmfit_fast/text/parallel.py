"""Tokenizing on several cores: processes that read no model and import no torch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import resource_tracker
from typing import Any

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.piece_table import in_pieces
from ulmfit_fast.text.token_counts import TokenCounter
from ulmfit_fast.text.tokenizer import Tokenizer

_CHARACTERS = 1 << 18  # of the texts that a process takes at a time
_SMALL = 16  # so many pieces are not worth starting processes

_State = Tokenizer | TokenCounter
_state: _State | None = None  # a worker's


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


def count_tokens(texts: Iterable[str], rules_version: int, processes: int) -> Counter[str]:
    """``token_counts.count_tokens``, likewise."""
    result = Counter[str]()
    for counts in _map(_count, texts, processes, TokenCounter(rules_version)):
        result.update(counts)
    return result


def _map(function: Any, texts: Iterable[str], processes: int, state: _State) -> Iterator[Any]:
    pieces = in_pieces(texts, _CHARACTERS)
    first = list(islice(pieces, max(_SMALL, 2 * processes)))
    if processes <= 1 or len(first) < _SMALL:
        for piece in chain(first, pieces):
            yield function(piece, state)
        return
    _start_resource_tracker()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start, (state,)) as pool:
        waiting: deque[Future[Any]] = deque(pool.submit(function, piece) for piece in first)
        try:
            for piece in pieces:
                yield waiting.popleft().result()
                waiting.append(pool.submit(function, piece))
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise InputError(
                "a process that tokenizes has ended, killed for memory perhaps; try fewer: --processes 1"
            ) from None


def _start_resource_tracker() -> None:
    """Start multiprocessing's helper so that a closed terminal does not end it: what is blocked is inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(state: _State) -> None:
    global _state
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    for number in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C, a closed terminal: for the one that started this one
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _state = state


def _end_with_parent() -> None:
    """A parent that is killed says nothing to those that wait for its work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _encode(texts: list[str], state: _State | None = None) -> list[np.ndarray]:
    tokenizer = state or _state
    assert isinstance(tokenizer, Tokenizer)
    return list(tokenizer.encode(texts))


def _count(texts: list[str], state: _State | None = None) -> dict[str, int]:
    counter = state or _state
    assert isinstance(counter, TokenCounter)
    return counter.count(texts)
