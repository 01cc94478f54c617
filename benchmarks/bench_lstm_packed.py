"""One LSTM layer on a packed batch of unequal lengths: ours, ours with weight drop, torch.nn.LSTM."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.conftest import LAYERS, SMOKE, make_layer

ROWS, SHORTEST, LONGEST, INPUT, HIDDEN = (4, 2, 6, 24, 16) if SMOKE else (32, 50, 200, 1152, 1152)
FORWARD_FLOP_A_ROW = 2 * 4 * HIDDEN * (INPUT + HIDDEN)


def make_packed() -> PackedSequence:
    torch.manual_seed(0)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (ROWS,)).sort(descending=True)[0]
    return pack_padded_sequence(torch.randn(int(lengths[0]), ROWS, INPUT), lengths)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_packed(benchmark, record, mode: str, name: str) -> None:  # type: ignore[no-untyped-def]
    layer = make_layer(name, INPUT, HIDDEN, torch.float32)
    packed = make_packed()

    def infer() -> None:
        with torch.inference_mode():
            layer(packed)

    def train() -> None:
        layer.zero_grad()
        layer(packed)[0].data.sum().backward()

    layer.train(mode == "training")
    benchmark.pedantic(
        train if mode == "training" else infer, rounds=1 if SMOKE else 3, warmup_rounds=0 if SMOKE else 1
    )
    record(FORWARD_FLOP_A_ROW * len(packed.data) * (3 if mode == "training" else 1), rows=ROWS, mode=mode)
