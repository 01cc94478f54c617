"""Whole steps of the full-size classifier: ours beside fastai 2.8.12, and one long document beside checkpointing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.classifiers import DocumentGradient, Sizes, Task, fastai, ours
from benchmarks.conftest import DTYPES, PROBE_SECONDS, SMOKE, machine_facts
from ulmfit_fast._C import measure_fma_peak

SIZES = Sizes(50, 8, 12, 6) if SMOKE else Sizes()
TASKS = [
    Task("training", 32, 100, 720, training=True),
    Task("training", 32, 360, 1440, training=True),
    Task("inference", 16, 1000, 4000, training=False),
]
if SMOKE:
    TASKS = [Task(task.name, 3, 5, 14, task.training) for task in TASKS]


def measure(
    benchmark: Any, runs: dict[str, Callable[[], object]], first: str, rounds: int, warm: bool = True
) -> dict[str, Any]:
    """Rounds of every implementation one after the other; medians of seconds and the limits of the same rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    peaks: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}

    def others() -> None:
        for dtype in DTYPES:
            peaks[dtype].append(measure_fma_peak(dtype, PROBE_SECONDS) / 1e9)
        for name, run in runs.items():
            if name != first:
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)

    if warm and not SMOKE:
        for run in runs.values():
            run()
    benchmark.pedantic(runs[first], setup=others, rounds=1 if SMOKE else rounds)
    stats = getattr(benchmark, "stats", None)
    seconds[first] = list(stats.stats.data) if stats is not None else [1.0] * len(peaks["float32"])
    return {
        "seconds": seconds,
        "peaks": {dtype: statistics.median(values) for dtype, values in peaks.items()},
    }


@pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.name}-{t.documents}x{t.shortest}..{t.longest}")
def test_classifier(benchmark: Any, task: Task) -> None:
    pytest.importorskip("fastai", reason="pip install --no-deps -r requirements-fastai.txt")
    runs: dict[str, Callable[[], object]] = {}
    for dtype in DTYPES:
        runs[f"ours, {dtype}"] = ours(task, SIZES, dtype == "bfloat16")
        runs[f"fastai, {dtype}"] = fastai(task, SIZES, dtype == "bfloat16")
    figures = measure(benchmark, runs, "ours, float32", 3)
    name = f"{task.name}, {task.documents} documents of {task.shortest:,} to {task.longest:,} tokens"
    benchmark.extra_info.update(
        {"kind": "classifier", "task": name, "tokens": task.tokens, "gflop": task.gflop(SIZES)} | figures
        | machine_facts()
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_long_document(benchmark: Any, dtype: str) -> None:
    """The gradient that stays inside chunks; nn.LSTM's every chunk runs twice forward, once backward."""
    tokens = 40 if SMOKE else 50_000
    document = DocumentGradient(tokens, SIZES, dtype == "bfloat16")
    if SMOKE:
        for mine, theirs in zip(document.ours(), document.checkpointed(), strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5 if dtype == "float32" else 0.5, rtol=1e-4)
    runs = {f"ours, {dtype}": document.ours, f"nn.LSTM under checkpoint, {dtype}": document.checkpointed}
    figures = measure(benchmark, runs, f"ours, {dtype}", 1, warm=False)
    gflop = Task("", 1, tokens, tokens, training=True).gflop(SIZES)
    benchmark.extra_info.update(
        {"kind": "classifier", "task": f"gradient of one document of {tokens:,} tokens", "tokens": tokens,
         "gflop": gflop} | figures | machine_facts()
    )  # fmt: skip
