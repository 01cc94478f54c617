"""What attention pooling takes on a very long document, beside concat pooling."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEAK = """
import sys
import torch
from ulmfit_fast import AWDLSTM, AWDLSTMConfig, TextClassifier
from ulmfit_fast.text.batching import pack_documents

def peak_mb():
    status = open("/proc/self/status").read()
    peak, of_files = (int(status.split(name)[1].split()[0]) for name in ("VmHWM:", "RssFile:"))
    return (peak - of_files) / 1024

torch.set_num_threads(1)
options = {} if sys.argv[1] == "concat" else {"pooling": "attention", "attention_heads": int(sys.argv[1])}
model = TextClassifier(AWDLSTM(AWDLSTMConfig(100, 64, 96, 1)), 2, memory="recompute", **options).train()
model.head.eval()
for tokens in (5_000, int(sys.argv[2])):  # the first run loads what torch loads late
    model(pack_documents([torch.randint(0, 100, (tokens,))])).sum().backward()
    print(peak_mb())
"""


def peaks(pooling: str) -> list[float]:
    """Peak memory in MB of a process after a training step with 5,000 tokens, and after one with 100,000.

    Without pages of libraries, of which more or fewer are resident from one process to the next. Medians of three.
    """
    found = []
    for _ in range(3):
        ended = subprocess.run(
            [sys.executable, "-c", PEAK, pooling, "100000"], capture_output=True, text=True, check=True, timeout=300,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        found.append([float(line) for line in ended.stdout.split()])
    return [statistics.median(each) for each in zip(*found, strict=True)]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/status is Linux's")
def test_a_document_of_100_000_tokens_takes_what_concat_pooling_takes() -> None:
    """Its states alone would be 26 MB, their weighted copies in float64 51 MB a head.

    With its libraries the process has 300 MB, of which 15 MB are 5 %.
    """
    concat, attention = peaks("concat"), peaks("3")
    assert attention[1] < concat[1] + 15
    assert attention[1] - attention[0] < concat[1] - concat[0] + 8
