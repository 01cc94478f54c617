"""Ctrl-C, a scheduler's SIGTERM, or a closed terminal's SIGHUP, at a moment that suits."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_SIGNALS = (signal.SIGINT, *_ENDING)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within the block Ctrl-C and those ending signals that have a handler wait for its end (in the main thread)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    waiting: list[Any] = []
    for number in _SIGNALS:
        if callable(before[number]):
            signal.signal(number, lambda *arguments: waiting.append(arguments))
    try:
        yield
    finally:
        for number in _SIGNALS:
            if callable(before[number]):
                signal.signal(number, before[number])
    if waiting:
        before[waiting[0][0]](*waiting[0])


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise ``KeyboardInterrupt``, as Ctrl-C does.

    One that has a handler of its own, or is ignored (SIGHUP under nohup), stays as it is.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    taken = [number for number in _ENDING if main_thread and signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
