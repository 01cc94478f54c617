"""One LSTM layer on dense batches: ours, ours with weight drop, torch.nn.LSTM; inference and training apart."""

from __future__ import annotations

import pytest
import torch

from benchmarks.conftest import LAYERS, SMOKE, make_layer

STEPS, INPUT, HIDDEN = (5, 24, 16) if SMOKE else (70, 1152, 1152)
FORWARD_FLOP_A_ROW = 2 * 4 * HIDDEN * (INPUT + HIDDEN)


@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_dense(benchmark, record, mode: str, name: str, batch: int) -> None:  # type: ignore[no-untyped-def]
    layer = make_layer(name, INPUT, HIDDEN, torch.float32)
    x = torch.randn(STEPS, batch, INPUT, requires_grad=mode == "training")

    def infer() -> None:
        with torch.inference_mode():
            layer(x)

    def train() -> None:
        layer.zero_grad()
        layer(x)[0].sum().backward()

    layer.train(mode == "training")
    benchmark.pedantic(
        train if mode == "training" else infer, rounds=1 if SMOKE else 5, warmup_rounds=0 if SMOKE else 1
    )
    record(FORWARD_FLOP_A_ROW * STEPS * batch * (3 if mode == "training" else 1), batch=batch, mode=mode)
