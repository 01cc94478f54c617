"""``lstm`` and ``lstm_pool`` on weights packed before: the bits of the call that packs for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.cases import CASES, Case
from tests.ops.test_lstm_pool import POOL_CASES, pool_arguments
from ulmfit_fast import ops

DTYPES = [torch.float32, torch.float64, torch.bfloat16]
UNDROPPED = [case for case in CASES if not case.p]


def packed(arguments: dict[str, Any], dtype: torch.dtype) -> Tensor:
    return ops.lstm_pack(
        arguments["weight_ih"], arguments["weight_hh"], arguments.get("weight_hr"), dtype=dtype
    )  # fmt: skip


def equal(ours: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("case", UNDROPPED, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lstm_has_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    a = case.arguments(dtype, requires_grad=False)
    assert equal(ops.lstm(**a, packed=packed(a, dtype)), ops.lstm(**a))


@pytest.mark.parametrize("case", [case for case in POOL_CASES if not case.p], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keep_states", [False, True])
def test_lstm_pool_has_the_same_bits(case: Case, dtype: torch.dtype, keep_states: bool) -> None:
    a = pool_arguments(case, dtype, requires_grad=False)
    ours = ops.lstm_pool(**a, packed=packed(a, dtype), keep_states=keep_states)
    expected = ops.lstm_pool(**a, keep_states=keep_states)
    assert equal((*ours.state, *ours[1:]), (*expected.state, *expected[1:]))


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("projection", [0, 70, 100])
def test_any_grid(threads: int, projection: int) -> None:
    """Slices cut a projection's columns in other places than the packing did."""
    a = Case("grid", (9, 9, 8, 3, 3, 3, 1), 40, 300, projection).arguments(torch.float32, requires_grad=False)
    expected, before = ops.lstm(**a), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert equal(ops.lstm(**a, packed=packed(a, torch.float32)), expected)
    finally:
        torch.set_num_threads(before)


def test_weights_in_float32_beside_bfloat16() -> None:
    a = Case("master", (5, 3), 9, 20).arguments(torch.bfloat16, requires_grad=False)
    master = {n: v.float() for n, v in a.items() if n.startswith(("weight_i", "weight_h", "bias")) and v is not None}
    a |= master
    assert equal(ops.lstm(**a, packed=packed(a, torch.bfloat16)), ops.lstm(**a))


def test_packed_weights_stand_in_for_those_given() -> None:
    """So the kernels do read them."""
    a = Case("other", (5, 3), 9, 20).arguments(torch.float32, requires_grad=False)
    twice = packed(a | {"weight_hh": 2 * a["weight_hh"]}, torch.float32)
    assert equal(ops.lstm(**a, packed=twice), ops.lstm(**(a | {"weight_hh": 2 * a["weight_hh"]})))


def test_a_gradient_or_a_mask_wants_the_weights_themselves() -> None:
    a = Case("grad", (5, 3), 9, 20).arguments(torch.float32)
    wrong = packed(a | {"weight_hh": 2 * a["weight_hh"]}, torch.float32)
    assert equal(ops.lstm(**a, packed=wrong), ops.lstm(**a))
    dropped = a | {"weight_dropout": 0.5}
    with torch.no_grad():
        assert equal(ops.lstm(**dropped, packed=wrong), ops.lstm(**dropped))


def test_bad_arguments() -> None:
    a = Case("bad", (5, 3), 9, 20).arguments(torch.float32, requires_grad=False)
    right = packed(a, torch.float32)
    for wrong in (right[1:], right.view(2, -1), right.view(torch.int8), torch.cat([right, right])):
        with pytest.raises(ValueError, match="lstm_packed: packed must be these weights as they were packed"):
            ops.lstm(**a, packed=wrong)
    with pytest.raises(ValueError, match=r"lstm_pack: weight_hh must be .* with the rows of weight_ih \(80\)"):
        ops.lstm_pack(a["weight_ih"], a["weight_hh"][:76], dtype=torch.float32)
    with pytest.raises(ValueError, match="without weight_hr"):
        ops.lstm_pack(a["weight_ih"], a["weight_hh"][:, :3], dtype=torch.float32)
    with pytest.raises(TypeError, match="weight_ih must have the dtype to pack for"):
        ops.lstm_pack(a["weight_ih"], a["weight_hh"], dtype=torch.float64)
    with pytest.raises(TypeError, match="must be float32, float64 or bfloat16"):
        ops.lstm_pack(a["weight_ih"].half(), a["weight_hh"].half(), dtype=torch.float16)
    arguments = [a[n] for n in ("input", "batch_sizes", "h0", "c0", "weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    arguments[0] = arguments[0].requires_grad_()
    output, *_ = torch.ops.ulmfit_fast.lstm_packed(*arguments, None, packed(a, torch.float32), False, 0)
    with pytest.raises(RuntimeError, match="lstm_packed: has no gradient"):
        output.sum().backward()
