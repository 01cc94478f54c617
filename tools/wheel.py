"""The wheel for every supported torch and Python, built and repaired: `make wheel`, and cibuildwheel.

    python tools/wheel.py build FOLDER         build it with the environment's torch, repair it into FOLDER
    python tools/wheel.py repair WHEEL FOLDER  what cibuildwheel does with the one that it built

Repairing (auditwheel) names the oldest glibc that the wheel runs on, in its file name, and refuses what other machines
lack. On a new system that glibc is new, too: wheels for older ones are built in a manylinux container.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# `import torch` has loaded these before the native module is.
TORCHS_OWN = ("libtorch*", "libc10*")
NAME = re.compile(r"ulmfit_fast-[^-]+-cp311-abi3-manylinux_\w+\.whl")
MODULE = "ulmfit_fast/_C.abi3.so"


class WheelError(Exception):
    """What is wrong, in one line."""


def run(*command: str | Path) -> None:
    """With the tools of this Python's environment, activated or not."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    variables = os.environ | {"PATH": path, "ULMFIT_FAST_CUDA": "0"}
    failed = f"this failed: {' '.join(map(str, command))}"
    try:
        status = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
    except FileNotFoundError:
        raise WheelError(f"{failed} ({command[0]} is not installed; `make wheel` brings it)") from None
    if status:
        raise WheelError(failed)


def repair(wheel: Path, folder: Path) -> None:
    excluded = [option for name in TORCHS_OWN for option in ("--exclude", name)]
    run("auditwheel", "repair", *excluded, "--wheel-dir", folder, wheel)


def check(wheel: Path) -> None:
    """One file for all, with one native module and no library of its own beside it."""
    if not NAME.fullmatch(wheel.name):
        raise WheelError(
            f"{wheel.name} is no wheel for Python 3.11 and later (cp311-abi3) on other machines (manylinux)"
        )
    with zipfile.ZipFile(wheel) as archive:
        native = [name for name in archive.namelist() if ".so" in name]
    if native != [MODULE]:
        raise WheelError(f"{wheel.name} holds {native}, expected {MODULE} alone")


def only_wheel(folder: Path) -> Path:
    found = list(folder.glob("*.whl"))
    if len(found) != 1:
        raise WheelError(f"{len(found)} wheels in {folder}, expected one")
    return found[0]


def build(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    with tempfile.TemporaryDirectory() as built:
        options = ("--no-build-isolation", "--no-deps", "--quiet", "--wheel-dir", built)
        run(sys.executable, "-m", "pip", "wheel", *options, ".")
        repair(only_wheel(Path(built)), folder)
    check(only_wheel(folder))
    return only_wheel(folder)


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["build", folder]:
                print(build(Path(folder)))
            case ["repair", wheel, folder]:
                repair(Path(wheel), Path(folder))
                check(only_wheel(Path(folder)))
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except WheelError as error:
        print(f"wheel: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
