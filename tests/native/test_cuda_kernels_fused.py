"""The compiled PTX of the fused LSTM steps against a plain loop, as test_cuda_kernels.py has the other kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.native.ptx.compiler import ROOT, kernel, kernels, needs_nvcc
from tests.native.ptx.launches import CODES, Launcher, assert_near, launched, program
from tests.native.ptx.machine import DivergenceError
from tests.native.ptx.memory import MisalignedError, OutOfBoundsError, RaceError, UninitialisedError
from tests.native.ptx.program import Program
from tests.native.test_ptx_machine import without
from ulmfit_fast.ops import reference

pytestmark = needs_nvcc
SOURCE, PRODUCT, THREADS, P = "lstm_fused_step.cu", "lstm_fused_product.cu", 256, 0.3
TILES = [(units, rows) for units in (1, 2) for rows in (1, 2, 4)]
DTYPES = [torch.bfloat16, torch.float16]
each_schedule = pytest.mark.parametrize("schedule", [None, 1, 2])


def step_kernel(dtype: torch.dtype, tiles: tuple[int, int]) -> Program:
    return kernel(SOURCE, f"fused_forward_step_kernelI{CODES[dtype]}Li{tiles[0]}ELi{tiles[1]}EE")


def case(dtype: torch.dtype, rows: int, hidden: int, drop: bool = True, pooled: bool = True) -> dict[str, Any]:
    """A step of a ragged batch that runs backward in time: some rows go on, the others begin."""
    batch, first_row, previous_row, continuing = rows + 1, 3, rows + 3, max(rows - 2, 0)
    total = previous_row + continuing  # what stands beyond is out of bounds
    seed = torch.tensor(2**61 + 5)
    keep = reference.dropconnect_mask(seed, 4 * hidden, hidden, P) if drop else torch.ones(4 * hidden, hidden)
    documents = rows + 2
    a: dict[str, Any] = {
        "rows": rows, "first_row": first_row, "hidden": hidden, "step": 3,
        "from_input": torch.randn(first_row + rows, 4 * hidden), "from_state": None,
        "bias": torch.randn(4 * hidden), "c": torch.randn(rows, hidden),
        "cell_output": torch.zeros(batch, hidden, dtype=dtype), "output": torch.randn(total, hidden).to(dtype),
        "gates": torch.zeros(first_row + rows, 4 * hidden, dtype=dtype),
        "cells": torch.zeros(first_row + rows, hidden),
        "total": torch.randn(documents, hidden, dtype=torch.float64) if pooled else None,
        "maximum": torch.zeros(documents, hidden) if pooled else None,
        "argmax": torch.full((documents, hidden), -1, dtype=torch.int32) if pooled else None,
        "count": torch.arange(documents) if pooled else None,
        "pool_from": torch.full((documents,), 5) if pooled else None,
        "output_row": first_row, "weight": (torch.randn(4 * hidden, hidden) / hidden**0.5).to(dtype),
        "keep": torch.from_numpy(np.packbits(keep.numpy().ravel(), bitorder="little")) if drop else None,
        "scale": np.float32(1 / (1 - P) if drop else 1), "h0": torch.randn(rows, hidden).to(dtype),
        "previous_row": previous_row, "continuing": continuing, "mask": keep,
    }  # fmt: skip
    return a


CELL = ["rows", "first_row", "hidden", "step", "from_input", "from_state", "bias", "c", "cell_output", "output",
        "gates", "cells"]  # fmt: skip
POOL = ["total", "maximum", "argmax", "count", "pool_from"]


def launch(code: Program, tiles: tuple[int, int], a: dict[str, Any], schedule: int | None) -> None:
    cell = [*(a[name] for name in CELL), [a[name] for name in POOL], a["output_row"]]
    blocks = -(-a["hidden"] // (8 * tiles[0])) * -(-a["rows"] // (8 * tiles[1]))
    rest = [a[name] for name in ("weight", "keep", "scale", "h0", "previous_row", "continuing")]
    Launcher(schedule).blocks(code, blocks, THREADS, [cell, *rest])


def check(a: dict[str, Any], before: dict[str, Tensor], dtype: torch.dtype) -> None:
    rows, first = a["rows"], a["first_row"]
    go_on = before["output"][a["previous_row"] : a["previous_row"] + a["continuing"]]
    h = torch.cat([go_on, a["h0"][a["continuing"] : rows]]).double()
    weight = a["weight"].double() * a["mask"].double() * float(a["scale"])
    i, f, g, o = (a["from_input"][first:].double() + a["bias"].double() + h @ weight.t()).chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cell = f * before["c"].double() + i * g
    state = o * cell.tanh()
    assert_near(a["c"], cell, torch.float32, 8)
    assert_near(a["cell_output"][:rows], state, dtype)
    assert not a["cell_output"][rows:].any()
    assert torch.equal(a["output"][first : first + rows], a["cell_output"][:rows])
    assert torch.equal(a["output"][: a["first_row"]], before["output"][: a["first_row"]])
    assert torch.equal(a["output"][a["previous_row"] :], go_on)
    assert_near(a["cells"][first:], cell, torch.float32, 8)
    assert_near(a["gates"][first:], torch.cat([i, f, g, o], 1), dtype)
    if a["total"] is None:
        return
    pools = (a["count"][:rows] + a["step"] >= a["pool_from"][:rows]).unsqueeze(1)
    h = a["cell_output"][:rows].double()
    assert_near(a["total"][:rows], before["total"][:rows] + pools * h, torch.float64)
    larger = pools & (h > 0)
    assert torch.equal(a["maximum"][:rows].double(), torch.where(larger, h, 0))
    assert torch.equal(a["argmax"][:rows] >= 0, larger)


def run(tiles: tuple[int, int], a: dict[str, Any], dtype: torch.dtype, schedule: int | None) -> None:
    before = {name: value.clone() for name, value in a.items() if isinstance(value, Tensor)}
    launch(step_kernel(dtype, tiles), tiles, a, schedule)
    check(a, before, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tiles", TILES, ids=str)
def test_step(tiles: tuple[int, int], dtype: torch.dtype) -> None:
    """Two blocks of rows, of which the second is not full; a last tile of units that may be half empty; a depth that is
    no multiple of what a warp loads."""
    run(tiles, case(dtype, 8 * tiles[1] + 3, 40), dtype, schedule=1)


@each_schedule
def test_every_warp_has_its_share(schedule: int | None) -> None:
    run((2, 1), case(torch.bfloat16, 5, 24 * 11), torch.bfloat16, schedule)  # 8.25 slabs


@pytest.mark.parametrize(("rows", "hidden"), [(1, 8), (2, 16), (8, 32)])
def test_small_ones(rows: int, hidden: int) -> None:
    run((1, 1), case(torch.float16, rows, hidden, drop=False, pooled=False), torch.float16, None)


def product_kernel(dtype: torch.dtype, row_tiles: int) -> Program:
    return kernel(PRODUCT, f"fused_product_kernelI{CODES[dtype]}Li{row_tiles}EE")


def product_case(dtype: torch.dtype, rows: int, hidden: int, splits: int) -> dict[str, Any]:
    keep = reference.dropconnect_mask(torch.tensor(7), 4 * hidden, hidden, P)
    return {
        "rows": rows, "hidden": hidden, "gates": torch.randn(rows, 4 * hidden).to(dtype),
        "weight": (torch.randn(4 * hidden, hidden) / hidden**0.5).to(dtype),
        "keep": torch.from_numpy(np.packbits(keep.numpy().ravel(), bitorder="little")),
        "parts": torch.full((splits, rows, hidden), torch.nan), "splits": np.int32(splits), "mask": keep,
    }  # fmt: skip


def multiply(code: Program, row_tiles: int, a: dict[str, Any], schedule: int | None) -> None:
    blocks = -(-a["hidden"] // 64) * -(-a["rows"] // (8 * row_tiles)) * int(a["splits"])
    arguments = [a[name] for name in ("rows", "hidden", "gates", "weight", "keep", "parts", "splits")]
    Launcher(schedule).blocks(code, blocks, THREADS, arguments)


@pytest.mark.parametrize(("hidden", "splits", "drop"), [(72, 2, True), (8, 1, False)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row_tiles", [1, 2, 4])
def test_product(row_tiles: int, dtype: torch.dtype, hidden: int, splits: int, drop: bool) -> None:
    """A last block of units and one of rows that are not full; nine slabs of gates for two times eight warps."""
    a = product_case(dtype, 8 * row_tiles + 3, hidden, splits)
    if not drop:
        a["keep"], a["mask"] = None, torch.ones(4 * hidden, hidden)
    multiply(product_kernel(dtype, row_tiles), row_tiles, a, schedule=1)
    expected = a["gates"].double() @ (a["weight"].double() * a["mask"].double())
    assert_near(a["parts"].double().sum(0), expected, torch.float32, 8)


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("p", [0.1, 0.999])
def test_keep_bits(p: float, on_device: bool) -> None:
    seed, rows, columns = torch.tensor(2**62 + 12345), 31, 24
    keep = torch.zeros(rows * columns // 8, dtype=torch.uint8)
    seeds = (seed.reshape(1), 0) if on_device else (None, int(seed))
    code = program(SOURCE, "keep_bits_kernel")
    Launcher(1)(code, len(keep), keep, *seeds, math.ceil(p * 2**32), len(keep))
    bits = np.unpackbits(keep.numpy(), bitorder="little")
    assert np.array_equal(bits.reshape(rows, columns), reference.dropconnect_mask(seed, rows, columns, p).numpy())


# Planted: what must not pass.


@each_schedule
def test_states_in_place_are_a_race(schedule: int | None) -> None:
    """A block writes h_t over h_{t-1}, which the blocks of other units still read."""
    a = case(torch.bfloat16, 5, 40)
    a["previous_row"] = a["output_row"]
    with pytest.raises(RaceError):
        launch(step_kernel(torch.bfloat16, (1, 1)), (1, 1), a, schedule)


@each_schedule
def test_a_removed_barrier_is_found(schedule: int | None) -> None:
    with pytest.raises((RaceError, UninitialisedError)):
        launch(without(step_kernel(torch.bfloat16, (1, 1)), "bar"), (1, 1), case(torch.bfloat16, 5, 40), schedule)


@each_schedule
def test_a_removed_barrier_of_the_product_is_found(schedule: int | None) -> None:
    a = product_case(torch.bfloat16, 3, 64, 1)
    with pytest.raises((RaceError, UninitialisedError)):
        multiply(without(product_kernel(torch.bfloat16, 1), "bar"), 1, a, schedule)


@pytest.mark.parametrize("name", ["gates", "weight", "keep", "parts"])
def test_a_buffer_of_the_product_that_is_too_small_is_found(name: str) -> None:
    a = product_case(torch.bfloat16, 3, 64, 1)
    a[name] = a[name].reshape(-1)[:-1].clone()
    with pytest.raises(OutOfBoundsError):
        multiply(product_kernel(torch.bfloat16, 1), 1, a, None)


def test_two_splits_in_one_place_are_a_race() -> None:
    """Blocks that begin where another one ends, and write what that one writes."""
    a = product_case(torch.bfloat16, 3, 64, 1)
    code = product_kernel(torch.bfloat16, 1)
    arguments = [a[name] for name in ("rows", "hidden", "gates", "weight", "keep", "parts", "splits")]
    with pytest.raises((RaceError, OutOfBoundsError)):
        Launcher().blocks(code, 2, THREADS, arguments)


@pytest.mark.parametrize("name", ["weight", "keep", "h0", "from_input", "bias", "c", "output", "total", "argmax"])
def test_a_buffer_that_is_too_small_is_found(name: str) -> None:
    a = case(torch.bfloat16, 5, 40)
    short = {"h0": 40, "output": 40, "total": 3 * 40, "argmax": 3 * 40}.get(name, 1)  # only their last rows are used
    a[name] = a[name].reshape(-1)[:-short].clone()
    with pytest.raises(OutOfBoundsError):
        launch(step_kernel(torch.bfloat16, (1, 1)), (1, 1), a, None)


def test_sizes_that_are_not_planned_are_found() -> None:
    """20 units: rows of 40 bytes, which cannot be loaded 16 bytes at a time."""
    with pytest.raises((MisalignedError, OutOfBoundsError)):
        launch(step_kernel(torch.bfloat16, (1, 1)), (1, 1), case(torch.bfloat16, 5, 20, drop=False), None)


def test_half_a_warp_cannot_multiply() -> None:
    a, tiles = case(torch.bfloat16, 5, 40), (1, 1)
    cell = [*(a[name] for name in CELL), [a[name] for name in POOL], a["output_row"]]
    rest = [a[name] for name in ("weight", "keep", "scale", "h0", "previous_row", "continuing")]
    with pytest.raises(DivergenceError, match="tensor cores' product"):
        Launcher().blocks(step_kernel(torch.bfloat16, tiles), 1, 112, [cell, *rest])  # the fourth warp has work


def test_every_kernel_has_been_run() -> None:
    names = {name for source in (SOURCE, PRODUCT) for name in kernels(ROOT / "csrc" / "cuda" / source)}
    if not launched & names:
        pytest.skip("the other tests did not run")
    assert names <= launched
