"""What goes into a batch, what waits, and what is refused; with a run whose pace the test sets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from ulmfit_fast.inference.serve.batcher import LONG, Batcher, Batching
from ulmfit_fast.inference.serve.limits import RefusedError


class Run:
    """Lengths of texts, once ``go`` is set; keeps the batches that it was given."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.batches.append(list(texts))
        self.go.wait(10)
        if "bad" in texts:
            raise ValueError("bad")
        return np.array([[len(text)] for text in texts], np.float32)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def make(run: Run) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def batcher(most_waiting: int = 100, **batching: Any) -> Batcher:
        made.append(Batcher(run, Batching(**{"wait_s": 0.05, "threads": 1} | batching), most_waiting))
        return made[-1]

    yield batcher
    run.go.set()
    for each in made:
        each.close()


def together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    async def all_of() -> list[Any]:
        return await asyncio.gather(*work, return_exceptions=True)

    return asyncio.run(all_of())


def test_what_comes_within_the_wait_is_one_batch(make: Callable[..., Batcher], run: Run) -> None:
    batcher = make()
    found = together(*(batcher.predict(["x" * i, "y" * i], 10) for i in range(1, 8)))
    assert [rows.tolist() for rows in found] == [[[i], [i]] for i in range(1, 8)]
    assert len(run.batches) == 1


def test_batches_have_an_end(make: Callable[..., Batcher], run: Run) -> None:
    batcher = make(texts=5, characters=20)
    rows, more = together(batcher.predict(["a"] * 12, 10), batcher.predict(["b" * 9] * 5, 10))
    assert (len(rows), len(more)) == (12, 5)
    assert all(len(batch) <= 5 and sum(map(len, batch)) <= 20 for batch in run.batches)
    assert len(together(batcher.predict(["c" * 30], 10))[0]) == 1  # one alone may have more


def test_a_full_batch_does_not_wait(make: Callable[..., Batcher]) -> None:
    batcher = make(texts=4, wait_s=30)
    start = time.monotonic()
    together(batcher.predict(["a"] * 8, 20))
    assert time.monotonic() - start < 10


def test_short_texts_do_not_wait_for_long_ones(make: Callable[..., Batcher], run: Run) -> None:
    batcher = make(wait_s=0)

    async def both() -> None:
        run.go.clear()
        long = asyncio.create_task(batcher.predict(["l" * LONG], 10))
        while not run.batches:
            await asyncio.sleep(0.01)
        short = asyncio.create_task(batcher.predict(["s"], 10))
        while len(run.batches) < 2:  # it has begun, while the long one is computed
            await asyncio.sleep(0.01)
        run.go.set()
        assert (await long).tolist() == [[LONG]]
        assert (await short).tolist() == [[1]]

    asyncio.run(asyncio.wait_for(both(), 10))


def test_a_queue_that_is_full_refuses(make: Callable[..., Batcher], run: Run) -> None:
    batcher = make(most_waiting=3, wait_s=0)

    async def fill() -> None:
        run.go.clear()
        first = asyncio.create_task(batcher.predict(["a"], 10))
        while not run.batches:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(batcher.predict(["b", "c"], 10))
        await asyncio.sleep(0.01)
        with pytest.raises(RefusedError, match="2 texts wait already") as refused:
            await batcher.predict(["d", "e"], 10)
        assert refused.value.status == 503
        assert batcher.waiting == 2
        third = asyncio.create_task(batcher.predict(["f"], 10))
        await asyncio.sleep(0.01)
        run.go.set()
        await asyncio.gather(first, second, third)

    asyncio.run(fill())
    assert sorted(text for batch in run.batches for text in batch) == ["a", "b", "c", "f"]


def test_what_nobody_waits_for_is_not_computed(make: Callable[..., Batcher], run: Run) -> None:
    batcher = make(wait_s=0)

    async def give_up() -> None:
        run.go.clear()
        first = asyncio.create_task(batcher.predict(["a"], 10))
        while not run.batches:
            await asyncio.sleep(0.01)
        with pytest.raises(RefusedError, match=r"did not come within 0\.05 s"):
            await batcher.predict(["late"], 0.05)
        run.go.set()
        await first
        await batcher.predict(["b"], 10)

    asyncio.run(give_up())
    assert run.batches == [["a"], ["b"]]


def test_an_error_reaches_all_of_its_batch_and_no_other(make: Callable[..., Batcher]) -> None:
    batcher = make()
    one, other = together(batcher.predict(["bad"], 10), batcher.predict(["good"], 10))
    assert (str(one), str(other)) == ("bad", "bad")
    assert together(batcher.predict(["good"], 10))[0].tolist() == [[4]]


def test_closing_computes_what_waits(run: Run) -> None:
    batcher = Batcher(run, Batching(wait_s=30, threads=1), 10)

    async def close_meanwhile() -> Any:
        waiting = asyncio.create_task(batcher.predict(["a", "b"], 10))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(batcher.close)
        return await waiting

    assert asyncio.run(close_meanwhile()).tolist() == [[1], [1]]
