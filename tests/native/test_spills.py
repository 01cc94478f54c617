"""The innermost loops of the matrix multiply keep their vectors in registers: one that lives on the stack costs 5 %."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OBJECT = "csrc/cpu/gemm/panel_gemm.cpp.o"
# The largest tiles of each instruction set: rows and vectors.
TILES = {"portable": (6, 2), "avx2": (6, 2), "avx512": (6, 4), "avx512_bf16": (6, 4), "aarch64": (6, 4)}
# What GCC 12 spills where bfloat16 is converted as it is multiplied (two words a pair), and in SSE2's loop of the rest.
KNOWN = {("avx512", True): 14, ("portable", True): 25, ("portable", False): 2}
MULTIPLY_ADD = re.compile(r"\b(vfmadd\w+|vdpbf16ps|mulps|mulpd|addps|addpd|fmla)\b")
# Where a jump goes, and a vector on the stack: x86-64's, AArch64's.
JUMP = re.compile(r"(?:j\w+|b\.\w+|cbn?z\s+\w+,|tbn?z\s+\w+, #\d+,)\s+([0-9a-f]+)\b")
SPILL = re.compile(r"\(%r[sb]p.*%[xyz]mm|%[xyz]mm.*\(%r[sb]p|\b[qdv]\d+\b.*\[sp")


def find_object(isa: str) -> Path:
    folder, kernels, target = ("native", isa, "build")
    if isa == "aarch64":
        folder, kernels, target = ("native-test-aarch64", "portable", "native-test-aarch64")
    built = sorted(ROOT.glob(f"build/{folder}/CMakeFiles/kernels_{kernels}.dir/{OBJECT}"))
    if not built:
        pytest.skip(f"no object file of the {isa} kernels; `make {target}` leaves one in build/")
    return built[-1]


def functions(disassembly: str) -> dict[str, list[tuple[int, str]]]:
    """Each function's instructions: (address, text)."""
    result: dict[str, list[tuple[int, str]]] = {}
    current: list[tuple[int, str]] = []
    for line in disassembly.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            current = result.setdefault(header.group(1), [])
        elif instruction := re.match(r"\s+([0-9a-f]+):\s+(\S.*)$", line):
            current.append((int(instruction.group(1), 16), instruction.group(2)))
    return result


def innermost_loops(instructions: list[tuple[int, str]]) -> list[list[str]]:
    """Bodies that a backward jump repeats, multiply and add, and hold no other such body."""
    spans = []
    for address, text in instructions:
        jump = JUMP.match(text)
        if jump and int(jump.group(1), 16) <= address:
            spans.append((int(jump.group(1), 16), address))
    spans = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    bodies = [[text for at, text in instructions if first <= at <= last] for first, last in spans]
    return [body for body in bodies if sum(bool(MULTIPLY_ADD.search(text)) for text in body) >= 12]


def spills(body: list[str]) -> list[str]:
    return [text for text in body if SPILL.search(text)]


@pytest.mark.parametrize("isa", TILES)
def test_the_largest_tiles_spill_nothing(isa: str) -> None:
    tool = "aarch64-linux-gnu-objdump" if isa == "aarch64" else "objdump"
    objdump = shutil.which(tool)
    if objdump is None:
        pytest.skip(f"{tool} is not installed (binutils)")
    command = [objdump, "-dC", "--no-show-raw-insn", str(find_object(isa))]
    found = functions(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    rows, vectors = TILES[isa]
    tiles = {
        name: code for name, code in found.items()
        if re.search(rf"multiply_tile<(float|double|ulmfit_fast::Bfloat16), \d+, {rows}, {vectors}, 1>", name)
    }  # fmt: skip
    assert len(tiles) == 6, "three types, rows as they lie or turned round"
    for name, code in tiles.items():
        bodies = innermost_loops(code)
        assert bodies, f"{name}: no loop found"
        for body in bodies:
            assert len(spills(body)) <= KNOWN.get((isa, "Bfloat16" in name), 0), name


def test_a_spill_is_seen() -> None:
    body = ["vfmadd231ps %ymm1,%ymm2,%ymm3", "vmovaps 0x20(%rsp),%ymm4", "mov 0x8(%rsp),%rax"]
    assert spills(body) == ["vmovaps 0x20(%rsp),%ymm4"]
    body = ["fmla v0.4s, v1.4s, v2.4s", "str\tq8, [sp, #160]", "ldr\tx8, [sp, #160]"]
    assert spills(body) == ["str\tq8, [sp, #160]"]
