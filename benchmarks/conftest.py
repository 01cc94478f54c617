"""What the benchmarks share: sizes, layers under test, and facts of the machine in every row."""

from __future__ import annotations

import os
import platform

import pytest
import torch
from torch import nn

from ulmfit_fast import WeightDropLSTM, ops

SMOKE = os.environ.get("ULMFIT_FAST_BENCH") == "smoke"


def make_layer(name: str, input_size: int, hidden_size: int, dtype: torch.dtype) -> nn.Module:
    """One of the layers that are compared, with the same weights each."""
    torch.manual_seed(0)
    if name == "nn.LSTM":
        return nn.LSTM(input_size, hidden_size, dtype=dtype)
    return WeightDropLSTM(input_size, hidden_size, weight_dropout=0.5 if name == "ours, p=0.5" else 0.0, dtype=dtype)


LAYERS = ["ours", "ours, p=0.5", "nn.LSTM"]


@pytest.fixture
def record(benchmark: object) -> object:
    """Adds GFLOP/s and the facts of the run to a benchmark's row, given its floating-point operations."""

    def add(flop: float, **facts: object) -> None:
        benchmark.extra_info |= {  # type: ignore[attr-defined]
            "torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.processor(),
            "isa": ops.build_info()["isa"], "gflop": flop / 1e9, **facts,
        }  # fmt: skip
        stats = getattr(benchmark, "stats", None)
        if stats is not None:
            benchmark.extra_info["gflop_per_s"] = flop / 1e9 / stats.stats.median  # type: ignore[attr-defined]

    return add
