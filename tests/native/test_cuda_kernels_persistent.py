"""The compiled PTX of the persistent LSTM kernel against a plain loop: blocks that wait for each other, in turns.

What one block writes for another must be ordered by release and acquire, byte by byte (`ptx/memory.py`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.native.persistent_model import COMPILER, header
from tests.native.ptx.compiler import ROOT, kernel, kernels, needs_nvcc
from tests.native.ptx.flags import Flagged
from tests.native.ptx.launches import CODES, Launcher, assert_near, launched, packed_runs
from tests.native.ptx.memory import DeviceError, OutOfBoundsError, RaceError, UninitialisedError
from tests.native.ptx.program import Instruction, Program
from tests.native.test_ptx_machine import without
from ulmfit_fast.ops import reference

pytestmark = needs_nvcc
SOURCE, WARPS, P = "lstm_persistent.cu", 8, 0.3
TILES = [(units, rows) for units in range(1, 6) for rows in (1, 2, 4, 8) if units * rows <= 24]
DTYPES = [torch.bfloat16, torch.float16]
FOR_EVER = 1 << 40


def kernel_of(dtype: torch.dtype, tiles: tuple[int, int]) -> Program:
    return kernel(SOURCE, f"persistent_forward_kernelI{CODES[dtype]}Li{tiles[0]}ELi{tiles[1]}ELi{WARPS}EE")


def case(
    dtype: torch.dtype, sizes: list[int], hidden: int, *, reverse: bool = False, drop: bool = True, pooled: bool = False
) -> dict[str, Any]:
    rows, batch = sum(sizes), sizes[0]
    everything = torch.ones(4 * hidden, hidden)
    keep = reference.dropconnect_mask(torch.tensor(7), 4 * hidden, hidden, P) if drop else everything
    documents = batch + 1
    h0 = torch.randn(batch, hidden).to(dtype)
    return {
        "runs": packed_runs(sizes), "reversed": reverse, "hidden": hidden,
        "from_input": torch.randn(rows, 4 * hidden), "bias": torch.randn(4 * hidden), "c": torch.randn(batch, hidden),
        "output": torch.zeros(rows, hidden, dtype=dtype), "gates": torch.zeros(rows, 4 * hidden, dtype=dtype),
        "cells": torch.zeros(rows, hidden),
        "total": torch.randn(documents, hidden, dtype=torch.float64) if pooled else None,
        "maximum": torch.full((documents, hidden), -torch.inf) if pooled else None,
        "argmax": torch.full((documents, hidden), -1, dtype=torch.int32) if pooled else None,
        "count": torch.arange(documents) if pooled else None,
        "pool_from": torch.full((documents,), 2) if pooled else None,
        "weight": (torch.randn(4 * hidden, hidden) / hidden**0.5).to(dtype), "seed_value": 7,
        "threshold": int(P * 2**32) + 1 if drop else 0, "scale": np.float32(1 / (1 - P) if drop else 1),
        "h0": h0, "h": h0.clone(), "exchange": torch.full((2, batch, hidden), torch.nan, dtype=dtype), "batch": batch,
        "before": 5, "most_polls": FOR_EVER, "status": torch.zeros(1, dtype=torch.int64), "mask": keep, "sizes": sizes,
    }  # fmt: skip


def launch(
    code: Program, tiles: tuple[int, int], a: dict[str, Any], schedule: int | None, **options: Any
) -> tuple[list[Flagged], Launcher]:
    slices, groups = -(-a["hidden"] // (4 * tiles[0])), -(-a["batch"] // (8 * tiles[1]))
    a["flags"] = a.get("flags", torch.full((slices * groups,), a["before"], dtype=torch.int32))
    pool = [a[name] for name in ("total", "maximum", "argmax", "count", "pool_from")]
    cell = [0, 0, a["hidden"], 0, a["from_input"], None, a["bias"], a["c"], None, a["output"], a["gates"], a["cells"],
            pool, 0]  # fmt: skip
    struct = [a["runs"], a["reversed"], cell, a["weight"], None, a["seed_value"], a["threshold"], a["scale"], a["h0"],
              a["h"], a["exchange"], a["batch"], a["flags"], np.uint32(a["before"]), np.int32(slices), a["most_polls"],
              a["status"]]  # fmt: skip
    shared = -(-a["hidden"] // 32) * tiles[0] * 1024 + WARPS // 2 * 8 * tiles[1] * (16 * tiles[0] + 4) * 4
    launcher = Launcher(schedule)
    return launcher.together(code, slices * groups, 32 * WARPS, shared, struct, **options), launcher


def check(a: dict[str, Any], before: dict[str, Tensor], dtype: torch.dtype) -> None:
    """What rounding h in the kernel makes of it is taken over from there: so every step is exact."""
    weight = a["weight"].double() * a["mask"].double() * float(a["scale"])
    h, c, sizes = before["h0"].double(), before["c"].double(), a["sizes"]
    begins = [sum(sizes[:t]) for t in range(len(sizes))]
    total = None if a["total"] is None else before["total"].clone()
    for t in reversed(range(len(sizes))) if a["reversed"] else range(len(sizes)):
        rows = slice(begins[t], begins[t] + sizes[t])
        of = a["from_input"][rows].double() + a["bias"].double() + h[: sizes[t]] @ weight.t()
        i, f, g, o = of.chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c[: sizes[t]] = f * c[: sizes[t]] + i * g
        assert_near(a["cells"][rows], c[: sizes[t]], torch.float32, 16)
        assert_near(a["output"][rows], o * c[: sizes[t]].tanh(), dtype)
        assert_near(a["gates"][rows], torch.cat([i, f, g, o], 1), dtype)
        c[: sizes[t]], h[: sizes[t]] = a["cells"][rows].double(), a["output"][rows].double()
        if total is not None:
            total[: sizes[t]] += (a["count"][: sizes[t]] + t >= 2)[:, None] * h[: sizes[t]]
    assert torch.equal(a["c"].double(), c)
    assert torch.equal(a["h"].double(), h)
    assert not a["status"].any()
    if total is not None:
        assert_near(a["total"], total, torch.float64)


def run(tiles: tuple[int, int], a: dict[str, Any], dtype: torch.dtype, schedule: int | None) -> list[Flagged]:
    before = {name: value.clone() for name, value in a.items() if isinstance(value, Tensor)}
    done, _ = launch(kernel_of(dtype, tiles), tiles, a, schedule)
    check(a, before, dtype)
    return done


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tiles", TILES, ids=str)
def test_every_instance(tiles: tuple[int, int], dtype: torch.dtype) -> None:
    """Two slices, the second not full; two groups of rows where few rows are one. Directions in turn."""
    hidden = max(8, (8 * tiles[0] - 1) // 8 * 8)
    sizes = [8 * tiles[1] + 3, 2] if tiles == (1, 1) else [8 * tiles[1] - 3, 2]
    reverse = (TILES.index(tiles) + DTYPES.index(dtype)) % 2 == 1
    run(tiles, case(dtype, sizes, hidden, reverse=reverse), dtype, schedule=None)


@pytest.mark.parametrize("schedule", [None, 1, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_blocks_that_wait_for_each_other(reverse: bool, schedule: int | None) -> None:
    """Four slices of a ragged batch, three and more steps: both halves of the buffer are used again."""
    a = case(torch.bfloat16, [3, 3, 3, 1], 16, reverse=reverse, pooled=not reverse)
    run((1, 1), a, torch.bfloat16, schedule)


@pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, for the kernel's own header")
def test_blocks_take_the_steps_that_the_model_explores() -> None:
    """tests/native/persistent_model.py: before step s all other slices are awaited, after it the own one published."""
    a = case(torch.bfloat16, [2, 2, 2, 2], 16)
    done = run((1, 1), a, torch.bfloat16, 3)
    stores = [one for one in done if one.value is not None]
    (first,) = {one.address for one in stores if one.block == 0}
    for block in range(4):
        own = first + 4 * block
        published = [(one.address, one.value) for one in stores if one.block == block]
        assert published == [(own, header().published(5, step)) for step in range(4)]
        polled: list[set[int]] = [set()]  # of each step
        for one in done:
            if one.block == block and one.value is None:
                polled[-1].add(one.address)
            elif one.block == block:
                polled.append(set())
        others = {first + 4 * other for other in range(4)} - {own}
        assert polled == [set(), others, others, others, set()]


# Planted: what must not pass.


def replaced(program: Program, name: str, modifier: str, by: tuple[str, ...]) -> Program:
    """With other modifiers where an instruction has this one."""

    def one(of: Instruction) -> Instruction:
        found = of.name == name and modifier in of.modifiers
        return dataclasses.replace(of, modifiers=(*by, of.modifiers[-1])) if found else of

    changed = dataclasses.replace(program, instructions=[one(of) for of in program.instructions])
    assert changed.instructions != program.instructions
    return changed


@pytest.mark.parametrize("schedule", [None, 1])
@pytest.mark.parametrize(("name", "modifier"), [("ld", "acquire"), ("st", "release")])
def test_a_flag_without_order_is_a_race(name: str, modifier: str, schedule: int | None) -> None:
    code = replaced(kernel_of(torch.bfloat16, (1, 1)), name, modifier, ("relaxed", "gpu", "global"))
    with pytest.raises(RaceError):
        launch(code, (1, 1), case(torch.bfloat16, [2, 2, 2], 16), schedule)


def test_flags_that_nobody_cleared_are_a_race() -> None:
    a = case(torch.bfloat16, [2, 2, 2], 16) | {"flags": torch.full((4,), 100, dtype=torch.int32)}
    with pytest.raises(RaceError):
        launch(kernel_of(torch.bfloat16, (1, 1)), (1, 1), a, None)


@pytest.mark.parametrize("schedule", [None, 1])
def test_a_removed_barrier_is_found(schedule: int | None) -> None:
    with pytest.raises((RaceError, UninitialisedError)):
        launch(without(kernel_of(torch.bfloat16, (1, 1)), "bar"), (1, 1), case(torch.bfloat16, [2, 2], 16), schedule)


@pytest.mark.parametrize("name", ["weight", "h0", "from_input", "c", "output", "exchange", "flags", "gates"])
def test_a_buffer_that_is_too_small_is_found(name: str) -> None:
    a = case(torch.bfloat16, [2, 2], 16)
    a["flags"] = torch.full((4,), a["before"], dtype=torch.int32)
    a[name] = a[name].reshape(-1)[:-1].clone()
    with pytest.raises(OutOfBoundsError):
        launch(kernel_of(torch.bfloat16, (1, 1)), (1, 1), a, None)


def test_too_little_shared_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    together = Launcher.together
    monkeypatch.setattr(Launcher, "together", lambda self, code, blocks, threads, shared, *rest: together(
        self, code, blocks, threads, shared - 32, *rest))  # fmt: skip
    with pytest.raises(DeviceError):
        launch(kernel_of(torch.bfloat16, (1, 1)), (1, 1), case(torch.bfloat16, [8, 8], 16), None)


def test_a_block_that_is_not_resident_is_reported() -> None:
    """The others give up after some polls, say for whom they waited, and leave no numbers."""
    a = case(torch.bfloat16, [2, 2, 2], 16) | {"most_polls": 20}
    launch(kernel_of(torch.bfloat16, (1, 1)), (1, 1), a, None, absent=2)
    status = int(a["status"]) & (2**64 - 1)
    assert status >> 63 == 1
    assert (status >> 32 & 0x7FFFFFFF, status & 0xFFFFFFFF) == (2, header().awaited(5, 1))
    there = [unit for unit in range(16) if not 8 <= unit < 12]
    assert not a["output"][:2].isnan().any()
    assert a["output"][2:, there].isnan().all()
    assert a["h"][:, there].isnan().all()
    assert a["c"][:, there].isnan().all()


def test_every_kernel_has_been_run() -> None:
    names = set(kernels(ROOT / "csrc" / "cuda" / SOURCE))
    if len(launched & names) < 2 * len(TILES) - 1:
        pytest.skip("the other tests did not run")
    assert names <= launched
