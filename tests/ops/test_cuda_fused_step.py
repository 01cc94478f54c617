"""LSTM steps in one launch each (ULMFIT_FAST_CUDA_FUSED_STEP=1), against the reference; and when they are not used.

Where there is no GPU by the emulation alone (`make cuda-on-host`), which also counts launches and plants faults.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ops import test_linear_cross_entropy as cross_entropy
from tests.ops import test_lstm as lstm
from tests.ops.cases import Case
from tests.ops.one_launch import assert_lstm, assert_lstm_pool, assert_same_as_step_by_step, each_dtype
from tests.ops.test_cuda import CUDA_CODE, USABLE, assert_near, on_device
from tests.ops.test_cuda_launches import DENSE, LIBRARY, RAGGED, STEPS, counted, counts, lstm_calls
from ulmfit_fast import ops
from ulmfit_fast.ops import reference

pytestmark = pytest.mark.skipif(not (CUDA_CODE and USABLE), reason="needs the CUDA code: a GPU, or the emulation")
emulated = pytest.mark.skipif(LIBRARY is None, reason="counts and plants in what ULMFIT_FAST_CUDA_ON_HOST emulates")
VARIABLE = "ULMFIT_FAST_CUDA_FUSED_STEP"
CASES = [
    Case("fused, dense", (4, 4, 4), 5, 16),
    Case("fused, ragged, weight drop", (7, 5, 5, 2, 1), 5, 24, p=0.3),
    Case("fused, reverse, weight drop", (6, 4, 1), 5, 40, p=0.5, reverse=True),
    Case("fused, one row, no bias", (5,), 3, 8, bias=False),
    Case("fused, one step", (1, 1, 1), 3, 72),
    Case("fused, many rows", tuple(sorted((1 + 5 * i % 4 for i in range(37)), reverse=True)), 20, 24),
]
NOT_FUSED = [
    Case("projection", (3, 2), 5, 16, projection=8),
    Case("units that are no multiple of eight", (3, 2), 5, 12),
    Case("too many rows", (2,) * 129, 5, 8),
]


@pytest.fixture(autouse=True)
def _wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")
    ops.lstm(**on_device(CASES[0].arguments(torch.bfloat16)))  # the check


def used(case: Case, dtype: torch.dtype) -> tuple[int, int]:
    """Launches and products of forward."""
    arguments = on_device(case.arguments(dtype, requires_grad=False))
    before = counts()
    ops.lstm(**arguments)
    after = counts()
    return after[0] - before[0], after[1] - before[1]


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lstm(case: Case, dtype: torch.dtype) -> None:
    assert_lstm(case, dtype)


@each_dtype
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", [c for c in CASES if not c.reverse], ids=str)
def test_lstm_pool(case: Case, training: bool, dtype: torch.dtype) -> None:
    assert_lstm_pool(case, training, dtype)


@each_dtype
def test_the_same_as_step_by_step(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_as_step_by_step(dtype, VARIABLE, monkeypatch)


def test_rows_that_are_not_aligned() -> None:
    """A weight that begins at a multiple of two bytes alone."""
    arguments = on_device(CASES[1].arguments(torch.bfloat16, requires_grad=False))
    weight = arguments["weight_hh"]
    arguments["weight_hh"] = torch.cat([weight.new_zeros(1), weight.flatten()])[1:].view(weight.shape)
    assert arguments["weight_hh"].is_contiguous()
    expected = reference.lstm(**cross_entropy.in_double(arguments))
    assert_near({"output": ops.lstm(**arguments)[0]}, {"output": expected[0]}, torch.bfloat16)


@emulated
@each_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_is_one_launch(case: Case, dtype: torch.dtype) -> None:
    """One more for the mask's bits; the only product is that of the inputs."""
    assert used(case, dtype) == (max(case.lengths) + (case.p > 0), 1)


@emulated
@each_dtype
@pytest.mark.parametrize(("lengths", "bptt"), [(DENSE, 0), (RAGGED, 0), (DENSE, 5)], ids=["dense", "ragged", "chunks"])
def test_backward_is_two_launches_a_step(lengths: tuple[int, ...], bptt: int, dtype: torch.dtype) -> None:
    """The first step has no product. Beside them: the mask's bits, W_hh for h0's gradient, the mask on W_hh's gradient,
    the rows before of a ragged batch. Products: four or five, for all steps at once."""
    launches, products, _ = counted(lstm_calls(lengths, bptt, 16, dtype)[1])
    steps, ragged = bptt or STEPS, lengths == RAGGED
    assert launches == 2 * steps - 1 + 3 + ragged
    assert products == 5 - ragged


@each_dtype
def test_chunks(dtype: torch.dtype) -> None:
    arguments = Case("fused, chunks", (5, 5, 3), 5, 24, p=0.3).arguments(dtype) | {"bptt": 2}
    expected = lstm.run_with_gradients(reference.lstm, cross_entropy.in_double(arguments))
    assert_near(lstm.run_with_gradients(ops.lstm, on_device(arguments)), expected, dtype)


@emulated
@pytest.mark.parametrize("case", NOT_FUSED, ids=str)
def test_what_does_not_fit_is_not_fused(case: Case) -> None:
    assert used(case, torch.bfloat16)[1] > max(case.lengths)


@emulated
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_other_types_are_not_fused(dtype: torch.dtype) -> None:
    assert used(CASES[0], dtype)[1] == 5


@emulated
@pytest.mark.parametrize("value", [None, "0", "", "yes"])
def test_it_is_off(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value) if value is not None else monkeypatch.delenv(VARIABLE)
    assert used(CASES[0], torch.bfloat16)[1] == 5


SCRIPT = """
import ctypes, sys, torch
from tests.ops import test_cuda_fused_step as fused
import ulmfit_fast.ops
torch.ops.load_library(fused.LIBRARY)
library = ctypes.CDLL(fused.LIBRARY)
library.cuda_on_host_set_fault(int(sys.argv[1]))
fused.used(fused.CASES[0], torch.bfloat16)
first = fused.used(fused.CASES[0], torch.bfloat16)
library.cuda_on_host_set_fault(0)
fused.used(fused.CASES[0], torch.bfloat16)
print(first[1], fused.used(fused.CASES[0], torch.bfloat16)[1])
"""


@emulated
@pytest.mark.parametrize(
    ("fault", "message", "products"),
    [
        (1, "2 x 1 tiles differ by", "5 5"),
        (2, "2 x 1 tiles did not end within a time limit", "5 5"),
        (3, "", "5 1"),  # a graph is being captured: later calls check
    ],
    ids=["wrong products", "never ends", "capture"],
)
def test_a_device_that_fails_its_check_is_not_trusted(fault: int, message: str, products: str) -> None:
    root = Path(__file__).parents[2]
    environment: dict[str, Any] = os.environ | {VARIABLE: "1", "PYTHONPATH": str(root)}
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(fault)], cwd=root, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert finished.stdout.strip() == products
    assert finished.stderr.count("failed its check") == (message != "")
    assert message in finished.stderr
