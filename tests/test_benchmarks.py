"""The benchmarks still run (at sizes that measure nothing), and their results become a table and a chart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.conftest import DTYPES


def test_benchmarks_and_their_report(tmp_path: Path) -> None:
    pytest.importorskip("fastai", reason="fastai is not installed")
    root, results = Path(__file__).parents[1], tmp_path / "results.json"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = kept | {"ULMFIT_FAST_BENCH": "smoke"}
    for command in (
        ["pytest", "-q", "benchmarks", "--benchmark-only", f"--benchmark-json={results}"],
        ["benchmarks.report", str(results)],
    ):
        finished = subprocess.run(
            [sys.executable, "-m", *command], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-2000:]
    report = results.with_suffix(".md").read_text()
    small = 2  # threads
    assert report.count("| training |") == report.count("| inference |") == 5 * len(DTYPES) + small
    assert report.count("fastai, float32 |") == 4
    assert report.count("Where our") == len(DTYPES)
    assert "Relative error of the gradients with that threshold: input" in report
    for dtype in DTYPES:
        assert report.count(f"nn.LSTM under checkpoint, {dtype}: ") == 1
        assert f"packed {dtype} training: time of ours on a dense batch" in report
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
