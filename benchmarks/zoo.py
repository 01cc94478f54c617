"""Whole models of nine kinds with nn.LSTM and after ``replace_lstm``: `python -m benchmarks.zoo [--smoke]`.

Outputs and gradients of both are compared first. Then they are timed in interleaved pairs; the table is Markdown.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from benchmarks.zoo_models import Kind, kinds
from ulmfit_fast import ops, replace_lstm
from ulmfit_fast._C import measure_fma_peak

# Norm of a tensor's difference over the tensor's norm. In float32 both sum in an order of their own, and where a ReLU's
# input is within rounding of zero single elements of a gradient jump: tests/test_zoo.py compares elements, in float64.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Row:
    """What was measured of a model in one mode."""

    kind: Kind
    training: bool
    torch_ms: float
    ours_ms: float
    ratios: list[float]  # nn.LSTM's time over ours in each round, sorted
    share_of_peak: float  # the LSTMs' matrix products over what the machine does in the time of the whole model
    error: float  # largest of the output and all gradients, as TOLERANCE


def pair(kind: Kind, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module, tuple[Any, ...]]:
    """The model with nn.LSTM, the same with ours, and what both read."""
    torch.manual_seed(0)
    plain = kind.make().to(dtype)
    inputs = tuple(x.to(dtype) if x.is_floating_point() else x for x in kind.draw())
    return plain, replace_lstm(copy.deepcopy(plain)), inputs


def results(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Output and all gradients, in eval mode: dropout draws other numbers in either."""
    model.eval()
    output = model(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    gradients = torch.autograd.grad((output * weights).sum(), list(model.parameters()))
    return {"output": output.detach()} | dict(zip(dict(model.named_parameters()), gradients, strict=True))


def compare(plain: nn.Module, ours: nn.Module, inputs: tuple[Any, ...]) -> float:
    """The largest error of ours. Raises AssertionError above ``TOLERANCE``."""
    expected, actual = results(plain, inputs), results(ours, inputs)
    assert list(actual) == list(expected), "replace_lstm keeps the parameters' names and order"
    worst = 0.0
    for name, value in expected.items():
        error = float((actual[name] - value).norm() / value.norm().clamp(min=1e-30))
        assert error <= TOLERANCE, f"{name}: relative error {error:.1e}"
        worst = max(worst, error)
    return worst


def lstm_gflop(model: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Matrix products of all nn.LSTM of a forward pass."""
    total = 0

    def count(lstm: Any, arguments: tuple[Any, ...], _: Any) -> None:
        nonlocal total
        x = arguments[0].data if isinstance(arguments[0], PackedSequence) else arguments[0].flatten(0, 1)
        total += 2 * len(x) * sum(p.numel() for name, p in lstm.named_parameters() if name.startswith("weight"))

    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.LSTM)]
    with torch.no_grad():
        model(*inputs)
    for handle in handles:
        handle.remove()
    return total / 1e9


def step(model: nn.Module, inputs: tuple[Any, ...], training: bool) -> float:
    """Seconds of one forward pass, or of forward and backward."""
    start = time.perf_counter()
    if training:
        model.zero_grad()
        model(*inputs).square().mean().backward()
    else:
        with torch.no_grad():
            model(*inputs)
    return time.perf_counter() - start


def measure(kind: Kind, rounds: int, probe_seconds: float) -> list[Row]:
    """Inference and training of one kind."""
    plain, ours, inputs = pair(kind)
    error, gflop = compare(plain, ours, inputs), lstm_gflop(plain, inputs)
    rows = []
    for training in (False, True):
        models = [plain.train(training), ours.train(training)]
        for model in models:  # warm
            step(model, inputs, training)
        seconds: list[list[float]] = [[], []]
        peaks = []
        for number in range(rounds):
            peaks.append(measure_fma_peak("float32", probe_seconds) / 1e9)
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                seconds[which].append(step(models[which], inputs, training))
        theirs, own = (statistics.median(times) for times in seconds)
        share = gflop * (3 if training else 1) / own / statistics.median(peaks)
        ratios = sorted(a / b for a, b in zip(*seconds, strict=True))
        rows.append(Row(kind, training, 1e3 * theirs, 1e3 * own, ratios, share, error))
    return rows


HEADS = ["model", "LSTM", "mode", "nn.LSTM, ms", "ours, ms", "ratio", "(range)", "of peak", "error"]


def head() -> str:
    """Heading, what the columns mean, and the table's first lines."""
    return "\n".join([
        "## Whole models after replace_lstm", "",
        f"float32, {torch.get_num_threads()} threads, {platform.machine()}, kernels {ops.build_info()['isa']}, torch "
        f"{torch.__version__}.",
        "Milliseconds of the whole model, medians of interleaved rounds; `ratio`: time with nn.LSTM over time with",
        "ours, median over rounds; `of peak`: the LSTMs' matrix products alone over what a loop of multiply-adds does",
        "in the time of the whole model; `error`: norm of the difference over the norm, the largest of the output and",
        f"all gradients ({TOLERANCE:.0e} allowed).", "",
        line(HEADS), line(["---"] * len(HEADS)),
    ])  # fmt: skip


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def cells_of(row: Row) -> list[str]:
    mode, ratio = "training" if row.training else "inference", statistics.median(row.ratios)
    return [
        row.kind.name, row.kind.sizes, mode, f"{row.torch_ms:.1f}", f"{row.ours_ms:.1f}", f"{ratio:.2f}",
        f"{row.ratios[0]:.2f} to {row.ratios[-1]:.2f}", f"{row.share_of_peak:.2f}", f"{row.error:.0e}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round: that it still runs")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rounds, probe_seconds = (1, 0.001) if options.smoke else (options.rounds, 0.02)
    print(head())
    slower = []
    for kind in kinds(options.smoke):
        for row in measure(kind, rounds, probe_seconds):
            print(line(cells_of(row)), flush=True)
            slower.append(statistics.median(row.ratios) < 1)
    print(f"\nWith nn.LSTM faster: {sum(slower)} of {len(slower)}.")


if __name__ == "__main__":
    main()
