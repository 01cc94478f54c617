"""The compiled PTX of every CUDA kernel, run on the CPU against references in PyTorch.

Each in lock step and in a random order of threads, with every access checked for bounds, alignment and races. Together
with test_cuda_kernels_qrnn.py and test_cuda_kernels_fused.py every instance of every kernel is run.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.native.ptx.compiler import ROOT, kernels, needs_nvcc
from tests.native.ptx.launches import (
    DTYPES,
    MOST_GROUPS,
    Launcher,
    assert_near,
    launched,
    number,
    packed_runs,
    program,
    step_groups,
    sums,
)
from tests.ops.cases import batch_sizes_of
from ulmfit_fast.ops import reference

pytestmark = needs_nvcc
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_schedule = pytest.mark.parametrize("schedule", [None, 1], ids=["lock step", "random"])


@each_schedule
@pytest.mark.parametrize("p", [0.1, 0.999])
def test_mask(p: float, schedule: int | None) -> None:
    rows, columns, seed = 31, 37, torch.tensor(2**62 + 12345)
    keep = torch.zeros(rows * columns, dtype=torch.bool)
    code = program("dropconnect_kernel.cu", "mask_kernel")
    Launcher(schedule)(code, -(-len(keep) // 4), keep, seed.reshape(1), math.ceil(p * 2**32), len(keep))
    assert torch.equal(keep.view(rows, columns), reference.dropconnect_mask(seed, rows, columns, p))


@each_dtype
@pytest.mark.parametrize("on_device", [True, False])
def test_drop(on_device: bool, dtype: torch.dtype) -> None:
    seed, p, shape = 1234567890123, 0.3, (27, 41)
    weight = torch.randn(shape).to(dtype)
    keep = reference.dropconnect_mask(torch.tensor(seed), *shape, p)
    expected = torch.where(keep, (weight.to(sums(dtype)) * (1 / (1 - p))).to(dtype), 0)
    seeds = (torch.tensor([seed]), 0) if on_device else (None, seed)
    code = program("lstm_kernels.cu", "drop_kernel", dtype)
    threads, count = -(-weight.numel() // 4), weight.numel()
    apart, place = torch.empty_like(weight), weight.clone()
    for result, of in ((apart, weight), (place, place)):  # also in place
        Launcher(1)(code, threads, result, of, *seeds, math.ceil(p * 2**32), number(1 / (1 - p), torch.float64), count)
        assert_near(result, expected, dtype)


@each_schedule
@each_dtype
@pytest.mark.parametrize("pooled", [False, True])
def test_forward_step(pooled: bool, dtype: torch.dtype, schedule: int | None) -> None:
    rows, batch, hidden, total_rows, first, documents, step = 5, 6, 67, 13, 4, 7, 3
    acc = sums(dtype)
    from_input, from_state = torch.randn(total_rows, 4 * hidden, dtype=acc), torch.randn(rows, 4 * hidden, dtype=acc)
    bias, c = torch.randn(4 * hidden, dtype=acc), torch.randn(batch, hidden, dtype=acc)
    before = c.clone()
    h, output = torch.zeros(batch, hidden, dtype=dtype), torch.zeros(total_rows, hidden, dtype=dtype)
    gates, cells = torch.zeros(total_rows, 4 * hidden, dtype=dtype), torch.zeros(total_rows, hidden, dtype=acc)
    total = torch.randn(documents, hidden, dtype=torch.float64)
    maximum, argmax = torch.zeros(documents, hidden, dtype=acc), torch.full((documents, hidden), -1, dtype=torch.int32)
    count, pool_from = torch.arange(documents), torch.tensor([0, 9, 5, 0, 0, 0, 0])
    totals = total.clone()
    pool = [total, maximum, argmax, count, pool_from] if pooled else [None] * 5
    code = program("lstm_kernels.cu", "forward_step_kernel", dtype)
    Launcher(schedule)(
        code, rows * hidden,
        [rows, first, hidden, step, from_input, from_state, bias, c, h, output, gates, cells, pool, first],
    )  # fmt: skip

    i, f, g, o = (from_input[first : first + rows] + from_state + bias).double().chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cell = f * before[:rows].double() + i * g
    state = o * cell.tanh()
    assert_near(c[:rows], cell, acc)
    assert torch.equal(c[rows:], before[rows:])
    assert_near(h[:rows], state, dtype)
    assert_near(output[first : first + rows], state, dtype)
    assert_near(cells[first : first + rows], cell, acc)
    assert_near(gates[first : first + rows], torch.cat([i, f, g, o], 1), dtype)
    if not pooled:
        return
    pools = count[:rows] + step >= pool_from[:rows]
    h = h[:rows].double()
    assert_near(total[:rows], totals[:rows] + pools.unsqueeze(1) * h, torch.float64)
    assert torch.equal(total[rows:], totals[rows:])
    larger = pools.unsqueeze(1) & (h > 0)
    assert torch.equal(maximum[:rows].double(), torch.where(larger, h, 0))
    assert torch.equal(argmax[:rows].long(), torch.where(larger, (count[:rows] + step).unsqueeze(1), -1))


def _backward_case(dtype: torch.dtype, most: int, hidden: int, width: int) -> dict[str, Any]:
    """Steps of two chunks, or of one: groups whose rows end here, go on with a gradient, or are cut off."""
    acc = sums(dtype)
    # begin, row, step, state, previous_row, continuing, next, continued, going_on
    groups = (
        [[0, 4, 1, 0, 0, 4, 0, 2, 3]] if most == 1 else [[0, 4, 1, 0, 0, 4, 0, 2, 3], [4, 13, 4, 4, 10, 3, 2, 0, 1]]
    )
    sizes, rows, batch, total_rows = [4, 2][: len(groups)], [4, 6][len(groups) - 1], 4, 15

    def draw(*shape: int, of: torch.dtype = acc) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(of)

    pre = torch.randn(total_rows, 4, hidden, dtype=torch.float64)
    gates = torch.stack([pre[:, 0].sigmoid(), pre[:, 1].sigmoid(), pre[:, 2].tanh(), pre[:, 3].sigmoid()], 1)
    return {
        "groups": groups, "sizes": sizes, "rows": rows, "gates": gates.flatten(1).to(dtype), "hidden": hidden,
        "cells": draw(total_rows, hidden), "c0": draw(batch, hidden), "grad_c_n": draw(batch, hidden),
        "grad_c": draw(7, hidden), "from_next": draw(2, 4, width),
        "parts": 2, "part_elements": 4 * width, "scale": number(1.25, dtype),
        "grad_output": draw(total_rows, width, of=dtype), "grad_h_n": draw(batch, width, of=dtype),
        "grad_total": draw(batch, width), "grad_maximum": draw(batch, width),
        "argmax": torch.randint(0, 9, (batch, width), dtype=torch.int32), "count": torch.tensor([2, 0, 5, 1]),
        "pool_from": torch.tensor([0, 3, 0, 2]), "width": width,
    }  # fmt: skip


def _state(a: dict[str, Any]) -> list[Any]:
    names = (
        "width",
        "from_next",
        "parts",
        "part_elements",
        "scale",
        "grad_output",
        "grad_h_n",
        "grad_total",
        "grad_maximum",
        "argmax",
        "count",
        "pool_from",
    )
    return [a[name] for name in names]


def _grad_of_h(a: dict[str, Any]) -> Tensor:
    """[rows of all groups, width], row by row."""
    result = []
    for (_, row, step, _, _, _, next_, continued, going_on), size in zip(a["groups"], a["sizes"], strict=True):
        for r in range(size):
            grad = a["grad_output"][row + r].double()
            at = int(a["count"][r]) + step
            if at >= a["pool_from"][r]:
                grad = grad + a["grad_total"][r] + a["grad_maximum"][r] * (a["argmax"][r] == at)
            if r < continued:
                grad = grad + a["from_next"].double().sum(0)[next_ + r] * 1.25
            elif r >= going_on:
                grad = grad + a["grad_h_n"][r]
            result.append(grad)
    return torch.stack(result)


@each_schedule
@each_dtype
@pytest.mark.parametrize("most", [1, MOST_GROUPS])
def test_state_gradient(most: int, dtype: torch.dtype, schedule: int | None) -> None:
    a = _backward_case(dtype, most, 5, 67)
    packed, together = torch.zeros(15, 67, dtype=dtype), torch.zeros(a["rows"], 67, dtype=dtype)
    code = program("lstm_kernels.cu", "state_gradient_kernel", dtype, most)
    groups = step_groups(a["groups"], a["rows"], most)
    Launcher(schedule)(code, a["rows"] * 67, _state(a), packed, together, groups)
    assert_near(together, _grad_of_h(a), dtype, 3)
    rows = [group[1] + r for group, size in zip(a["groups"], a["sizes"], strict=True) for r in range(size)]
    assert torch.equal(packed[rows], together)
    others = [row for row in range(15) if row not in rows]
    assert not packed[others].any()


@each_schedule
@each_dtype
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("most", [1, MOST_GROUPS])
def test_backward_step(most: int, projected: bool, dtype: torch.dtype, schedule: int | None) -> None:
    hidden = 67
    a = _backward_case(dtype, most, hidden, hidden)
    acc = sums(dtype)
    given = torch.randn(a["rows"], hidden, dtype=acc) if projected else None
    grad_c, before = a["grad_c"], a["grad_c"].clone()
    grad_gates, together = torch.zeros(15, 4 * hidden, dtype=dtype), torch.zeros(a["rows"], 4 * hidden, dtype=dtype)
    first = torch.zeros(4, 4 * hidden, dtype=dtype) if most == 1 else None
    a["groups"] = [[*group[:5], min(group[5], 3), *group[6:]] for group in a["groups"]]  # some rows begin here
    step = [
        hidden,
        _state(a),
        given,
        a["gates"],
        a["cells"],
        a["c0"],
        a["grad_c_n"],
        grad_c,
        grad_gates,
        together,
        first,
    ]
    code = program("lstm_kernels.cu", "backward_step_kernel", dtype, most)
    groups = step_groups(a["groups"], a["rows"], most)
    Launcher(schedule)(code, a["rows"] * hidden, step, groups)

    grad_h = _grad_of_h(a) if given is None else given.double()
    position = 0
    for (_, row, _, state, previous_row, continuing, _, continued, going_on), size in zip(
        a["groups"], a["sizes"], strict=True
    ):
        for r in range(size):
            previous = a["cells"][previous_row + r] if r < continuing else a["c0"][r]
            next_c = before[state + r] if r < continued else a["grad_c_n"][r] if r >= going_on else torch.zeros(hidden)
            expected, of_previous = _cell_gradient(
                a["gates"][row + r], a["cells"][row + r], previous, grad_h[position], next_c
            )
            assert_near(grad_gates[row + r], expected, dtype, 8)
            assert torch.equal(together[position], grad_gates[row + r])
            assert_near(grad_c[state + r], of_previous, acc, 8)
            if first is not None:
                assert torch.equal(first[r], grad_gates[row + r] if r >= continuing else torch.zeros_like(first[r]))
            position += 1


def _cell_gradient(
    gates: Tensor, cell: Tensor, previous: Tensor, grad_h: Tensor, next_c: Tensor
) -> tuple[Tensor, Tensor]:
    """By autograd, from the gates before their non-linearities; ``cell`` takes the place of what they give."""
    i, f, g, o = gates.double().chunk(4)
    pre = torch.cat([i.logit(), f.logit(), g.atanh(), o.logit()]).requires_grad_()
    c_previous = previous.double().requires_grad_()
    i, f, g, o = pre.chunk(4)
    c = f.sigmoid() * c_previous + i.sigmoid() * g.tanh()
    c = c + (cell.double() - c).detach()
    loss = (o.sigmoid() * c.tanh() * grad_h).sum() + (c * next_c.double()).sum()
    return torch.autograd.grad(loss, (pre, c_previous))


LENGTHS = [(3,), (4, 4, 4), (9, 7, 7, 2, 1), tuple(range(12, 0, -1))]


@each_dtype
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda x: f"{len(x)} sequences")
def test_locked_dropout(lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    width, sizes = 41, batch_sizes_of(lengths)
    x, mask = torch.randn(sum(lengths), width).to(dtype), torch.rand(len(lengths) + 1, width).to(sums(dtype))
    result = torch.zeros_like(x)
    code = program("packed_rows_kernels.cu", "locked_dropout_kernel", dtype)
    Launcher(1)(code, 32 * len(x), result, x, mask, width, packed_runs(sizes.tolist()))
    assert torch.equal(result, reference.locked_dropout(x, mask, sizes))


@each_dtype
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("at_a_time", [None, 2])
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda x: f"{len(x)} sequences")
def test_previous_rows(lengths: tuple[int, ...], at_a_time: int | None, reverse: bool, dtype: torch.dtype) -> None:
    """Also some runs a launch, as where there are more than one carries."""
    width, sizes = 35, batch_sizes_of(lengths).tolist()
    output, h0 = torch.randn(sum(lengths), width).to(dtype), torch.randn(len(lengths), width).to(dtype)
    result, runs = torch.zeros_like(output), len(set(sizes))
    code, run = program("packed_rows_kernels.cu", "previous_rows_kernel", dtype), Launcher(1)
    for first in range(0, runs, at_a_time or runs):
        some = packed_runs(sizes, first, min(at_a_time or runs, runs - first))
        run(code, 32 * (some[1] - some[0]), result, output, h0, width, reverse, some)
    begins = [sum(sizes[:t]) for t in range(len(sizes))]
    for t, rows in enumerate(sizes):
        for r in range(rows):
            other = t + 1 if reverse else t - 1
            inside = 0 <= other < len(sizes) and r < sizes[other]
            assert torch.equal(result[begins[t] + r], output[begins[other] + r] if inside else h0[r])


@pytest.mark.parametrize("at_a_time", [None, 3])
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda x: f"{len(x)} sequences")
def test_add_steps(lengths: tuple[int, ...], at_a_time: int | None) -> None:
    sizes = batch_sizes_of(lengths).tolist()
    count = torch.arange(100, 100 + len(lengths) + 2)
    result, runs, run = count.clone(), len(set(sizes)), Launcher(1)
    for first in range(0, runs, at_a_time or runs):
        some = packed_runs(sizes, first, min(at_a_time or runs, runs - first))
        run(program("packed_rows_kernels.cu", "add_steps_kernel"), some[5][1], result, count, some[5][1], some)
    assert torch.equal(result, count + torch.tensor([*lengths, 0, 0]))


@each_schedule
@each_dtype
@pytest.mark.parametrize("classes", [1, 3, 531, 4096 + 3])
@pytest.mark.parametrize("bias", [False, True])
def test_cross_entropy(bias: bool, classes: int, dtype: torch.dtype, schedule: int | None) -> None:
    if schedule is not None and classes != 531:
        return
    rows, acc, smoothing, ignored = 3, sums(dtype), 0.1, -100
    logits = (torch.randn(rows, classes) * 5).to(acc)
    biases = torch.randn(classes, dtype=acc) if bias else None
    target, row_weight = torch.tensor([classes - 1, ignored, 0]), torch.tensor([0.5, 3.0, 2.0], dtype=acc)
    loss, gradient = torch.zeros(rows, dtype=acc), torch.zeros(rows, classes, dtype=dtype)
    code = program("linear_cross_entropy_kernel.cu", "cross_entropy_kernel", dtype)
    parameters = [rows, classes, ignored, number(smoothing, dtype), logits, biases, target, row_weight, loss]
    Launcher(schedule).blocks(code, rows, 512, [*parameters, gradient])
    x = (logits if biases is None else logits + biases).double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(x, target, reduction="none", label_smoothing=smoothing)
    (expected * row_weight).sum().backward()
    assert x.grad is not None
    assert_near(loss, expected, acc, 4)
    assert_near(gradient, x.grad, dtype, 4)
    without = torch.zeros(rows, dtype=acc)
    Launcher(schedule).blocks(code, rows, 512, [*parameters[:-1], without, None])
    assert torch.equal(without, loss)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
def test_cross_entropy_of_logits_beyond_numbers(value: float) -> None:
    logits, target = torch.randn(2, 700), torch.tensor([3, 3])
    logits[1, 511] = value
    loss, gradient = torch.zeros(2), torch.zeros(2, 700)
    code = program("linear_cross_entropy_kernel.cu", "cross_entropy_kernel", torch.float32)
    weights = torch.ones(2)
    parameters = [2, 700, -100, number(0, torch.float32), logits, None, target, weights, loss, gradient]
    Launcher().blocks(code, 2, 512, parameters)
    expected = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5, equal_nan=True)
    assert gradient[1].isnan().any() == expected[1].isnan()


def test_every_kernel_has_been_run() -> None:
    """An instance that no test launches is one that nothing checks."""
    if not launched:
        pytest.skip("the other tests did not run")
    of_their_own_files = ("forget_mult_kernels.cu", "lstm_fused_step.cu", "lstm_fused_product.cu", "lstm_persistent.cu")
    sources = [source for source in (ROOT / "csrc/cuda").glob("*.cu") if source.name not in of_their_own_files]
    assert {name for source in sources for name in kernels(source)} <= launched
