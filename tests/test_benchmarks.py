"""The benchmarks still run (at sizes that measure nothing)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_benchmarks_run() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "benchmarks", "--benchmark-disable"],
        cwd=Path(__file__).parents[1], env=os.environ | {"ULMFIT_FAST_BENCH": "smoke"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-2000:]
    assert "24 passed" in finished.stdout
