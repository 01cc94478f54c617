"""What tests of the command line share: a task in a file, options of small models, what an error looks like."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.tiny import make_task

SIZES = ["--embedding-size", "12", "--hidden-size", "16", "--num-layers", "2", "--min-frequency", "1"]
SMALL = ["--batch-size", "8", "--bptt", "10"]


def write_task(path: Path, count: int = 60, seed: int = 0) -> Path:
    texts, labels = make_task(count, seed)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return path


def assert_one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert err.startswith("ulmfit-fast: error: ")
    assert message in err
