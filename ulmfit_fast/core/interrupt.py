"""Ctrl-C, or a scheduler's SIGTERM, at a moment that suits."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within the block Ctrl-C and handled SIGTERMs wait for its end, where they can (in the main thread)."""
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
    """Within the block SIGTERM raises ``KeyboardInterrupt``, as Ctrl-C does, where it has no handler of its own."""
    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
