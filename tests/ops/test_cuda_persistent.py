"""LSTM layers whose forward is one launch (ULMFIT_FAST_CUDA_PERSISTENT=1), against the reference; and when it is not.

Where there is no GPU by the emulation alone (`make cuda-on-host`): its blocks are threads that wait for each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ops import test_linear_cross_entropy as cross_entropy
from tests.ops.cases import Case
from tests.ops.one_launch import assert_lstm, assert_lstm_pool, assert_same_as_step_by_step, each_dtype
from tests.ops.test_cuda import CUDA_CODE, USABLE, assert_near, on_device
from tests.ops.test_cuda_fused_step import used
from tests.ops.test_cuda_launches import LIBRARY
from ulmfit_fast import ops
from ulmfit_fast.ops import reference

pytestmark = pytest.mark.skipif(not (CUDA_CODE and USABLE), reason="needs the CUDA code: a GPU, or the emulation")
emulated = pytest.mark.skipif(LIBRARY is None, reason="counts and plants in what ULMFIT_FAST_CUDA_ON_HOST emulates")
VARIABLE = "ULMFIT_FAST_CUDA_PERSISTENT"
# For the four processors of the emulation.
CASES = [
    Case("persistent, dense", (4, 4, 4), 5, 16),
    Case("persistent, ragged, weight drop", (7, 5, 5, 2, 1), 5, 24, p=0.3),
    Case("persistent, reverse, weight drop", (6, 4, 1), 5, 40, p=0.5, reverse=True),
    Case("persistent, one row, no bias", (5,), 3, 8, bias=False),
    Case("persistent, one step", (1, 1, 1), 3, 72),
    Case("persistent, many rows", tuple(sorted((1 + 5 * i % 4 for i in range(37)), reverse=True)), 20, 24),
    Case("persistent, groups of rows, reverse", tuple(sorted((1 + 5 * i % 4 for i in range(70)), reverse=True)), 4, 16,
         reverse=True),
]  # fmt: skip
STEP_BY_STEP = [
    Case("projection", (3, 2), 5, 16, projection=8),
    Case("units that are no multiple of eight", (3, 2), 5, 12),
    Case("too many rows", (2,) * 129, 5, 8),
    Case("too many units for four processors", (3, 2), 5, 88),
]


@pytest.fixture(autouse=True)
def _wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1")


@each_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_lstm(case: Case, dtype: torch.dtype) -> None:
    assert_lstm(case, dtype)


@each_dtype
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", [c for c in CASES if not c.reverse], ids=str)
def test_lstm_pool(case: Case, training: bool, dtype: torch.dtype) -> None:
    assert_lstm_pool(case, training, dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_several_launches_are_one_call(reverse: bool) -> None:
    """128 runs of equally many rows to a launch: what they publish goes on counting, h and c go on."""
    lengths = tuple(range(140, 12, -1))
    case = Case("many lengths", (150, *lengths), 3, 8, p=0.2, reverse=reverse)
    arguments = on_device(case.arguments(torch.bfloat16, requires_grad=False))
    persistent = ops.lstm(**arguments)
    os.environ[VARIABLE] = "0"
    for mine, apart in zip(persistent, ops.lstm(**arguments), strict=True):
        torch.testing.assert_close(mine, apart, atol=4e-2, rtol=4e-2)


@each_dtype
def test_the_same_as_step_by_step(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_as_step_by_step(dtype, VARIABLE, monkeypatch)


def test_autocast() -> None:
    """Weights of float32 beside bfloat16."""
    arguments = on_device(CASES[1].arguments(torch.bfloat16, requires_grad=False))
    expected = reference.lstm(**cross_entropy.in_double(arguments))
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        arguments[name] = arguments[name].float()
    assert_near({"output": ops.lstm(**arguments)[0]}, {"output": expected[0]}, torch.bfloat16)


@emulated
@each_dtype
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_sequence_is_one_launch(case: Case, dtype: torch.dtype) -> None:
    """The mask goes with it; the only product is that of the inputs."""
    used(case, dtype)  # the check of this instance
    assert used(case, dtype) == (1, 1)


@emulated
@pytest.mark.parametrize("case", STEP_BY_STEP, ids=str)
def test_what_does_not_fit_goes_step_by_step(case: Case) -> None:
    assert used(case, torch.bfloat16)[1] > max(case.lengths)


@emulated
@pytest.mark.parametrize("value", [None, "0", "", "yes"])
def test_it_is_off(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value) if value is not None else monkeypatch.delenv(VARIABLE)
    assert used(CASES[0], torch.bfloat16)[1] == 5


SCRIPT = """
import ctypes, sys, torch
from tests.ops import test_cuda_persistent as persistent
import ulmfit_fast.ops
torch.ops.load_library(persistent.LIBRARY)
library = ctypes.CDLL(persistent.LIBRARY)
def used(fault):
    library.cuda_on_host_set_fault(fault)
    return persistent.used(persistent.CASES[0], torch.bfloat16)
"""


def run_script(code: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {VARIABLE: "1", "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )


@emulated
@pytest.mark.parametrize(
    ("fault", "message", "products"),
    [
        (1, "results differ by", "5 5"),
        (2, "did not end within a time limit", "5 5"),
        (3, "", "5 1"),  # a graph is being captured: later calls check
        (4, "waited for another in vain", "5 5"),
        (5, "has no room", "5 5"),
    ],
    ids=["wrong products", "never ends", "capture", "lost block", "refused"],
)
def test_a_device_that_fails_its_check_is_not_trusted(fault: int, message: str, products: str) -> None:
    finished = run_script(f"used({fault}); first = used({fault}); used(0); print(first[1], used(0)[1])")
    assert finished.stdout.strip() == products
    assert finished.stderr.count("failed its check") == (message != "")
    assert message in finished.stderr


@emulated
def test_a_refused_launch_goes_step_by_step() -> None:
    """Another process has taken the device's room since."""
    assert run_script("used(0); print(used(0)[1], used(5)[1], used(0)[1])").stdout.split() == ["1", "5", "1"]


@emulated
def test_a_lost_wake_up_is_an_error() -> None:
    """Its results are no numbers, the next call says why, and all later ones go step by step."""
    finished = run_script("""
used(0)
library.cuda_on_host_set_fault(4)
output, h, c = persistent.ops.lstm(**persistent.CASES[0].arguments(torch.bfloat16, requires_grad=False))
print(output[3:, :12].isnan().all().item(), h[:, :12].isnan().all().item(), c[:, :12].isnan().all().item())
try:
    used(0)
except RuntimeError as error:
    print(error)
print(used(0)[1])
""")
    numbers, message, products = finished.stdout.strip().split("\n")
    assert numbers == "True True True"
    assert "waited in vain for slice 3 to publish step 1. The results of that call are NaN" in message
    assert "ULMFIT_FAST_CUDA_PERSISTENT=0" in message
    assert products == "5"
