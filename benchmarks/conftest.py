"""How a row is measured: rounds of ours beside every alternative, and the machine's limit in each round."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.layers import OURS, REFERENCE, TORCH, Case, Workload, make_layer
from benchmarks.memory import peak_megabytes
from ulmfit_fast import ops
from ulmfit_fast._C import measure_fma_peak

SMOKE = os.environ.get("ULMFIT_FAST_BENCH") == "smoke"
PROBE_SECONDS = 0.001 if SMOKE else 0.05
# Without bfloat16 instructions torch's products take 30 to 500 times float32's time; autocast's LSTM fails.
DTYPES = ("float32", "bfloat16") if ops.build_info()["isa"] == "avx512_bf16" else ("float32",)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    match = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return match.group(1) if match else platform.processor()


@pytest.fixture
def compare(benchmark: Any) -> Callable[..., None]:
    """Times our layer; before each of its rounds the FMA probe and each alternative, once."""

    def run(case: Case, others: dict[str, Case], rounds: int) -> None:
        """others: implementation -> the case it runs (the same but for dense against packed)."""
        names = list(others)
        layers = {name: make_layer(name.partition("/")[0], others[name]) for name in names}
        workloads = {name: Workload(others[name]) for name in names}
        ours, workload = make_layer(OURS, case), Workload(case)
        seconds: dict[str, list[float]] = {name: [] for name in names}
        peaks: list[float] = []

        def before_each_round() -> None:
            peaks.append(measure_fma_peak(case.dtype, PROBE_SECONDS) / 1e9)
            for name in names:
                if name == REFERENCE and len(seconds[name]) == 2:
                    continue  # readable, not fast: two rounds tell enough
                start = time.perf_counter()
                workloads[name].run(layers[name])
                seconds[name].append(time.perf_counter() - start)

        if not SMOKE:  # warm
            workload.run(ours)
            for name in names:
                workloads[name].run(layers[name])
        benchmark.pedantic(workload.run, args=(ours,), setup=before_each_round, rounds=1 if SMOKE else rounds)
        stats = getattr(benchmark, "stats", None)
        own = list(stats.stats.data) if stats is not None else [1.0] * len(peaks)
        benchmark.extra_info.update(_facts(case) | _figures(case, others, own, seconds, peaks))
        if TORCH in others and not SMOKE:
            for name in (OURS, TORCH):
                benchmark.extra_info[f"peak MB, {name}"] = peak_megabytes(name, case)

    return run


def _facts(case: Case) -> dict[str, Any]:
    return {
        "input": case.input_size, "hidden": case.hidden_size, "batch": len(case.lengths), "steps": case.lengths[0],
        "rows": sum(case.lengths), "packed": case.packed, "dtype": case.dtype,
        "mode": "training" if case.training else "inference", "gflop": case.gflop,
    } | machine_facts()  # fmt: skip


def machine_facts() -> dict[str, Any]:
    return {
        "torch": torch.__version__, "threads": torch.get_num_threads(), "cpu": _cpu_model(),
        "isa": ops.build_info()["isa"], "onednn_isa": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
    }  # fmt: skip


def _figures(
    case: Case, others: dict[str, Case], own: list[float], seconds: dict[str, list[float]], peaks: list[float]
) -> dict[str, Any]:
    rate, peak = case.gflop / statistics.median(own), statistics.median(peaks)
    figures: dict[str, Any] = {"GF/s": rate, "peak GF/s": peak, "share of peak": rate / peak}
    for name, times in seconds.items():
        # Per unit of work, as a dense batch beside a packed one has a few rows more or less.
        scale = case.gflop / others[name].gflop
        ratios = sorted(scale * theirs / ours for theirs, ours in zip(times, own, strict=False))
        figures[f"GF/s, {name}"] = others[name].gflop / statistics.median(times)
        figures[f"ratio, {name}"] = statistics.median(ratios)
        figures[f"ratios, {name}"] = ratios
    return figures
