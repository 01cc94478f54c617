"""The machine that runs PTX finds what is planted: in the project's kernels, and in kernels written for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.native.ptx.arithmetic import compute
from tests.native.ptx.compiler import compiled, needs_nvcc
from tests.native.ptx.launches import Launcher, number, program
from tests.native.ptx.machine import DeviceAssertionError, DivergenceError
from tests.native.ptx.memory import DeviceError, MisalignedError, OutOfBoundsError, RaceError, UninitialisedError
from tests.native.ptx.program import Program, parse

pytestmark = needs_nvcc
each_schedule = pytest.mark.parametrize("schedule", [None, 0, 1, 2])


def without(code: Program, name: str) -> Program:
    """The program without its instructions of that name."""
    kept = [index for index, instruction in enumerate(code.instructions) if instruction.name != name]
    assert len(kept) < len(code.instructions)
    labels = {label: sum(index < at for index in kept) for label, at in code.labels.items()}
    return dataclasses.replace(code, instructions=[code.instructions[index] for index in kept], labels=labels)


def cross_entropy(code: Program, schedule: int | None, classes: int = 600, **changes: Any) -> torch.Tensor:
    a: dict[str, Any] = {
        "logits": torch.randn(2, classes), "bias": torch.randn(classes), "target": torch.tensor([3, 1]),
        "weight": torch.ones(2), "loss": torch.zeros(2), "gradient": torch.zeros(2, classes),
    } | changes  # fmt: skip
    Launcher(schedule).blocks(code, 2, 512, [2, classes, -100, number(0, torch.float32), *a.values()])
    return a["loss"]


CROSS_ENTROPY = ("linear_cross_entropy_kernel.cu", "cross_entropy_kernel", torch.float32)


@each_schedule
def test_the_kernel_itself_is_clean(schedule: int | None) -> None:
    cross_entropy(program(*CROSS_ENTROPY), schedule)


@each_schedule
def test_a_removed_barrier_is_found(schedule: int | None) -> None:
    """Whatever the order of threads, not only in an unlucky one."""
    with pytest.raises((RaceError, UninitialisedError)):
        cross_entropy(without(program(*CROSS_ENTROPY), "bar"), schedule)


@each_schedule
@pytest.mark.parametrize("name", ["logits", "bias", "gradient", "loss", "target"])
def test_a_buffer_that_is_too_small_is_found(name: str, schedule: int | None) -> None:
    of = torch.int64 if name == "target" else torch.float32
    small = torch.zeros({"bias": 599, "loss": 1, "target": 1}.get(name, 2 * 600 - 1), dtype=of)
    with pytest.raises(OutOfBoundsError, match=r"buffer \d"):
        cross_entropy(program(*CROSS_ENTROPY), schedule, **{name: small})


def test_the_kernel_s_own_assertion_is_heard() -> None:
    with pytest.raises(DeviceAssertionError):
        cross_entropy(program(*CROSS_ENTROPY), None, target=torch.tensor([0, 600]))


SOURCE = r"""
extern "C" {
__global__ void neighbours(float* out, const float* in) {
  __shared__ float part[64];
  part[threadIdx.x] = in[threadIdx.x];
  BARRIER
  out[threadIdx.x] = part[63 - threadIdx.x];
}
__global__ void divergent(float* out, int limit) {
  if (static_cast<int>(threadIdx.x) < limit) __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void ended(float* out) {
  if (threadIdx.x >= 48) return;
  out[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, out[threadIdx.x], 1);
}
__global__ void wide(float4* out, const float* in) {
  out[threadIdx.x] = *reinterpret_cast<const float4*>(in + threadIdx.x);
}
__global__ void counter(int* out) { out[0] = out[0] + 1; }
__global__ void last_writer(int* out) { if (threadIdx.x == blockIdx.x) out[0] = 7; }
__global__ void read_then_write(int* data, int* out) {
  out[threadIdx.x] = data[0];
  if (threadIdx.x == 40) data[0] = 3;
}
__global__ void unwritten(float* out) {
  __shared__ float part[64];
  if (threadIdx.x < 32) part[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = part[threadIdx.x];
}
__global__ void sums(float* out, const float* in) {
  float value = in[threadIdx.x];
  for (int step = 16; step > 0; step /= 2) value += __shfl_down_sync(0xFFFFFFFFu, value, step);
  out[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, value, 0) + __shfl_up_sync(0xFFFFFFFFu, in[threadIdx.x], 1);
}
}
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Program]:
    folder, found = tmp_path_factory.mktemp("planted"), {}
    for name, barrier in (("clean", "__syncthreads();"), ("racy", "")):
        source = Path(folder) / f"{name}.cu"
        source.write_text(SOURCE.replace("BARRIER", barrier))
        ptx = compiled(source)
        found |= {f"{name} {kernel}": code for kernel, code in parse(ptx.read_text()).items()}
        ptx.unlink()  # its folder's name is another each time
    return found


OTHERS = [("ended", DivergenceError), ("unwritten", UninitialisedError), ("wide", MisalignedError)]


def run(code: Program, schedule: int | None, *parameters: Any, blocks: int = 1) -> None:
    Launcher(schedule).blocks(code, blocks, 64, *parameters)


@each_schedule
def test_a_planted_race(planted: dict[str, Program], schedule: int | None) -> None:
    out, x = torch.zeros(64), torch.randn(64)
    run(planted["clean neighbours"], schedule, out, x)
    assert torch.equal(out, x.flip(0))
    with pytest.raises((RaceError, UninitialisedError)):
        run(planted["racy neighbours"], schedule, out, x)


@each_schedule
@pytest.mark.parametrize("name", ["counter", "last_writer", "read_then_write"])
def test_a_planted_race_in_the_device_s_memory(planted: dict[str, Program], name: str, schedule: int | None) -> None:
    data, out = torch.zeros(1, dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    more = (out,) if name == "read_then_write" else ()
    with pytest.raises(RaceError):
        run(planted[f"clean {name}"], schedule, data, *more, blocks=2 if name == "last_writer" else 1)


@each_schedule
@pytest.mark.parametrize("size", [63, 1])
def test_a_planted_read_out_of_bounds(planted: dict[str, Program], size: int, schedule: int | None) -> None:
    with pytest.raises(OutOfBoundsError):
        run(planted["clean neighbours"], schedule, torch.zeros(64), torch.randn(size))


@each_schedule
def test_a_planted_barrier_in_a_branch(planted: dict[str, Program], schedule: int | None) -> None:
    limit = torch.tensor(64, dtype=torch.int32).numpy()
    run(planted["clean divergent"], schedule, torch.zeros(64), limit[()])
    with pytest.raises(DivergenceError, match="not every thread"):
        run(planted["clean divergent"], schedule, torch.zeros(64), (limit - 1)[()])


@each_schedule
@pytest.mark.parametrize(("name", "error"), OTHERS)
def test_other_planted_faults(
    planted: dict[str, Program], name: str, error: type[DeviceError], schedule: int | None
) -> None:
    given = (torch.zeros(64 * 4), torch.zeros(100)) if name == "wide" else (torch.zeros(64),)
    with pytest.raises(error):
        run(planted[f"clean {name}"], schedule, *given)


@each_schedule
def test_shuffles(planted: dict[str, Program], schedule: int | None) -> None:
    x, out = torch.arange(64.0), torch.zeros(64)
    run(planted["clean sums"], schedule, out, x)
    before = torch.where(torch.arange(64) % 32 == 0, x, x - 1)
    assert torch.equal(out, x.view(2, 32).sum(1).repeat_interleave(32) + before)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("prmt", (0x11223344, 0xAABBCCDD, 0x5410), 0xCCDD3344),  # the lower halves of both
        ("prmt", (0x11223344, 0xAABBCCDD, 0x7632), 0xAABB1122),
        ("prmt", (0x11223344, 0xAABBCCDD, 0x00F8), 0x4444FF00),  # signs of the first byte and of the last
        ("bfi", (0xAB, 0x11223344, 8, 4), 0x11223B44),
    ],
)
def test_bits_and_bytes(name: str, values: tuple[int, ...], expected: int) -> None:
    assert compute(name, ("b32",), [np.array([value], np.uint64) for value in values]).tolist() == [expected]
