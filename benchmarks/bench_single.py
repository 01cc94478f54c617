"""Prediction of single documents and of streams, where reading the weights is the limit; and int8 in bulk.

Three LSTM layers of the paper's sizes (400 - 1152 - 1152 - 400), one row: ours in float32 and int8 beside nn.LSTM,
``torch.ao.quantization.quantize_dynamic`` (int8) and, token by token, torch.nn.LSTMCell; then whole classifiers.
The floor is the time that reading takes: all weights once, and the recurrent ones again for each further step, at the
rate that all threads together read memory of that size.

`python -m benchmarks.bench_single` prints the table, all implementations in turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.conftest import SMOKE, machine_facts
from ulmfit_fast import AWDLSTM, AWDLSTMConfig, TextClassifier, WeightDropLSTM
from ulmfit_fast._C import measure_read_bandwidth
from ulmfit_fast.nn.quantized import quantize
from ulmfit_fast.text.batching import pack_documents

SIZES = (16, 24, 24, 16) if SMOKE else (400, 1152, 1152, 400)
TOKENS = (1, 5) if SMOKE else (1, 5, 20, 100)
STREAMED = 3 if SMOKE else 10  # tokens of a timed piece of a stream
BULK = tuple(range(20, 36)) if SMOKE else tuple(1000 + 200 * i for i in range(16))
OURS, INT8, TORCH, TORCH_INT8, CELL = "ours", "ours, int8", "nn.LSTM", "torch int8", "LSTMCell"
TITLES = ["work", "implementation", "best, ms", "median, ms", "time over ours", "share of floor", "rounds"]
Work = Callable[[], object]


@dataclass
class Row:
    """One piece of work by one implementation; ``bytes_per_weight`` is 0 where the floor says nothing."""

    work: str
    name: str
    run: Work
    steps: int
    bytes_per_weight: int = 0
    seconds: list[float] = field(default_factory=list)


class Cells(nn.Module):
    """nn.LSTMCell for each layer, a token at a time."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.LSTMCell(a, b) for a, b in pairwise(SIZES))
        for cell, layer in zip(self.cells, layers, strict=True):
            cell.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.state_dict().items()})

    def forward(self, x: Tensor, state: list[Any]) -> list[Any]:
        new = []
        for cell, own in zip(self.cells, state, strict=True):
            new.append(cell(x, own))
            x = new[-1][0]
        return new


def stack(kind: type[nn.Module]) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList(kind(a, b) for a, b in pairwise(SIZES)).eval()


def run_stack(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)[0]
    return x


def stream_stack(layers: nn.ModuleList, tokens: Tensor) -> Work:
    """Token by token, each call taking up the state of the one before."""
    state: list[Any] = [None] * len(layers)

    def run() -> None:
        for token in tokens.split(1):
            x = token
            for i, layer in enumerate(layers):
                x, state[i] = layer(x, state[i])

    return run


def stream_cells(cells: Cells, tokens: Tensor) -> Work:
    state: list[Any] = [None] * len(SIZES[1:])

    def run() -> None:
        for token in tokens[:, 0].split(1):
            state[:] = cells(token, state)

    return run


def stream_document(model: TextClassifier) -> Work:
    """A prediction after each token."""
    stream = model.stream()

    def run() -> None:
        for token in range(STREAMED):
            stream.feed([token])
            stream.logits()

    return run


def quantized_by_torch(layers: nn.ModuleList) -> nn.ModuleList:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(layers, {nn.LSTM}, dtype=torch.qint8)


def works() -> Iterator[list[Row]]:
    """Rows of the same work together."""
    ours, theirs = stack(WeightDropLSTM), stack(nn.LSTM)
    theirs.load_state_dict(ours.state_dict())
    layers = {
        OURS: (ours, 4), INT8: (nn.ModuleList(map(quantize, ours)), 1), TORCH: (theirs, 4),
        TORCH_INT8: (quantized_by_torch(theirs), 1),
    }  # fmt: skip
    for tokens in TOKENS:
        x = torch.randn(tokens, 1, SIZES[0])
        yield [
            Row(f"layers, {tokens} tokens", name, lambda each=each, x=x: run_stack(each, x), tokens, size)
            for name, (each, size) in layers.items()
        ]
    x = torch.randn(STREAMED, 1, SIZES[0])
    streams = [Row("layers, a token", name, stream_stack(each, x), 1, size) for name, (each, size) in layers.items()]
    yield [*streams, Row("layers, a token", CELL, stream_cells(Cells(theirs), x), 1, 4)]

    torch.manual_seed(0)
    config = AWDLSTMConfig(1000, SIZES[0], SIZES[1], 3)
    model = TextClassifier(AWDLSTM(config), 2).eval()
    models = {OURS: (model, 4), INT8: (model.quantize(), 1)}
    for tokens in TOKENS:
        document = pack_documents([torch.arange(tokens)])
        yield [
            Row(f"document, {tokens} tokens", name, lambda each=each, d=document: each(d), tokens, size)
            for name, (each, size) in models.items()
        ]
    yield [Row("stream, a token", name, stream_document(each), 1, size) for name, (each, size) in models.items()]
    bulk = pack_documents([torch.randint(0, 1000, (length,)) for length in BULK])
    yield [
        Row(f"bulk, {sum(BULK):,} tokens", name, lambda each=each: each(bulk), 0) for name, (each, _) in models.items()
    ]


def measure(rows: list[Row], seconds: float, clock: Callable[[], float]) -> None:
    """Rows in turn, at least three rounds."""
    with torch.inference_mode():
        for row in rows:
            row.run()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(rows[0].seconds) < 3:
            for row in rows:
                start = clock()
                row.run()
                taken = clock() - start
                row.seconds.append(taken / STREAMED if row.work.endswith("a token") else taken)


class Floor:
    """How long reading weights takes at least, by what memory gave when it was asked."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._rates: dict[int, float] = {}

    def rate(self, size: int) -> float:
        """Bytes a second of memory of so many bytes: the best of a few probes."""
        if size not in self._rates:
            self._rates[size] = max(measure_read_bandwidth(max(size, 1 << 16), self._seconds) for _ in range(3))
        return self._rates[size]

    def seconds(self, row: Row) -> float:
        size = row.bytes_per_weight
        recurrent = [4 * b * b * size for b in SIZES[1:]]
        every = sum(4 * b * a * size for a, b in pairwise(SIZES)) + sum(recurrent)
        return every / self.rate(every) + sum((row.steps - 1) * part / self.rate(part) for part in recurrent)


def cells(row: Row, ours: Row, floor: Floor) -> list[str]:
    share = floor.seconds(row) / min(row.seconds) if row.bytes_per_weight else None
    return [
        row.work, row.name, f"{min(row.seconds) * 1e3:.3g}", f"{statistics.median(row.seconds) * 1e3:.3g}",
        f"{min(row.seconds) / min(ours.seconds):.2f}", "" if share is None else f"{share:.2f}", str(len(row.seconds)),
    ]  # fmt: skip


def table(seconds: float, only: str = "", clock: Callable[[], float] = time.perf_counter) -> Iterator[list[str]]:
    floor = Floor(0.001 if SMOKE else 0.05)
    for rows in works():
        if only not in rows[0].work:
            continue
        measure(rows, seconds, clock)
        for row in rows:
            yield cells(row, rows[0], floor)


def test_single_documents(benchmark: Any) -> None:
    """The report takes the cells; pytest-benchmark's own time is of the whole table."""
    found: list[list[str]] = []
    benchmark.pedantic(lambda: found.extend(table(0.01 if SMOKE else 8.0)))
    benchmark.extra_info.update({"kind": "single documents", "cells": found} | machine_facts())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_single", description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.01 if SMOKE else 8.0, help="for the rows of one work")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="of all threads: for one thread on a busy machine")
    parser.add_argument("--only", default="", help="works whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(", ".join(f"{name} {value}" for name, value in machine_facts().items()) + "\n")
    print("| " + " | ".join(TITLES) + " |\n" + "|---" * len(TITLES) + "|")
    for row in table(options.seconds, options.only, time.process_time if options.cpu_time else time.perf_counter):
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
