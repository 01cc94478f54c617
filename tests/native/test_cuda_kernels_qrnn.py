"""The compiled PTX of the QRNN's CUDA kernels against a plain loop, as test_cuda_kernels.py has the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.native.ptx.compiler import ROOT, kernels, needs_nvcc
from tests.native.ptx.launches import DTYPES, Launcher, assert_near, launched, program, sums

pytestmark = needs_nvcc
SOURCE = "forget_mult_kernels.cu"
FIRST_STEP, STEPS, ROWS, FIRST_ROW, BATCH, HIDDEN = 4, 7, 3, 15, 5, 45
TOTAL = FIRST_ROW + STEPS * ROWS + 2
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_way = pytest.mark.parametrize(
    ("chunks", "output_gate", "schedule"), [(1, True, None), (1, False, 1), (3, True, 1), (3, False, None)]
)


def run_of(chunks: int, output_gate: bool) -> list[Any]:
    """The struct QrnnRun: steps of a longer batch, in so many chunks."""
    return [FIRST_STEP, STEPS, ROWS, FIRST_ROW, HIDDEN, chunks, output_gate]


def rows_of(x: Tensor) -> Tensor:
    """[STEPS, ROWS, ...]: those of the run."""
    return x[FIRST_ROW : FIRST_ROW + STEPS * ROWS].unflatten(0, (STEPS, ROWS))


def loop(gates: Tensor, c: Tensor, output_gate: bool, bptt: int = 0) -> tuple[Tensor, Tensor]:
    """h and c of each step, [STEPS, ROWS, HIDDEN]."""
    outputs, cells = [], []
    for step, row in enumerate(rows_of(gates)):
        parts = row.chunk(3 if output_gate else 2, 1)
        if bptt > 0 and (FIRST_STEP + step) % bptt == 0:
            c = c.detach()
        c = parts[1].sigmoid() * parts[0].tanh() + (1 - parts[1].sigmoid()) * c
        outputs.append(parts[2].sigmoid() * c if output_gate else c)
        cells.append(c)
    return torch.stack(outputs), torch.stack(cells)


@each_way
@each_dtype
def test_forward(chunks: int, output_gate: bool, schedule: int | None, dtype: torch.dtype) -> None:
    acc, columns = sums(dtype), ROWS * HIDDEN
    gates, c = torch.randn(TOTAL, (3 if output_gate else 2) * HIDDEN).to(dtype), torch.randn(BATCH, HIDDEN).to(acc)
    before = c.clone()
    output, h_n = torch.zeros(TOTAL, HIDDEN, dtype=dtype), torch.zeros(BATCH, HIDDEN, dtype=dtype)
    cells, scratch = torch.zeros(TOTAL, HIDDEN, dtype=acc), torch.zeros(2, chunks, columns, dtype=acc)
    launch, run = Launcher(schedule), run_of(chunks, output_gate)
    arguments = [run, gates, output, h_n, cells, c, scratch]
    if chunks > 1:
        launch(program(SOURCE, "forward_summary_kernel", dtype), chunks * columns, arguments)
        launch(program(SOURCE, "chunk_states_kernel", acc), columns, scratch, c, columns, chunks, False)
    launch(program(SOURCE, "14forward_kernel", dtype), chunks * columns, arguments)
    h, states = loop(gates.double(), before[:ROWS].double(), output_gate)
    assert_near(rows_of(output), h, dtype, 2)
    assert_near(rows_of(cells), states, acc, 2)
    assert_near(h_n[:ROWS], h[-1], dtype, 2)
    assert_near(c[:ROWS], states[-1], acc, 2)
    assert torch.equal(c[ROWS:], before[ROWS:])
    assert not output[:FIRST_ROW].any()
    assert not output[FIRST_ROW + STEPS * ROWS :].any()


@pytest.mark.parametrize("schedule", [None, 1])
@each_dtype
def test_pool(schedule: int | None, dtype: torch.dtype) -> None:
    acc = sums(dtype)
    output = torch.randn(TOTAL, HIDDEN).to(dtype)
    total, maximum = torch.randn(BATCH, HIDDEN, dtype=torch.float64), torch.randn(BATCH, HIDDEN).to(acc)
    argmax = torch.full((BATCH, HIDDEN), 2, dtype=torch.int32)
    count, pool_from = torch.tensor([0, 5, 1, 0, 0]), torch.tensor([0, 12, 30, 0, 0])
    totals, maxima, places = total.clone(), maximum.clone(), argmax.clone()
    Launcher(schedule)(
        program(SOURCE, "pool_kernel", dtype), ROWS * HIDDEN,
        [run_of(1, True), output, total, maximum, argmax, count, pool_from],
    )  # fmt: skip
    for step, row in enumerate(rows_of(output)):
        for r in range(ROWS):
            at = int(count[r]) + FIRST_STEP + step
            if at < pool_from[r]:
                continue
            totals[r] += row[r].double()
            larger = row[r].to(acc) > maxima[r]
            maxima[r] = torch.where(larger, row[r].to(acc), maxima[r])
            places[r] = torch.where(larger, at, places[r])
    assert_near(total, totals, torch.float64)
    assert torch.equal(maximum, maxima)
    assert torch.equal(argmax, places)


@pytest.mark.parametrize("bptt", [0, 3, 4])
@each_way
@each_dtype
def test_backward(chunks: int, output_gate: bool, schedule: int | None, bptt: int, dtype: torch.dtype) -> None:
    acc, columns, going_on, width = sums(dtype), ROWS * HIDDEN, 1, 3 if output_gate else 2

    def draw(*shape: int, of: torch.dtype = acc) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(of)

    gates, c0, cells = draw(TOTAL, width * HIDDEN, of=dtype), draw(BATCH, HIDDEN), draw(TOTAL, HIDDEN)
    previous_row = FIRST_ROW - 4
    leaf = gates.double().clone().requires_grad_()
    first_c = cells[previous_row : previous_row + ROWS].double().clone().requires_grad_()
    h, states = loop(leaf, first_c, output_gate, bptt)
    cells[FIRST_ROW : FIRST_ROW + STEPS * ROWS] = states.detach().flatten(0, 1).to(acc)
    grad_output, grad_h_n = draw(TOTAL, HIDDEN, of=dtype), draw(BATCH, HIDDEN, of=dtype)
    grad_total, grad_maximum, grad_c = draw(BATCH, HIDDEN), draw(BATCH, HIDDEN), draw(BATCH, HIDDEN)
    argmax = torch.randint(0, 12, (BATCH, HIDDEN), dtype=torch.int32)
    count, pool_from = torch.tensor([0, 2, 1, 0, 0]), torch.tensor([0, 8, 30, 0, 0])
    loss = (h * rows_of(grad_output).double()).sum() + (h[-1] * grad_h_n[:ROWS].double())[going_on:].sum()
    loss = loss + (states[-1] * grad_c[:ROWS].double()).sum()
    for step in range(STEPS):
        at = (count + FIRST_STEP + step)[:ROWS].unsqueeze(1)
        pooled = grad_total[:ROWS] + grad_maximum[:ROWS] * (argmax[:ROWS] == at)
        loss = loss + (h[step] * pooled.double() * (at >= pool_from[:ROWS].unsqueeze(1))).sum()
    expected, expected_c = torch.autograd.grad(loss, (leaf, first_c), allow_unused=True)

    grad_gates, scratch = torch.zeros_like(gates), torch.zeros(2, chunks, columns, dtype=acc)
    arguments = [
        run_of(chunks, output_gate), going_on, bptt, previous_row, gates, cells, c0, grad_output, grad_h_n, grad_total,
        grad_maximum, argmax, count, pool_from, grad_c, grad_gates, scratch,
    ]  # fmt: skip
    launch, others = Launcher(schedule), grad_c[ROWS:].clone()
    if chunks > 1:
        launch(program(SOURCE, "backward_summary_kernel", dtype), chunks * columns, arguments)
        launch(program(SOURCE, "chunk_states_kernel", acc), columns, scratch, grad_c, columns, chunks, True)
    launch(program(SOURCE, "15backward_kernel", dtype), chunks * columns, arguments)
    assert_near(grad_gates, expected, dtype, 8)
    assert_near(grad_c[:ROWS], torch.zeros(ROWS, HIDDEN) if expected_c is None else expected_c, acc, 8)
    assert torch.equal(grad_c[ROWS:], others)


def test_every_kernel_has_been_run() -> None:
    names = set(kernels(ROOT / "csrc" / "cuda" / SOURCE))
    if not launched & names:
        pytest.skip("the other tests did not run")
    assert names <= launched
