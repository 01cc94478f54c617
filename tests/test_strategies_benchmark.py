"""The study of strategies, tiny: each row is run once, the table has the mean of its lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy.strategies import ROWS, main
from tests.tiny import PRETRAIN, make_task
from tests.training.any_models import minilm_folder
from ulmfit_fast import pretrain_lm
from ulmfit_fast.training.schedules import SCHEDULES

FILES = {
    "cola": ["train", "dev_in_domain", "dev_out_of_domain"],
    "chnsenticorp": ["train", "dev", "test"],
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, files in FILES.items():
        (tmp_path / name).mkdir()
        for seed, file in enumerate(files):
            texts, labels = make_task(40, seed)
            pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / name / f"{file}.csv.xz", index=False)
    monkeypatch.setenv("ULMFIT_FAST_DATA", str(tmp_path))
    return tmp_path


def check(
    results: Path, data_set: str, rows: list[str], metrics: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.loads(line) for line in (results / f"{data_set}.jsonl").read_text().splitlines()]
    assert [(line["draw"], line["settings"]["row"]) for line in lines] == [(s, row) for s in range(2) for row in rows]
    assert all(list(line["scores"]) == sorted(metrics) for line in lines)  # as JSON has them
    assert main(["report", "--results", str(results)]) == 0
    table = (results / "README.md").read_text().splitlines()
    for row in rows:
        (found,) = [line for line in table if line.startswith(f"| {row} |")]
        cells = [cell.strip() for cell in found.split("|")[2:-1]]
        for metric, cell in zip(sorted(metrics), cells, strict=True):
            values = [line["scores"][metric] for line in lines if line["settings"]["row"] == row]
            assert cell == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f} (2)"
    capsys.readouterr()


def test_minilm_on_cola(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    minilm_folder()
    rows = ["base", "slanted triangular 0.1", "dis_blocks 5", "frz_blocks 3"]
    command = [
        "cola",
        "--texts",
        "8",
        "--epochs",
        "1",
        "--seeds",
        "2",
        "--results",
        str(tmp_path / "r"),
        "--rows",
        *rows,
    ]
    assert main(command) == 0
    check(tmp_path / "r", "cola", rows, ["MCC, dev", "MCC, dev in domain", "MCC, dev out of domain"], capsys)
    assert main(command) == 0
    assert capsys.readouterr().out.count(": known") == 8


def test_ours_on_chnsenticorp(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain_lm(make_task(200, 2)[0], PRETRAIN, output=tmp_path / "lm", progress=False)
    command = ["chnsenticorp", "--lm", str(tmp_path / "lm"), "--epochs", "1", "--seeds", "2", "--results"]
    assert main([*command, str(tmp_path / "r")]) == 0
    check(tmp_path / "r", "chnsenticorp", list(ROWS), ["accuracy, dev", "accuracy, test"], capsys)
    lines = [json.loads(line) for line in (tmp_path / "r" / "chnsenticorp.jsonl").read_text().splitlines()]
    assert str(tmp_path) not in json.dumps(lines)


def test_rows_change_one_thing_each() -> None:
    for name, row in ROWS.items():
        assert row.schedule in SCHEDULES
        changed = [row.schedule != "constant", row.dis_blocks != 0, row.frz_blocks != 0]
        assert sum(changed) == (name != "base")


def test_a_missing_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ULMFIT_FAST_DATA", str(tmp_path / "none"))
    assert main(["cola", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.accuracy.strategies: no data in ")
