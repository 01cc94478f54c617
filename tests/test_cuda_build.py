"""What the build says where CUDA's parts do not fit together, and which GPUs it compiles for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ROOT / "cmake" / "cuda_architectures.cmake"
if not ARCHITECTURES.exists():
    pytest.skip("the sources' cmake/ is not here", allow_module_level=True)


def choose(tmp_path: Path, choice: str, torch_cuda: str | None, nvcc: str | None) -> subprocess.CompletedProcess[str]:
    """setup.py's choice beside such a torch and an nvcc of that release (None: none)."""
    if nvcc is not None:
        tool = tmp_path / "nvcc"
        tool.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {nvcc}, V{nvcc}.99'\n")
        tool.chmod(0o755)
    code = (
        "import sys; sys.argv = ['setup.py', '--print-cmake-arguments']\n"
        f"import torch; torch.version.cuda = {torch_cuda!r}\n"
        f"exec(compile(open({str(ROOT / 'setup.py')!r}).read(), {str(ROOT / 'setup.py')!r}, 'exec'))"
    )
    environment = os.environ | {"ULMFIT_FAST_CUDA": choice, "PATH": f"{tmp_path}"}
    return subprocess.run(
        [sys.executable, "-c", "__file__ = " + repr(str(ROOT / "setup.py")) + "\n" + code],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("torch_cuda", "nvcc", "message"),
    [
        (
            "12.8",
            "13.0",
            "is of CUDA 13.0 and the installed torch was built with CUDA 12.8: put the",
        ),
        (None, "13.0", "the installed torch has no CUDA"),
        ("13.0", None, "nvcc is not on PATH"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, torch_cuda: str | None, nvcc: str | None, message: str) -> None:
    asked = choose(tmp_path, "1", torch_cuda, nvcc)
    assert asked.returncode == 1
    assert asked.stderr.strip().splitlines()[-1].startswith("ULMFIT_FAST_CUDA=1, but ")
    assert message in asked.stderr
    left_out = choose(tmp_path, "auto", torch_cuda, nvcc)  # the same, said but no error
    assert left_out.returncode == 0
    assert "-DULMFIT_FAST_WITH_CUDA=OFF" in left_out.stdout
    assert message in left_out.stderr


@pytest.mark.parametrize("choice", ["auto", "1"])
def test_what_fits(tmp_path: Path, choice: str) -> None:
    """Releases of one major version do."""
    chosen = choose(tmp_path, choice, "13.2", "13.0")
    assert chosen.returncode == 0, chosen.stderr
    assert "-DULMFIT_FAST_WITH_CUDA=ON" in chosen.stdout


def listed(version: str, given: str = "") -> subprocess.CompletedProcess[str]:
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        pytest.skip("needs cmake")
    script = ROOT / "build" / "architectures.cmake"
    script.parent.mkdir(exist_ok=True)
    script.write_text(
        f'include("{ARCHITECTURES}")\nmessage("${{CUDA_ARCHITECTURES}}|${{CUDA_ARCHITECTURES_LISTED}}")\n'
    )
    options = [f"-DCMAKE_CUDA_COMPILER_VERSION={version}", f"-DULMFIT_FAST_CUDA_ARCHITECTURES={given}"]
    return subprocess.run([cmake, *options, "-P", str(script)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("version", "given", "expected"),
    [
        ("13.0.88", "", "75-real;80-real;90-real;100|75, 80, 90, 100"),
        ("12.8.61", "", "75-real;80-real;90-real;100|75, 80, 90, 100"),
        ("12.6.20", "", "75-real;80-real;90|75, 80, 90"),
        ("13.0.88", "89-real;120", "89-real;120|89, 120"),
        ("13.0.88", "native", "native|native"),
    ],
)
def test_architectures(version: str, given: str, expected: str) -> None:
    """10.0 is left out where nvcc does not know it."""
    assert listed(version, given).stderr.strip() == expected


@pytest.mark.parametrize("given", ["70", "61-real;80"])
def test_gpus_that_are_too_old_are_named(given: str) -> None:
    refused = listed("12.6.20", given)
    assert refused.returncode != 0
    assert "7.5 are not supported" in " ".join(refused.stderr.split())
