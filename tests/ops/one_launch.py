"""What kernels are checked for that make a step, or a sequence, one launch: beside the reference, and each other."""

from __future__ import annotations

import pytest
import torch

from tests.ops import test_linear_cross_entropy as cross_entropy
from tests.ops import test_lstm as lstm
from tests.ops import test_lstm_pool as lstm_pool
from tests.ops.cases import Case
from tests.ops.test_cuda import assert_near, on_device
from ulmfit_fast import ops
from ulmfit_fast.ops import reference

DTYPES = [torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_lstm(case: Case, dtype: torch.dtype) -> None:
    """Forward, and backward by what it saved."""
    arguments = case.arguments(dtype)
    expected = lstm.run_with_gradients(reference.lstm, cross_entropy.in_double(arguments))
    assert_near(lstm.run_with_gradients(ops.lstm, on_device(arguments)), expected, dtype)


def assert_lstm_pool(case: Case, training: bool, dtype: torch.dtype) -> None:
    """In the same launch; where no gradient is wanted only the states of two steps are held."""
    arguments = lstm_pool.pool_arguments(case, dtype, training) | {"bptt": 0}
    exact = {name: lstm_pool.in_double(value) for name, value in arguments.items()}
    names = ("h_n", "c_n", "total", "maximum")
    if training:
        expected = lstm_pool.run_with_gradients(lstm_pool.run_reference, exact)
        actual = lstm_pool.run_with_gradients(lstm_pool.run_ops, on_device(arguments))
        del expected["argmax"], actual["argmax"]  # rounding may choose another of two nearly equal maxima
    else:
        expected = dict(zip(names, lstm_pool.run_reference(**exact), strict=False))
        actual = dict(zip(names, lstm_pool.run_ops(**on_device(arguments)), strict=False))
    assert_near(actual, expected, dtype)


def assert_same_as_step_by_step(dtype: torch.dtype, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within rounding; and twice the same bits. ``variable`` is that of the environment which chooses the kernel."""
    arguments = on_device(Case("same", (5, 4, 4, 1), 16, 64, p=0.4).arguments(dtype))
    found, again = (lstm.run_with_gradients(ops.lstm, arguments) for _ in range(2))
    monkeypatch.setenv(variable, "0")
    apart = lstm.run_with_gradients(ops.lstm, arguments)
    for name, value in found.items():
        assert torch.equal(value, again[name]), name
        torch.testing.assert_close(value, apart[name], atol=3e-2, rtol=3e-2)
