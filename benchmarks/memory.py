"""Peak memory of one layer on one batch, in a process of its own: `python -m benchmarks.memory NAME CASE_AS_JSON`."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.layers import Case, Workload, make_layer
from benchmarks.resident_memory import resident_megabytes


def peak_megabytes(name: str, case: Case) -> float | None:
    """Memory that two runs need beyond the layer's parameters and its input; None where Linux's /proc is missing."""
    if not Path("/proc/self/status").exists():
        return None
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", name, json.dumps(dataclasses.asdict(case))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(finished.stdout)


def main() -> None:
    name, fields = sys.argv[1], json.loads(sys.argv[2])
    case = Case(**fields | {"lengths": tuple(fields["lengths"])})
    tiny = dataclasses.replace(case, input_size=8, hidden_size=8, lengths=(2, 2))
    Workload(tiny).run(make_layer(name, tiny))  # libraries loaded, threads started
    layer, workload = make_layer(name, case), Workload(case)
    before = resident_megabytes("VmRSS")
    for _ in range(2):
        workload.run(layer)
    print(resident_megabytes("VmHWM") - before)


if __name__ == "__main__":
    main()
