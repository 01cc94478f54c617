"""The QRNN: its recurrence beside torch's loop and fastai's, its layer and models beside the LSTM's.

`python -m benchmarks.bench_qrnn` prints a table, each row's alternatives one after the other in turn. The recurrence's
share is of the bandwidth at which this machine reads memory, probed in the same rounds; the products' share is of its
multiply-adds. fastai 1's own function takes part where ULMFIT_FAST_FASTAI1 names the folder of an unpacked wheel; what
it computes, and in which steps, is written here, too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.conftest import PROBE_SECONDS, SMOKE, machine_facts
from ulmfit_fast import AWDLSTM, QRNN, AWDLSTMConfig, LanguageModel, QRNNConfig, QRNNLayer, WeightDropLSTM, ops
from ulmfit_fast._C import measure_fma_peak, measure_read_bandwidth
from ulmfit_fast.nn.language_model import language_model_loss

Run = Callable[[], Any]
MODES = {False: "forward", True: "forward and backward"}
TITLES = ["what", "mode", "ours, ms", "tokens/s", "share", "beside", "its ms", "ratio", "range"]


@dataclass(frozen=True)
class Row:
    """Seconds of ours and of what stands beside it, in turn; what ours must move or compute."""

    what: str
    mode: str
    tokens: int
    ours: Run
    others: dict[str, Run]
    gigabytes: float = 0
    gflop: float = 0

    def measure(self, rounds: int) -> Iterator[list[str]]:
        own: list[float] = []
        limit: list[float] = []
        seconds: dict[str, list[float]] = {name: [] for name in self.others}
        for run in (self.ours, *self.others.values()):
            run()
        for _ in range(rounds):
            if self.gigabytes:
                limit.append(measure_read_bandwidth(1 << 24 if SMOKE else 1 << 28, PROBE_SECONDS) / 1e9)
            else:
                limit.append(measure_fma_peak("float32", PROBE_SECONDS) / 1e9)
            own.append(timed(self.ours))
            for name, run in self.others.items():
                seconds[name].append(timed(run))
        middle = statistics.median(own)
        share = (self.gigabytes or self.gflop) / middle / statistics.median(limit)
        for name, times in seconds.items():
            ratios = sorted(theirs / mine for theirs, mine in zip(times, own, strict=True))
            yield [
                self.what, self.mode, f"{middle * 1e3:.1f}", f"{self.tokens / middle:,.0f}", f"{share:.2f}", name,
                f"{statistics.median(times) * 1e3:.1f}", f"{statistics.median(ratios):.2f}",
                f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
            ]  # fmt: skip


def timed(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def torch_loop(gates: Tensor, c: Tensor) -> Tensor:
    """What one writes in torch: gates [T, B, 3H]."""
    z, f, o = gates.chunk(3, 2)
    z, f = z.tanh(), f.sigmoid()
    states = []
    for new, share in zip(z, f, strict=True):
        c = torch.lerp(c, new, share)
        states.append(c)
    return o.sigmoid() * torch.stack(states)


def fastai_loop(x: Tensor, f: Tensor, first: Tensor | None, batch_first: bool) -> Tensor:
    """The steps of fastai 1's ``forget_mult_CPU``."""
    h, states = first.unsqueeze(0), []  # type: ignore[union-attr]
    for new, share in zip(x.split(1), f.split(1), strict=True):
        h = new * share + (1 - share) * h
        states.append(h)
    return torch.cat(states)


def fastai_way(gates: Tensor, c: Tensor, scan: Callable[..., Tensor]) -> Tensor:
    z, f, o = gates.chunk(3, 2)
    return o.sigmoid() * scan(z.tanh().contiguous(), f.sigmoid().contiguous(), c, False)


def fastai_scan() -> tuple[str, Callable[..., Tensor]]:
    if "ULMFIT_FAST_FASTAI1" not in os.environ:
        return "fastai 1's way", fastai_loop
    from tests import fastai_1

    return "fastai 1.0.61", fastai_1.models().forget_mult_CPU


def step(model: Callable[[], Tensor], parameters: list[Tensor], training: bool) -> Run:
    def run() -> None:
        with torch.set_grad_enabled(training):
            output = model()
        if training:
            torch.autograd.grad(output.sum(), parameters)

    return run


def recurrence(steps: int, batch: int, hidden: int, training: bool) -> Row:
    gates, c = torch.randn(steps, batch, 3 * hidden, requires_grad=training), torch.zeros(batch, hidden)
    sizes, rows = torch.full((steps,), batch), gates.detach().view(-1, 3 * hidden).requires_grad_(training)
    name, scan = fastai_scan()
    others = {
        "torch's loop": step(lambda: torch_loop(gates, c), [gates], training),
        name: step(lambda: fastai_way(gates, c, scan), [gates], training),
    }
    ours = step(lambda: ops.forget_mult(rows, sizes, c).output, [rows], training)
    # Forward 3 read and 1 written; training 1 more of cells, then 3 gates, 2 cells and 1 gradient read, 3 written.
    units = steps * batch * hidden * (3 + 1 + (1 + 3 + 2 + 1 + 3 if training else 0))
    return Row(
        f"recurrence, {hidden} units, {steps} x {batch}", MODES[training], steps * batch, ours, others, units * 4 / 1e9
    )


def layer(inputs: int, hidden: int, window: int, steps: int, batch: int, training: bool) -> Row:
    x = torch.randn(steps, batch, inputs, requires_grad=training)
    ours, lstm, theirs = QRNNLayer(inputs, hidden, window), WeightDropLSTM(inputs, hidden), nn.LSTM(inputs, hidden)
    others = {
        name: step(lambda m=m: m(x)[0], [x, *m.parameters()], training)  # type: ignore[misc]
        for name, m in (("our LSTM", lstm), ("nn.LSTM", theirs))
    }
    gflop = 2 * 3 * hidden * window * inputs * steps * batch * (3 if training else 1) / 1e9
    run = step(lambda: ours(x)[0], [x, *ours.parameters()], training)
    what = f"layer {inputs} → {hidden}, window {window}, {steps} x {batch}"
    return Row(what, MODES[training], steps * batch, run, others, gflop=gflop)


def language_model(steps: int, batch: int, vocabulary: int, small: bool) -> Row:
    sizes = (24, 40) if small else (400, 1550)
    qrnn = LanguageModel(QRNN(QRNNConfig(vocabulary, *sizes, 4))).train()
    lstm = LanguageModel(AWDLSTM(AWDLSTMConfig(vocabulary, sizes[0], 40 if small else 1152, 3))).train()
    tokens = torch.randint(vocabulary, (steps + 1, batch))

    def of(model: LanguageModel) -> Run:
        def run() -> None:
            model.zero_grad()
            _, loss = language_model_loss(model, model(tokens[:-1]), tokens[1:], 2.0, 1.0)
            loss.backward()

        return run

    weights = sum(p.numel() for name, p in qrnn.named_parameters() if "bias" not in name)
    what = f"language model, QRNN {sizes[0]}/{sizes[1]}/4, {steps} x {batch}"
    gflop = 6 * weights * steps * batch / 1e9
    return Row(what, MODES[True], steps * batch, of(qrnn), {"AWD-LSTM 400/1152/3": of(lstm)}, gflop=gflop)


def rows(smoke: bool) -> Iterator[Row]:
    sizes = [(5, 2, 24)] if smoke else [(70, 64, 1550), (70, 8, 1550), (2000, 1, 1550)]
    for training in (False, True):
        for steps, batch, hidden in sizes:
            yield recurrence(steps, batch, hidden, training)
        for inputs, window, batch in [(24, 2, 2)] if smoke else [(400, 2, 16), (1550, 1, 16), (1550, 1, 1)]:
            yield layer(inputs, 24 if smoke else 1550, window, 5 if smoke else 70, batch, training)
    yield language_model(5 if smoke else 70, 2 if smoke else 8, 50 if smoke else 15_000, smoke)


def test_qrnn(benchmark: Any) -> None:
    """The report takes the cells; pytest-benchmark's own time is of the whole table."""
    cells: list[list[str]] = []
    rounds = 1 if SMOKE else 5
    benchmark.pedantic(lambda: cells.extend(c for row in rows(SMOKE) for c in row.measure(rounds)))
    benchmark.extra_info.update({"kind": "qrnn", "cells": cells} | machine_facts())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_qrnn", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1 if SMOKE else 5)
    parser.add_argument("--only", default="", help="rows whose first two cells contain this")
    options = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in machine_facts().items()) + "\n")
    print("| " + " | ".join(TITLES) + " |\n" + "|---" * len(TITLES) + "|")
    for row in rows(SMOKE):
        if options.only not in f"{row.what} {row.mode}":
            continue
        for cells in row.measure(options.rounds):
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
