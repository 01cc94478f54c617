"""CUDA graphs: what is captured and replayed on a GPU does what it does uncaptured. Skipped where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ops import test_lstm_pool as lstm_pool
from tests.ops.cases import Case, batch_sizes_of
from tests.ops.test_cuda import ON_GPU, SMALL, USABLE, on_device
from ulmfit_fast import WeightDropLSTM, ops

pytestmark = pytest.mark.skipif(not (ON_GPU and USABLE), reason="only a GPU has this")


def assert_replays(step: Callable[[], tuple[Tensor, ...]], x: Tensor) -> None:
    """A step captured once and replayed on another ``x`` does what it does uncaptured."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    for mine, expected in zip(captured, step(), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("seed_on", ["cpu", "cuda"])
@pytest.mark.parametrize("bptt", [0, 5])
def test_lstm(seed_on: str, bptt: int) -> None:
    """A seed on the CPU too: its number goes into the graph."""
    a = on_device(Case("graph", (12, 12, 9), 16, 24, p=0.4).arguments(torch.float32)) | {"bptt": bptt}
    a["seed"] = a["seed"].to(seed_on)
    x = a["input"]

    def step() -> tuple[Tensor, Tensor, Tensor]:
        output, _, _ = ops.lstm(**a)
        return output, *torch.autograd.grad(output.square().sum(), (x, a["weight_hh"]))

    assert_replays(step, x)


@pytest.mark.parametrize("variable", ["ULMFIT_FAST_CUDA_FUSED_STEP", "ULMFIT_FAST_CUDA_PERSISTENT"])
def test_lstm_by_kernels_that_are_off(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags of the persistent kernel are cleared in each replay: it would not wait for what it reads."""
    monkeypatch.setenv(variable, "1")
    a = on_device(Case("graph", (12, 12, 9), 16, 24, p=0.4).arguments(torch.bfloat16))

    def step() -> tuple[Tensor, Tensor, Tensor]:
        output, _, _ = ops.lstm(**a)
        return output, *torch.autograd.grad(output.square().sum(), (a["input"], a["weight_hh"]))

    assert_replays(step, a["input"])


def test_pooling() -> None:
    a = on_device(lstm_pool.pool_arguments(SMALL[0], torch.float32) | {"bptt": 0})

    def step() -> tuple[Tensor, ...]:
        with torch.no_grad():
            result = ops.lstm_pool(**a)
        return result.h_n, result.c_n, *result.state

    assert_replays(step, a["input"])


def test_locked_dropout_of_ragged_rows() -> None:
    lengths = (40, 37, 37, 12, 1)
    x, mask = torch.randn(sum(lengths), 30, device="cuda"), torch.rand(len(lengths), 30, device="cuda")
    assert_replays(lambda: (ops.locked_dropout(x, mask, batch_sizes_of(lengths)),), x)


# As many rows, steps and sequences, in other places: only the lengths differ.
RAGGED = [(6, 6, 3, 3), (6, 5, 4, 3), (6, 4, 4, 4)]


def _step(layer: nn.Module, mask: Tensor, x: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    zeros = x.new_zeros(len(RAGGED[0]), 24)
    weights = [getattr(layer, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    dropped = ops.locked_dropout(x, mask, sizes)
    output, h_n, _ = ops.lstm(dropped.relu() + 1, sizes, zeros, zeros, *weights)
    pool = ops.PooledState.empty(len(RAGGED[0]), 24, torch.float32, x.device)
    pooled = ops.lstm_pool(dropped, sizes, zeros, zeros, *weights, pool)
    return output, h_n, pooled.state.maximum, pooled.state.total


def test_reduce_overhead_follows_the_lengths() -> None:
    """torch.compile captures what it can in CUDA graphs; a replay must not repeat another batch's schedule."""
    layer, mask = WeightDropLSTM(16, 24).cuda(), torch.rand(4, 16, device="cuda")
    compiled = torch.compile(_step, mode="reduce-overhead", fullgraph=True)

    def run(function: Any, x: Tensor, sizes: Tensor) -> list[Tensor]:
        torch.compiler.cudagraph_mark_step_begin()
        layer.zero_grad()
        results = function(layer, mask, x, sizes)
        sum(result.double().square().sum() for result in results).backward()
        return [result.detach().clone() for result in results] + [p.grad.clone() for p in layer.parameters()]

    for lengths in RAGGED * 3:  # to warm up, to capture, to replay
        assert sum(lengths) == sum(RAGGED[0])
        x, sizes = torch.randn(sum(lengths), 16, device="cuda"), batch_sizes_of(lengths)
        for mine, expected in zip(run(compiled, x, sizes), run(_step, x, sizes), strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)
