"""Times on a GPU, and torch's flags that they depend on. All of it runs on a CPU, too, so that it can be tried."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

ROUNDS, CALLS = 9, 3
Work = Callable[[], object]


@contextlib.contextmanager
def flags(*, strict: bool) -> Iterator[None]:
    """float32 is float32 everywhere (``strict``), or as torch leaves it: cuDNN's float32 is TF32, ten bits of mantissa.

    Half precision products may be summed in half precision as torch leaves it, not with ``strict``.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    before = cudnn.allow_tf32, matmul.allow_tf32, *(getattr(matmul, name) for name in names)
    cudnn.allow_tf32, matmul.allow_tf32 = not strict, False  # torch's defaults: TF32 for cuDNN alone
    for name in names:
        setattr(matmul, name, not strict)
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before[:2]
        for name, value in zip(names, before[2:], strict=True):
            setattr(matmul, name, value)


def milliseconds(work: Work, calls: int = CALLS) -> float:
    """Of one call, on the device's clock."""
    if not torch.cuda.is_available():
        begin = time.perf_counter()
        for _ in range(calls):
            work()
        return 1000 * (time.perf_counter() - begin) / calls
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        work()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / calls


def in_turns(works: dict[str, Work], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Times of each, a call of all before the clock runs, then one after the other in every round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(milliseconds(work))
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in times.items()}


def captured(work: Work) -> Work:
    """The replay of a CUDA graph of ``work``, without the CPU's part; on a CPU the work itself.

    Raises:
        RuntimeError: the work waits for the device or copies from memory that is not pinned.
    """
    if not torch.cuda.is_available():
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def machine() -> dict[str, Any]:
    present = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if present else None, "torch": torch.__version__,
        "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version() if present else None,
    }  # fmt: skip
