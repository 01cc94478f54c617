"""Locks that a fork waits for: in the child nobody holds them, and what they guard is whole."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

_guard = threading.Lock()
_locks: WeakSet[threading.Lock] = WeakSet()
_taken: list[threading.Lock] = []  # between a fork's beginning and its end


def lock_that_forks_wait_for() -> threading.Lock:
    """A new lock. Whoever holds one must not wait for another of these, nor fork."""
    lock = threading.Lock()
    with _guard:
        _locks.add(lock)
    return lock


def _take() -> None:
    _guard.acquire()
    for lock in list(_locks):
        lock.acquire()
        _taken.append(lock)


def _give_back() -> None:
    for lock in _taken:
        lock.release()
    _taken.clear()
    _guard.release()


os.register_at_fork(before=_take, after_in_parent=_give_back, after_in_child=_give_back)
