"""Peak memory of one language-model training step: `python -m benchmarks.memory_language_model ours|fastai DTYPE`.

The whole process's, libraries, parameters, gradients and the optimizer's state included, less what it had before the
model was made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.resident_memory import resident_megabytes


def peak_of_a_step(name: str, dtype: str) -> float | None:
    """In MB, in a process of its own; None where Linux's /proc is missing."""
    if not Path("/proc/self/status").exists():
        return None
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory_language_model", name, dtype],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(finished.stdout)


def main() -> None:
    from benchmarks.language_models import IMPLEMENTATIONS, Sizes

    name, dtype = sys.argv[1:]
    make = IMPLEMENTATIONS[name]
    make(Sizes(50, 8, 12, 3, 2, 3), dtype == "bfloat16")()  # libraries loaded, threads started
    before = resident_megabytes("VmRSS")
    step = make(Sizes(), dtype == "bfloat16")
    for _ in range(2):
        step()
    print(resident_megabytes("VmHWM") - before)


if __name__ == "__main__":
    main()
