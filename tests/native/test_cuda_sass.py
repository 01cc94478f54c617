"""The kernels as CUDA's assembler makes them: nothing on the stack, loads as wide as they are meant."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.native.ptx.compiler import ROOT, compiled, needs_nvcc

# Where PyPI's packages put them, nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm; one calls the other.
OF_PYPI = Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13" / "bin"
PATH = f"{OF_PYPI}:{os.environ['PATH']}"
TOOL = shutil.which("cuobjdump", path=PATH) if shutil.which("nvdisasm", path=PATH) else None
pytestmark = [needs_nvcc, pytest.mark.skipif(TOOL is None, reason="needs cuobjdump and nvdisasm (make test installs)")]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
MOST_REGISTERS = 96  # of a thread, double precision included
WITH_SUMS, OF_THEM = ("fused", "persistent"), 65536 // 256  # which hold a tile's sums: a block must fit
each_architecture = pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
MANGLED = {"float": "If", "double": "Id", "bfloat16": "IN3c108BFloat16E", "float16": "IN3c104HalfE"}
# Bytes that a thread of the cross-entropy reads and writes at once: four logits, or two doubles, and their gradients.
CROSS_ENTROPY = [("float", "LDG.E.128", "STG.E.128"), ("double", "LDG.E.128", "STG.E.128"),
                 ("bfloat16", "LDG.E.128", "STG.E.64"), ("float16", "LDG.E.128", "STG.E.64")]  # fmt: skip


def dump(source: Path, architecture: str, what: str) -> str:
    assert TOOL is not None
    command = [TOOL, what, str(compiled(source, "cubin", architecture))]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PATH": PATH}).stdout


def instructions(source: Path, architecture: str) -> dict[str, list[str]]:
    """Of each kernel, by name: "LDG.E.128", ..."""
    found: dict[str, list[str]] = {}
    for part in dump(source, architecture, "-sass").split("Function : ")[1:]:
        name, _, code = part.partition("\n")
        found[name] = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code, re.MULTILINE)
    return found


@each_architecture
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_on_the_stack(source: Path, architecture: str) -> None:
    """Neither spilled registers nor a copy of what a launch's parameters carry."""
    found = dump(source, architecture, "-res-usage")
    used = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", found)
    assert used
    for name, registers, stack, local in used:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(registers) <= (OF_THEM if any(word in name for word in WITH_SUMS) else MOST_REGISTERS), name
    for name, code in instructions(source, architecture).items():
        assert code, name
        assert not [one for one in code if one.startswith(("LDL", "STL"))], name


@each_architecture
@pytest.mark.parametrize(("dtype", "load", "store"), CROSS_ENTROPY)
def test_logits_are_read_sixteen_bytes_at_a_time(dtype: str, load: str, store: str, architecture: str) -> None:
    found = instructions(ROOT / "csrc" / "cuda" / "linear_cross_entropy_kernel.cu", architecture)
    (code,) = (code for name, code in found.items() if f"cross_entropy_kernel{MANGLED[dtype]}" in name)
    assert sum(one.startswith(load) for one in code) >= 2  # for the sum, for the gradient
    assert any(one.startswith(store) for one in code)


@each_architecture
@pytest.mark.parametrize(("dtype", "product"), [("bfloat16", "HMMA.16816.F32.BF16"), ("float16", "HMMA.16816.F32")])
@pytest.mark.parametrize(("units", "rows"), [(1, 1), (2, 4)])
def test_a_fused_step_uses_the_tensor_cores(units: int, rows: int, dtype: str, product: str, architecture: str) -> None:
    """For each 16 bytes of four gates' weights and of h two products; all of them loaded 16 bytes at a time."""
    found = instructions(ROOT / "csrc" / "cuda" / "lstm_fused_step.cu", architecture)
    name = f"fused_forward_step_kernel{MANGLED[dtype]}Li{units}ELi{rows}E"
    (code,) = (code for kernel, code in found.items() if name in kernel)
    assert code.count(product) >= 4 * units * rows
    assert sum(one.startswith("LDG.E.128") for one in code) >= 4 * units + rows


@each_architecture
@pytest.mark.parametrize("row_tiles", [1, 4])
def test_a_product_of_backward_uses_the_tensor_cores(row_tiles: int, architecture: str) -> None:
    found = instructions(ROOT / "csrc" / "cuda" / "lstm_fused_product.cu", architecture)
    name = f"fused_product_kernel{MANGLED['bfloat16']}Li{row_tiles}E"
    (code,) = (code for kernel, code in found.items() if name in kernel)
    assert code.count("HMMA.16816.F32.BF16") >= 8 * row_tiles
    assert sum(one.startswith("LDG.E.128") for one in code) >= 8 + row_tiles


@each_architecture
@pytest.mark.parametrize(("units", "rows", "ahead"), [(5, 4, 3), (3, 8, 1), (3, 1, 5)])
def test_a_persistent_launch_keeps_its_weights(units: int, rows: int, ahead: int, architecture: str) -> None:
    """Weights from shared memory, h from L2, 16 bytes at a time; flags with acquire and release."""
    found = instructions(ROOT / "csrc" / "cuda" / "lstm_persistent.cu", architecture)
    name = f"persistent_forward_kernel{MANGLED['bfloat16']}Li{units}ELi{rows}E"
    (code,) = (code for kernel, code in found.items() if name in kernel)
    assert code.count("HMMA.16816.F32.BF16") >= 2 * units * rows * ahead
    assert code.count("LDS.128") >= 2 * units * ahead
    assert code.count("LDG.E.128") >= rows * ahead
    assert not [one for one in code if one.startswith("LDG") and "CONSTANT" in one]  # h changes while it runs
    for what in ("LD.*STRONG.GPU", "CCTL.IVALL", "MEMBAR.*GPU", "ST.*STRONG.GPU"):
        assert any(re.match(what, one) for one in code), what


def test_what_is_on_the_stack_would_be_seen(tmp_path: Path) -> None:
    source = tmp_path / "spills.cu"
    source.write_text(
        "__global__ void on_the_stack(float* out, int at) {\n  float kept[64] = {};\n"
        "  for (int i = 0; i < 64; ++i) kept[i * at % 64] += out[i];\n  out[threadIdx.x] = kept[threadIdx.x % 64];\n}\n"
    )
    assert "STACK:0" not in dump(source, "sm_80", "-res-usage")
    ((_, code),) = instructions(source, "sm_80").items()
    assert [one for one in code if one.startswith("LDL")]
