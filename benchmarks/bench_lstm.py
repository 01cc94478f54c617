"""One LSTM layer on dense batches of 70 steps: ours beside torch.nn.LSTM, the reference and weight drop."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.conftest import DTYPES, SMOKE
from benchmarks.layers import DROPPED, REFERENCE, TORCH, Case

STEPS = 5 if SMOKE else 70
BATCHES = [1, 3] if SMOKE else [1, 8, 16, 32, 64]
# The first is measured against everything, the others against nn.LSTM alone.
SHAPES = [(24, 16), (16, 24)] if SMOKE else [(1152, 1152), (400, 1152), (1152, 400), (650, 650), (1024, 1024)]


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}-{shape[1]}")
def test_dense(compare: Callable[..., None], shape: tuple[int, int], dtype: str, training: bool, batch: int) -> None:
    case = Case(*shape, lengths=(STEPS,) * batch, dtype=dtype, training=training)
    names = [TORCH, REFERENCE, DROPPED] if shape == SHAPES[0] else [TORCH]
    compare(case, dict.fromkeys(names, case), rounds=7 if batch < 32 else 5)
