"""Small calls of one LSTM layer, where what a call costs besides its products decides: ours beside torch.nn.LSTM.

`python -m benchmarks.bench_lstm_small` prints the ratios as a table, call by call in turn; rows below 0.98 are marked.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch

from benchmarks.conftest import SMOKE, machine_facts
from benchmarks.layers import OURS, TORCH, Case, Workload, make_layer

HIDDEN = [16] if SMOKE else [16, 32, 64, 128]
BATCHES = [1] if SMOKE else [1, 8]
STEPS = [1] if SMOKE else [1, 10, 1000]
# Of projects that use nn.LSTM: a policy's step and its training (PPO), knowledge tracing, a forecast.
OTHERS = [] if SMOKE else [(64, 64, 1, 32), (248, 200, 50, 16), (8, 32, 1000, 1)]
BEHIND = 0.98
TITLES = ["threads", "mode", "layer", "T", "B", f"{TORCH}, µs", "ours, µs", "ratio", "of least", "pairs", ""]


@dataclass(frozen=True)
class Row:
    """Times of one case in microseconds, call by call in turn."""

    threads: int
    case: Case
    ours: list[float]
    torch: list[float]

    @property
    def ratio(self) -> float:
        """How many times as fast as nn.LSTM: the median over pairs of calls."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.ours, self.torch, strict=True))

    @property
    def ratio_of_least(self) -> float:
        return min(self.torch) / min(self.ours)


def cases() -> Iterator[tuple[int, Case]]:
    sizes = [(hidden, hidden, steps, batch) for hidden, steps, batch in product(HIDDEN, STEPS, BATCHES)] + OTHERS
    for threads, training, (input_size, hidden, steps, batch) in product([2, 1], [False, True], sizes):
        yield threads, Case(input_size, hidden, lengths=(steps,) * batch, training=training)


def measure(threads: int, case: Case, seconds: float, clock: Callable[[], float]) -> Row:
    torch.set_num_threads(threads)
    layers, workload = [make_layer(name, case) for name in (OURS, TORCH)], Workload(case)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(3):  # warm
        for layer in layers:
            workload.run(layer)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 4:
        for i in (0, 1) if len(times[0]) % 2 else (1, 0):
            start = clock()
            workload.run(layers[i])
            times[i].append((clock() - start) * 1e6)
    return Row(threads, case, *times)


@pytest.mark.parametrize("threads", [2, 1])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_small_calls(benchmark: Any, threads: int, training: bool) -> None:
    """The report takes the cells; pytest-benchmark's own time is of the whole table."""
    before = torch.get_num_threads()
    chosen = [case for count, case in cases() if count == threads and case.training == training]
    rows: list[Row] = []
    seconds = 0.01 if SMOKE else 1.0
    try:
        benchmark.pedantic(lambda: rows.extend(measure(threads, case, seconds, time.perf_counter) for case in chosen))
    finally:
        torch.set_num_threads(before)
    benchmark.extra_info.update({"kind": "small calls", "cells": [cells(row) for row in rows]} | machine_facts())


def cells(row: Row) -> list[str]:
    case = row.case
    return [
        str(row.threads), "training" if case.training else "inference", f"{case.input_size} → {case.hidden_size}",
        str(case.lengths[0]), str(len(case.lengths)), f"{statistics.median(row.torch):.0f}",
        f"{statistics.median(row.ours):.0f}", f"{row.ratio:.2f}", f"{row.ratio_of_least:.2f}", str(len(row.ours)),
        "behind" if row.ratio < BEHIND else "",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_lstm_small", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.01 if SMOKE else 1.0, help="for each row")
    parser.add_argument("--cpu-time", action="store_true", help="of all threads: for one thread on a busy machine")
    parser.add_argument("--only", default="", help="rows whose first five cells, joined by spaces, contain this")
    options = parser.parse_args()
    print("| " + " | ".join(TITLES) + " |\n" + "|---" * len(TITLES) + "|")
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = []
    for threads, case in cases():
        if options.only not in " ".join(cells(Row(threads, case, [1.0], [1.0]))[:5]):
            continue
        rows.append(measure(threads, case, options.seconds, clock))
        print("| " + " | ".join(cells(rows[-1])) + " |", flush=True)
    behind = sum(row.ratio < BEHIND for row in rows)
    print(f"\nBelow {BEHIND} of nn.LSTM's speed: {behind} of {len(rows)}.")


if __name__ == "__main__":
    main()
