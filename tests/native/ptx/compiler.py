"""CUDA sources to PTX by nvcc, kept until they change. Tests that need it are skipped where there is no nvcc."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.native.ptx.program import Program, parse

ROOT = Path(__file__).parents[3]
NVCC = shutil.which(os.environ.get("NVCC", "nvcc"))
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="needs nvcc, of CUDA's toolkit or of PyPI (NVCC=path)")


def arguments() -> list[str]:
    """What the build gives nvcc, but for the architecture."""
    from torch.utils.cpp_extension import include_paths

    cmake = (ROOT / "CMakeLists.txt").read_text()
    stable = re.search(r"set\(STABLE_TORCH (.*)\)", cmake)
    assert stable is not None
    includes = [part for path in include_paths() for part in ("-isystem", path)]
    return ["-std=c++20", "-O3", "--expt-relaxed-constexpr", f"-D{stable.group(1)}",
            "-DUSE_CUDA", *includes]  # fmt: skip


def compiled(source: Path, kind: str = "ptx", architecture: str = "sm_80") -> Path:
    """``source`` compiled to PTX or to a cubin; from an earlier run where nothing has changed."""
    assert NVCC is not None
    command = [NVCC, *arguments(), f"-arch={architecture}", f"-{kind}"]
    version = subprocess.run([NVCC, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(version + " ".join(command).encode() + str(source).encode())
    for file in sorted({*(ROOT / "csrc").rglob("*.h"), *(ROOT / "csrc").rglob("*.cuh"), source}):
        key.update(file.read_bytes())
    folder = ROOT / "build" / "ptx"
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / f"{source.stem}-{key.hexdigest()[:16]}.{kind}"
    if not result.exists():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = Path(temporary) / result.name
            subprocess.run([*command, str(source), "-o", str(new)], check=True, cwd=ROOT)
            new.replace(result)
    return result


@functools.cache
def kernels(source: Path) -> dict[str, Program]:
    """The kernels of a CUDA source."""
    return parse(compiled(source).read_text())


def kernel(source: str | Path, *parts: str) -> Program:
    """The one kernel of ``csrc/cuda/<source>`` whose name has all the parts."""
    path = ROOT / "csrc" / "cuda" / source if isinstance(source, str) else source
    found = [program for name, program in kernels(path).items() if all(part in name for part in parts)]
    assert len(found) == 1, [program.name for program in found]
    return found[0]
