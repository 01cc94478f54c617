"""One LSTM layer on a packed batch of unequal lengths: ours beside torch.nn.LSTM, and beside ours on a dense batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from benchmarks.conftest import DTYPES, SMOKE
from benchmarks.layers import DROPPED, OURS, TORCH, Case

ROWS, SHORTEST, LONGEST, SIZE = (4, 2, 6, 24) if SMOKE else (32, 50, 200, 1152)


def lengths() -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(SHORTEST, LONGEST + 1, (ROWS,), generator=generator)
    return tuple(sorted(drawn.tolist(), reverse=True))


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed(compare: Callable[..., None], dtype: str, training: bool) -> None:
    case = Case(SIZE, SIZE, lengths=lengths(), dtype=dtype, training=training)
    dense = dataclasses.replace(case, lengths=(sum(case.lengths) // ROWS,) * ROWS)
    others = {TORCH: case, DROPPED: case, f"{OURS}/dense": dense}
    if dtype == "bfloat16" and training:  # what a packed batch costs without us
        others[f"{TORCH}/float32"] = dataclasses.replace(case, dtype="float32")
    compare(case, others, rounds=3)
