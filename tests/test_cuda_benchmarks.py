"""The GPU's benchmarks run, at sizes that measure nothing, on a CPU; and their flags are what their tables say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cuda_timing import flags


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [("cuda_layers", 4, ["ours", "nn.LSTM", "nn.LSTM, default flags"]), ("cuda_steps", 6, ["ours", "torch"])],
)
def test_they_run(tmp_path: Path, name: str, rows: int, columns: list[str]) -> None:
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--device", "cpu", "--output", str(results)]
    finished = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    measured = json.loads(results.read_text())["rows"]
    assert len(measured) == rows == finished.stdout.count("\n") - 2
    for row in measured:
        assert set(columns) <= set(row["ms"])
        assert all(value > 0 for value in row["ms"].values())
    if name == "cuda_layers":  # a graph holds the lengths of its capture: dense batches alone
        assert [row["packed"] for row in measured if "ours, graph" in row["ms"]] == [False, False]


def test_flags() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32
    with flags(strict=False):
        assert cudnn.allow_tf32
        assert not matmul.allow_tf32
        assert matmul.allow_bf16_reduced_precision_reduction
        with flags(strict=True):
            assert not cudnn.allow_tf32
            assert not matmul.allow_bf16_reduced_precision_reduction
        assert cudnn.allow_tf32
    assert cudnn.allow_tf32 == before
