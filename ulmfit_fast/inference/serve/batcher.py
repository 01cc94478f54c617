"""Texts of many requests gathered into batches, computed by threads beside the one that talks to clients.

A text's result does not depend on its batch, so any texts may go together. Two kinds are kept apart for the sake of
time alone: short ones, and long ones, for which the short ones do not wait.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from ulmfit_fast.inference.serve.limits import RefusedError

LONG = 4_000  # characters: a text of so many, some 900 tokens, takes longer than a batch of short ones


class Observer(Protocol):
    """Is told of each batch, by the thread that computed it."""

    def batch(self, texts: int, seconds: float) -> None: ...


@dataclass(frozen=True)
class Batching:
    """How texts are gathered.

    Args:
        texts: most in a batch.
        characters: most in a batch, unless one text alone has more; they bound the memory of a batch.
        wait_s: that the first text of a batch waits for others. While a batch is computed the next one gathers anyway.
        lanes: batches of short texts at a time.
        threads: of each batch; None: all of torch's, divided among the lanes.
    """

    texts: int = 64
    characters: int = 200_000
    wait_s: float = 0.002
    lanes: int = 1
    threads: int | None = None


class _Request:
    """Texts that came together, and the results so far; all but ``finish`` under the batcher's lock."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[np.ndarray] = loop.create_future()
        self.rows: list[np.ndarray | None] = [None] * count
        self.missing = count
        self.error: Exception | None = None
        self.given_up = False

    def finish(self) -> None:
        """In the loop's thread."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(np.stack([row for row in self.rows if row is not None]))


class _Item(NamedTuple):
    request: _Request
    place: int
    text: str
    since: float


class Batcher:
    """Predicts texts for coroutines, batch by batch.

    Args:
        run: the result of each of some texts, a row each; called by several threads at a time.
        batching: how texts are gathered.
        most_waiting: texts that may wait.
        observer: is told of each batch.
    """

    def __init__(
        self, run: Callable[[Sequence[str]], np.ndarray], batching: Batching, most_waiting: int,
        observer: Observer | None = None,
    ) -> None:  # fmt: skip
        self._run, self._batching, self._most, self._observer = run, batching, most_waiting, observer
        self._changed = threading.Condition()
        self._short: deque[_Item] = deque()
        self._long: deque[_Item] = deque()
        self._closed = False
        threads = batching.threads or max(1, torch.get_num_threads() // batching.lanes)
        queues = [self._short] * batching.lanes + [self._long]
        self._threads = [threading.Thread(target=self._work, args=(queue, threads), daemon=True) for queue in queues]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Texts that no thread has begun with."""
        return len(self._short) + len(self._long)

    async def predict(self, texts: Sequence[str], seconds: float) -> np.ndarray:
        """Rows of results in the order of ``texts``, of which there is at least one.

        Raises:
            RefusedError: too many texts wait, or the result did not come within ``seconds``.
            Exception: what ``run`` raised.
        """
        request = _Request(len(texts), asyncio.get_running_loop())
        with self._changed:
            if self.waiting + len(texts) > self._most and self.waiting:
                raise RefusedError(503, f"{self.waiting} texts wait already; try again in a moment, or with fewer")
            now = time.monotonic()
            for place, text in enumerate(texts):
                (self._long if len(text) >= LONG else self._short).append(_Item(request, place, text, now))
            self._changed.notify_all()
        try:
            async with asyncio.timeout(seconds):
                return await request.future
        except TimeoutError:
            raise RefusedError(503, f"the prediction did not come within {seconds:g} s; try again later") from None
        finally:
            request.given_up = True

    def close(self) -> None:
        """Ends the threads once nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self, queue: deque[_Item], threads: int) -> None:
        torch.set_num_threads(threads)  # of this thread
        while batch := self._next(queue):
            self._compute(batch)

    def _next(self, queue: deque[_Item]) -> list[_Item]:
        """The next batch; empty when the batcher is closed."""
        with self._changed:
            while True:
                while queue and queue[0].request.given_up:
                    queue.popleft()
                if not queue and self._closed:
                    return []
                if not queue:
                    self._changed.wait()
                    continue
                left = queue[0].since + self._batching.wait_s - time.monotonic()
                if left <= 0 or len(queue) >= self._batching.texts or self._closed:
                    return self._take(queue)
                self._changed.wait(left)

    def _take(self, queue: deque[_Item]) -> list[_Item]:
        batch: list[_Item] = []
        characters = 0
        while queue and len(batch) < self._batching.texts:
            characters += len(queue[0].text)
            if batch and characters > self._batching.characters:
                break
            item = queue.popleft()
            if not item.request.given_up:
                batch.append(item)
        return batch

    def _compute(self, batch: list[_Item]) -> None:
        start = time.monotonic()
        rows: np.ndarray | None = None
        error: Exception | None = None
        try:
            rows = self._run([item.text for item in batch])
        except Exception as raised:
            error = raised
        if self._observer is not None:
            self._observer.batch(len(batch), time.monotonic() - start)
        finished: dict[asyncio.AbstractEventLoop, list[_Request]] = {}
        with self._changed:
            for index, (request, place, *_) in enumerate(batch):
                request.rows[place] = None if rows is None else rows[index]
                request.error = request.error or error
                request.missing -= 1
                if request.missing == 0:
                    finished.setdefault(request.loop, []).append(request)
        for loop, requests in finished.items():
            loop.call_soon_threadsafe(_finish, requests)


def _finish(requests: list[_Request]) -> None:
    for request in requests:
        request.finish()
