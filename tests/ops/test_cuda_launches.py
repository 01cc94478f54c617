"""How many launches the CUDA code asks for, counted by the emulation (`make cuda-on-host`): each takes microseconds.

Counted are kernels of the project's own, matrix products, and torch's operators that would launch a kernel.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.ops.cases import Case, batch_sizes_of
from tests.ops.test_lstm_pool import pool_arguments
from ulmfit_fast import ops
from ulmfit_fast.ops.lstm_pool import add_steps

LIBRARY = os.environ.get("ULMFIT_FAST_CUDA_ON_HOST")
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="counts what ULMFIT_FAST_CUDA_ON_HOST emulates")
native = torch.ops.ulmfit_fast
# Torch's operators that launch a kernel wherever they are asked to do something. fill_ is the tests' own.
LAUNCHING = ("copy_", "sub", "add", "mul", "sum", "zero_", "cat", "index_select", "tanh", "eq", "masked_fill", "clone")
STEPS = 50


def counts() -> tuple[int, int]:
    launches, products = ctypes.c_int64(), ctypes.c_int64()
    ctypes.CDLL(LIBRARY).cuda_on_host_counts(ctypes.byref(launches), ctypes.byref(products))
    return launches.value, products.value


def counted(work: Callable[[], Any]) -> tuple[int, int, int]:
    """Own kernels, products, torch's operators of one call."""
    work()
    torch.utils.deterministic.fill_uninitialized_memory = False
    before = counts()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work()
    after = counts()
    names = [event.name for event in recorded.events()]
    return after[0] - before[0], after[1] - before[1], sum(names.count(f"aten::{name}") for name in LAUNCHING)


def lstm_calls(
    lengths: tuple[int, ...], bptt: int = 0, hidden: int = 12, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward and backward of the op itself, with DropConnect and every gradient."""
    case = Case("launches", lengths, 8, hidden, p=0.3, **options)
    a = case.arguments(dtype, requires_grad=False) | {"bptt": bptt, "keep": 2}
    output, _, _, gates, cells = native.lstm(**a)
    given = {name: a[name] for name in a if not name.startswith("bias") and name != "keep"}
    grads = {"grad_output": torch.ones_like(output), "grad_h_n": None, "grad_c_n": None}
    saved = {"output": output, "gates": gates, "cells": cells, "needs": [True] * 6}
    return lambda: native.lstm(**a), lambda: native.lstm_backward(**grads, **given, **saved)


DENSE, RAGGED = (STEPS,) * 4, (STEPS, 40, 33, 7)


@pytest.mark.parametrize("lengths", [DENSE, RAGGED], ids=["dense", "ragged"])
def test_forward_is_two_launches_a_step(lengths: tuple[int, ...]) -> None:
    """One more of each: DropConnect; the inputs' product. Torch's own: states and biases."""
    launches, products, others = counted(lstm_calls(lengths)[0])
    assert (launches, products) == (STEPS + 1, STEPS + 1)
    assert others <= 3


@pytest.mark.parametrize(("lengths", "gathers"), [(DENSE, 0), (RAGGED, 1)], ids=["dense", "ragged"])
@pytest.mark.parametrize("reverse", [False, True])
def test_backward_is_two_launches_a_step(lengths: tuple[int, ...], gathers: int, reverse: bool) -> None:
    """DropConnect twice, and four products, or five of a dense batch; nothing more for each length."""
    launches, products, others = counted(lstm_calls(lengths, reverse=reverse)[1])
    assert launches == STEPS + 2 + gathers
    assert products == (STEPS - 1) + 4 + (0 if gathers else 1)
    assert others <= 4


@pytest.mark.parametrize("lengths", [DENSE, RAGGED], ids=["dense", "ragged"])
@pytest.mark.parametrize("bptt", [1, 5, 7])
def test_chunks_run_side_by_side(lengths: tuple[int, ...], bptt: int) -> None:
    launches, products, _ = counted(lstm_calls(lengths, bptt)[1])
    assert launches <= bptt * -(-STEPS // bptt // 32) + 3
    assert products <= (bptt - 1) + 5


def test_many_chunks_take_a_launch_for_each_thirty_two() -> None:
    launches, products, _ = counted(lstm_calls((200,) * 2, 2)[1])
    assert launches == 2 * 4 + 2
    assert products == 1 + 5


def test_a_projection_doubles_them() -> None:
    launches, products, _ = counted(lstm_calls(DENSE, projection=3)[1])
    assert launches == 2 * STEPS + 2
    assert products <= 2 * STEPS - 1 + 6


@pytest.mark.parametrize("lengths", [DENSE, RAGGED], ids=["dense", "ragged"])
def test_pooling_adds_none_to_a_step(lengths: tuple[int, ...]) -> None:
    case = Case("launches", lengths, 8, 12, p=0.3)
    a = pool_arguments(case, torch.float32) | {"bptt": 0}
    launches, products, others = counted(lambda: ops.lstm_pool(**a))
    assert launches <= STEPS + 2
    assert products == STEPS + 1
    assert others <= 16


LENGTHS = tuple(range(100, 0, -1))  # as many different ones as a batch of documents may have


def test_rows_of_many_lengths_are_one_launch() -> None:
    sizes = batch_sizes_of(LENGTHS)
    x, mask = torch.randn(sum(LENGTHS), 8), torch.ones(len(LENGTHS), 8)
    assert counted(lambda: ops.locked_dropout(x, mask, sizes))[0] == 1
    assert counted(lambda: add_steps(torch.zeros(len(LENGTHS), dtype=torch.int64), sizes))[0] == 1


def test_more_lengths_than_a_launch_carries() -> None:
    lengths = tuple(range(300, 0, -1))
    sizes = batch_sizes_of(lengths)
    x, mask = torch.randn(sum(lengths), 3), torch.rand(len(lengths), 3)
    launches, _, _ = counted(lambda: ops.locked_dropout(x, mask, sizes))
    assert launches == 3
    assert torch.equal(add_steps(torch.zeros(302, dtype=torch.int64), sizes), torch.tensor([*lengths, 0, 0]))


@pytest.mark.parametrize(
    ("capability", "remedy"), [(61, "GPUs before 7.5 are not supported"), (120, "ULMFIT_FAST_CUDA_ARCHITECTURES=120")]
)
def test_a_gpu_that_the_build_has_no_kernels_for(capability: int, remedy: str) -> None:
    library = ctypes.CDLL(LIBRARY)
    library.cuda_on_host_set_without_kernels(capability)
    try:
        with pytest.raises(RuntimeError, match=rf"ulmfit_fast: .*not for this GPU's {capability}.*{remedy}.*cpu"):
            ops.dropconnect_mask(torch.tensor(1), 3, 4, 0.5)
    finally:
        library.cuda_on_host_set_without_kernels(0)
