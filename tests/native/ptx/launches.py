"""Launches of the project's kernels on the machine, with the arguments that their headers declare.

Structs are given as nested lists of their members, in order; a tensor stands for the pointer to its memory.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.native.ptx.compiler import kernel
from tests.native.ptx.flags import Flagged
from tests.native.ptx.machine import Device
from tests.native.ptx.program import Program

CODES = {torch.float32: "f", torch.float64: "d", torch.bfloat16: "N3c108BFloat16E", torch.float16: "N3c104HalfE"}
DTYPES = list(CODES)
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
THREADS = 256  # of a block where each thread works alone
MOST_RUNS, MOST_GROUPS = 128, 32
launched: set[str] = set()  # every kernel that some test has run


def sums(dtype: torch.dtype) -> torch.dtype:
    """What kernels add up in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def number(value: float, dtype: torch.dtype) -> Any:
    """As a parameter in the dtype of sums."""
    return np.float64(value) if dtype == torch.float64 else np.float32(value)


def program(source: str, name: str, dtype: torch.dtype | None = None, most: int | None = None) -> Program:
    """The instance of a kernel template for elements of ``dtype``."""
    if dtype is None:
        return kernel(source, name)
    return kernel(source, f"{name}I{CODES[dtype]}{'' if most is None else f'Li{most}E'}E")


class Launcher:
    """A device whose buffers are the tensors that launches name."""

    def __init__(self, schedule: int | None = None) -> None:
        self.device = Device(schedule)
        self._addresses: dict[int, tuple[int, Tensor]] = {}

    def __call__(self, code: Program, threads: int, *parameters: Any) -> None:
        self.blocks(code, -(-threads // THREADS), THREADS, *parameters)

    def blocks(self, code: Program, blocks: int, threads: int, *parameters: Any) -> None:
        launched.add(code.name)
        self.device.launch(code, blocks, threads, self._packed(parameters, b""))

    def together(
        self, code: Program, blocks: int, threads: int, shared_bytes: int, *parameters: Any, absent: int | None = None
    ) -> list[Flagged]:
        """A launch whose blocks wait for each other."""
        launched.add(code.name)
        packed = self._packed(parameters, b"")
        return self.device.launch(
            code, blocks, threads, packed, shared_bytes=shared_bytes, together=True, absent=absent
        )

    def _packed(self, values: Sequence[Any], so_far: bytes) -> bytes:
        for value in values:
            if isinstance(value, list):
                so_far = self._packed(value, so_far + bytes(-len(so_far) % 8))
                so_far += bytes(-len(so_far) % 8)
                continue
            raw = self._bytes(value)
            so_far += bytes(-len(so_far) % len(raw)) + raw
        return so_far

    def _bytes(self, value: Any) -> bytes:
        match value:
            case None:
                return struct.pack("<q", 0)
            case bool():
                return struct.pack("<?", value)
            case int():
                return struct.pack("<q", value)
            case np.generic():
                return value.tobytes()
            case Tensor():
                return struct.pack("<q", self._address(value))
        raise TypeError(type(value))

    def _address(self, tensor: Tensor) -> int:
        if id(tensor) not in self._addresses:
            self._addresses[id(tensor)] = self.device.buffer(f"buffer {len(self._addresses)}", tensor), tensor
        return self._addresses[id(tensor)][0]


def packed_runs(sizes: Sequence[int], first: int = 0, count: int | None = None) -> list[Any]:
    """The struct PackedRuns of some of a packed batch's runs of steps with equally many rows."""
    runs: list[list[int]] = []  # first row, rows, end step
    row = 0
    for step, rows in enumerate(sizes):
        if not runs or runs[-1][1] != rows:
            runs.append([row, rows, step])
        runs[-1][2] = step + 1
        row += rows
    begins = [*(run[0] for run in runs), row]
    last = len(runs) if count is None else first + count
    some = runs[first:last] + [[0, 0, 0]] * (MOST_RUNS - (last - first))
    before = runs[first - 1][1] if first > 0 else 0
    after = runs[last][1] if last < len(runs) else 0
    return [begins[first], begins[last], before, after, np.int32(last - first), *some]


def step_groups(groups: Sequence[Sequence[int]], end: int, most: int) -> list[Any]:
    """The struct StepGroups."""
    return [end, np.int32(len(groups)), *map(list, groups), *([[0] * 9] * (most - len(groups)))]


def assert_near(actual: Tensor, expected: Tensor, dtype: torch.dtype, factor: float = 1.0) -> None:
    tolerance = factor * TOLERANCES[dtype]
    difference = (actual.double() - expected.double()).abs()
    assert (difference <= tolerance * (1 + expected.double().abs())).all(), difference.max()
