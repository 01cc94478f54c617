"""Bridge from pip to CMake: tells CMakeLists.txt where torch and Python are, and puts the module where pip wants it.

ULMFIT_FAST_CUDA=auto|0|1 chooses the CUDA backend (auto: when nvcc and a CUDA build of torch are there).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NEEDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
TORCH = next(need for need in NEEDS if need.startswith("torch"))  # "torch>=LOWEST,<ABOVE"


def torch_paths() -> tuple[list[str], Path, str | None]:
    """Include folders, library folder, and the version of CUDA that this torch was built with."""
    try:
        import torch
        from torch.utils.cpp_extension import include_paths
    except ImportError as error:
        raise SystemExit(
            "ulmfit_fast is built with torch's headers, and torch cannot be imported here. "
            f"pip install '{TORCH}', then: pip install --no-build-isolation ."
        ) from error
    lowest, installed, above = (
        tuple(int(part) for part in version.split(".")[:2])
        for version in (TORCH.split(">=")[1].split(",")[0], torch.__version__, TORCH.split("<")[1] + ".0")
    )
    if not lowest <= installed < above:
        raise SystemExit(
            f"ulmfit_fast is built with torch's headers, and those of torch {torch.__version__} do not fit. "
            f"pip install '{TORCH}', then: pip install --no-build-isolation ."
        )
    return include_paths(), Path(torch.__file__).parent / "lib", torch.version.cuda


def nvcc_version(nvcc: str) -> str:
    """As in "12.8"."""
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    if found is None:
        raise SystemExit(f"{nvcc} --version does not say which release it is:\n{said}")
    return found.group(1)


def with_cuda(torch_cuda: str | None) -> bool:
    """Whether to build the CUDA backend beside a torch that was built with this version of CUDA."""
    choice = os.environ.get("ULMFIT_FAST_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"ULMFIT_FAST_CUDA={choice}: expected auto, 0 or 1")
    nvcc = None if choice == "0" else shutil.which("nvcc")
    obstacle = None
    if nvcc is None:
        obstacle = "nvcc is not on PATH: install the CUDA toolkit or set it to 0"
    elif torch_cuda is None:
        obstacle = "the installed torch has no CUDA: install a CUDA build or set it to 0"
    elif (version := nvcc_version(nvcc)).split(".")[0] != torch_cuda.split(".")[0]:
        # One process would hold two CUDA runtimes, neither of which knows of the other's streams.
        obstacle = (
            f"{nvcc} is of CUDA {version} and the installed torch was built with CUDA {torch_cuda}: put the toolkit of "
            f"CUDA {torch_cuda.split('.')[0]} first on PATH, install a torch for CUDA {version.split('.')[0]}, "
            "or set it to 0"
        )
    if choice == "1" and obstacle is not None:
        raise SystemExit(f"ULMFIT_FAST_CUDA=1, but {obstacle}")
    chosen = choice != "0" and obstacle is None
    why = "" if chosen or choice == "0" else f"; {obstacle}"
    print(
        f"ulmfit_fast: CUDA backend {'on' if chosen else 'off'} (ULMFIT_FAST_CUDA={choice}, nvcc: {nvcc}{why})",
        file=sys.stderr,
    )
    return chosen


def cmake_arguments() -> list[str]:
    includes, libraries, torch_cuda = torch_paths()
    arguments = [
        f"-DTORCH_INCLUDE_DIRS={';'.join(includes)}",
        f"-DTORCH_LIBRARY_DIR={libraries}",
        f"-DPYTHON_INCLUDE_DIR={sysconfig.get_path('include')}",
        f"-DULMFIT_FAST_WITH_CUDA={'ON' if with_cuda(torch_cuda) else 'OFF'}",
    ]
    ninja = shutil.which("ninja")
    if ninja:  # named each time: a cached path may lie in a build environment that pip has deleted
        arguments += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    return arguments + shlex.split(os.environ.get("CMAKE_ARGS", ""))


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = ROOT / "build" / "native"
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cmake", "-S", str(ROOT), "-B", str(build), *cmake_arguments()], check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", str(os.cpu_count() or 1)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in (ROOT / "ulmfit_fast").glob("_C.cpython-*.so"):  # an older build's, which Python would prefer
            old.unlink()
        shutil.copy2(build / target.name, target)


if sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise SystemExit(
        "ulmfit_fast is not built for Python without a global lock (free-threaded, such as 3.14t), which has no "
        "limited API: use the ordinary build of this Python"
    )
if sys.argv[1:] == ["--print-cmake-arguments"]:
    print(shlex.join(cmake_arguments()))
else:
    setup(
        ext_modules=[Extension("ulmfit_fast._C", sources=[], py_limited_api=True)],
        cmdclass={"build_ext": CMakeBuild},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
