"""A fork while another thread holds a lock: the child gets it, and finds whole what it guards."""

from __future__ import annotations

import os
import select
import signal
import threading

from ulmfit_fast.core.fork import lock_that_forks_wait_for
from ulmfit_fast.text.tokenizer import Tokenizer


def says(child: int, reading: int) -> bytes:
    readable, _, _ = select.select([reading], [], [], 20)
    said = os.read(reading, 100) if readable else b"hangs"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return said


def test_a_fork_waits_for_whoever_holds_a_lock() -> None:
    lock, guarded = lock_that_forks_wait_for(), [0, 0]
    holds, forks = threading.Event(), threading.Event()

    def change() -> None:
        with lock:
            guarded[0] = 1
            holds.set()
            forks.wait(0.3)  # nobody sets it: the fork comes meanwhile, and waits
            guarded[1] = 1

    thread = threading.Thread(target=change)
    thread.start()
    holds.wait()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with lock:
            os.write(writing, str(guarded).encode())
        os._exit(0)
    assert says(child, reading) == b"[1, 1]"
    thread.join()
    with lock:  # the parent has it back
        pass


def test_a_tokenizer_is_not_left_locked() -> None:
    tokenizer = Tokenizer.train_words(["one two three"], min_frequency=1)
    ended = threading.Event()

    def encode() -> None:
        while not ended.is_set():
            list(tokenizer.encode(["one two three"] * 50))

    thread = threading.Thread(target=encode)
    thread.start()
    expected = next(tokenizer.encode(["three one"])).tobytes()
    try:
        for _ in range(8):
            reading, writing = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(writing, b"same" if next(tokenizer.encode(["three one"])).tobytes() == expected else b"other")
                os._exit(0)
            assert says(child, reading) == b"same"
            os.close(reading)
            os.close(writing)
    finally:
        ended.set()
        thread.join()
