"""Random shapes, lengths and dtypes through the CUDA code, against the reference in float64, for as long as one likes.

ULMFIT_FAST_SOAK_SECONDS (2; `make gpu` takes 12) for each test. A failure names the seed that repeats it:
ULMFIT_FAST_SOAK_SEED=seed.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest
import torch

from tests.ops import test_linear_cross_entropy as cross_entropy
from tests.ops import test_lstm as lstm
from tests.ops.cases import Case, batch_sizes_of
from tests.ops.test_cuda import CUDA_CODE, USABLE, assert_near, move, on_device
from ulmfit_fast import ops
from ulmfit_fast.ops import reference
from ulmfit_fast.ops.lstm_pool import add_steps

pytestmark = pytest.mark.skipif(not (CUDA_CODE and USABLE), reason="needs the CUDA code: a GPU, or the emulation")
SECONDS = float(os.environ.get("ULMFIT_FAST_SOAK_SECONDS", "2"))
DTYPES = [torch.float64, torch.float32]


def soak(check: Callable[[random.Random], object]) -> None:
    given = os.environ.get("ULMFIT_FAST_SOAK_SEED")
    end, seed = time.monotonic() + SECONDS, int(given or 0)
    while True:
        torch.manual_seed(seed)
        try:
            check(random.Random(seed))
        except Exception as error:
            raise AssertionError(f"ULMFIT_FAST_SOAK_SEED={seed} fails") from error
        if given is not None or time.monotonic() > end:
            return
        seed += 1


def lengths_of(draw: random.Random, most_rows: int, most_steps: int) -> tuple[int, ...]:
    """Dense, of few or of many different lengths."""
    rows, steps = draw.randint(1, most_rows), draw.randint(1, most_steps)
    kinds = draw.choice([1, 2, rows])
    lengths = [draw.randint(1, steps) for _ in range(kinds)]
    return tuple(sorted((draw.choice(lengths) for _ in range(rows)), reverse=True))


def test_lstm() -> None:
    def check(draw: random.Random) -> None:
        reverse = draw.random() < 0.4
        case = Case(
            "soak", lengths_of(draw, 20, 25), draw.randint(1, 40), draw.randint(1, 80), draw.choice([0, 0, 7]),
            draw.random() < 0.8, draw.choice([0.0, 0.4]), reverse,
        )  # fmt: skip
        dtype = draw.choice(DTYPES)
        arguments = case.arguments(dtype) | {"bptt": 0 if reverse else draw.choice([0, 1, 3, 10])}
        expected = lstm.run_with_gradients(reference.lstm, cross_entropy.in_double(arguments))
        assert_near(lstm.run_with_gradients(ops.lstm, on_device(arguments)), expected, dtype)

    soak(check)


def test_fused_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the step in two launches, within rounding: with the same weights dropped, the same rows going on."""

    def check(draw: random.Random) -> None:
        case = Case(
            "soak", lengths_of(draw, draw.choice([3, 20, 60]), 6), draw.randint(1, 40), 8 * draw.randint(1, 12), 0,
            draw.random() < 0.8, draw.choice([0.0, 0.4]), draw.random() < 0.4,
        )  # fmt: skip
        arguments = case.arguments(draw.choice([torch.bfloat16, torch.float16]))
        arguments["bptt"] = 0 if case.reverse else draw.choice([0, 1, 3])
        results = []
        for fused in "10":
            monkeypatch.setenv("ULMFIT_FAST_CUDA_FUSED_STEP", fused)
            results.append(lstm.run_with_gradients(ops.lstm, on_device(arguments)))
        for name, expected in results[1].items():
            difference = (results[0][name] - expected).double().abs().max()
            assert difference <= 3e-2 * (1 + expected.double().abs().max()), name

    soak(check)


def test_linear_cross_entropy() -> None:
    def check(draw: random.Random) -> None:
        dtype = draw.choice(DTYPES)
        case = cross_entropy.Case("soak", draw.randint(1, 40), draw.randint(1, 30), draw.randint(1, 3000))
        arguments = case.arguments(dtype)
        expected = cross_entropy.run_with_gradients(reference.linear_cross_entropy, cross_entropy.in_double(arguments))
        actual = cross_entropy.run_with_gradients(ops.linear_cross_entropy, on_device(arguments))
        assert_near(actual, expected, dtype)

    soak(check)


def test_packed_rows() -> None:
    def check(draw: random.Random) -> None:
        lengths, width = lengths_of(draw, 300, 200), draw.randint(1, 90)
        sizes = batch_sizes_of(lengths)
        x, mask = torch.randn(sum(lengths), width), torch.rand(len(lengths) + 1, width)
        expected = reference.locked_dropout(x, mask, sizes)
        assert torch.equal(ops.locked_dropout(move(x), move(mask), sizes).cpu(), expected)
        count = torch.randint(0, 9, (len(lengths) + 2,))
        steps = torch.tensor([*lengths, 0, 0])
        assert torch.equal(add_steps(move(count), sizes).cpu(), count + steps)

    soak(check)
