"""The ops' tests again, with each build of the kernels that this processor can run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ulmfit_fast import ops
from ulmfit_fast._C import measure_fma_peak

HERE = Path(__file__).parent
OPS = ("lstm", "lstm_pool", "lstm_pack", "linear_cross_entropy", "embedding", "locked_dropout", "dropconnect_mask")


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "avx512_bf16"])
def test_ops_with_a_forced_instruction_set(isa: str) -> None:
    if isa == ops.build_info()["isa"]:
        pytest.skip("the other tests ran with it")
    environment = os.environ | {"ULMFIT_FAST_ISA": isa}
    probe = subprocess.run(
        [sys.executable, "-c", "from ulmfit_fast import ops; ops.build_info()"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "lacks it" in probe.stderr:
        pytest.skip(f"this processor has no {isa}")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *(HERE / f"test_{op}.py" for op in OPS)],
        cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-3000:]
    assert " passed" in finished.stdout


def test_fma_probe_measures_what_a_processor_can_do() -> None:
    """A loop that the compiler saw through would report petaflops.

    A core does at most 128 operations a cycle in bfloat16 (two instructions of 32 multiply-adds), and 6 GHz.
    """
    for dtype in ("float32", "bfloat16"):
        assert 1e8 < measure_fma_peak(dtype, 0.02) < 128 * 6e9 * (os.cpu_count() or 1)
    with pytest.raises(ValueError, match="dtype must be float32 or bfloat16, got int8"):
        measure_fma_peak("int8")
