"""Work on several cores: processes that are started afresh, results in order, few pieces held at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any, TypeVar

from ulmfit_fast.core.errors import InputError

P = TypeVar("P")
R = TypeVar("R")


def available_processes() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    function: Callable[[P], R], pieces: Iterable[P], processes: int, start: Callable[..., None],
    arguments: tuple[Any, ...], doing: str,
) -> Iterator[R]:  # fmt: skip
    """``function`` of each piece, in order, by so many processes; two pieces for each are on their way at a time.

    A program that calls this needs the usual ``if __name__ == "__main__":``, as with ``multiprocessing``.

    Args:
        function: of a module, not a closure.
        start: is called with ``arguments`` in each process first; to begin with ``begin_worker``.
        doing: what a process does, for the message where one has ended.

    Raises:
        InputError: a process has ended, killed perhaps.
    """
    _start_resource_tracker()
    pieces = iter(pieces)
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), start, arguments)
    waiting: deque[Future[R]] = deque()
    try:
        waiting.extend(pool.submit(function, piece) for piece in islice(pieces, 2 * processes))
        for piece in pieces:
            yield waiting.popleft().result()
            waiting.append(pool.submit(function, piece))
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise InputError(
            f"a process that {doing} has ended, killed for memory perhaps; try fewer: --processes 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def begin_worker() -> None:
    """What each process does first: Ctrl-C and a closed terminal are for the one that started it, as is its end."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _start_resource_tracker() -> None:
    """Start multiprocessing's helper so that a closed terminal does not end it: what is blocked is inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A parent that is killed says nothing to those that wait for its work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
