"""The study of suggestions, tiny: each strategy is run once a draw, the table has the mean of its lines."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.accuracy.active_learning import STUDIED, main
from tests.tiny import make_task


def test_the_study(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imdb").mkdir()
    for seed, name in enumerate(("train", "test", "unsup")):
        texts, labels = make_task(60, seed)
        pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "imdb" / f"{name}.csv.xz", index=False)
    monkeypatch.setenv("ULMFIT_FAST_DATA", str(tmp_path))
    results = tmp_path / "results"
    arguments = [
        "imdb", "--lm", str(models / "lm"), "--draws", "2", "--pool", "40", "--tests", "30", "--sizes", "4", "8",
        "--cache", str(tmp_path / "cache"), "--results", str(results),
    ]  # fmt: skip
    assert main(arguments) == 0
    lines = [json.loads(line) for line in (results / "imdb.jsonl").read_text().splitlines()]
    assert [(line["draw"], line["settings"]["strategy"]) for line in lines] == [(d, s) for d in (0, 1) for s in STUDIED]
    assert all(list(line["scores"]) == ["4", "8"] for line in lines)
    # The first batch is the same for all that know nothing yet.
    for draw in (0, 1):
        first = {line["scores"]["4"] for line in lines if line["draw"] == draw and
                 line["settings"]["strategy"] in ("random", "margin", "entropy", "margin-spread")}  # fmt: skip
        assert len(first) == 1
    assert main(arguments) == 0  # nothing is missing
    assert len((results / "imdb.jsonl").read_text().splitlines()) == len(lines)
    assert main(["report", "--results", str(results)]) == 0
    (row,) = [line for line in (results / "README.md").read_text().splitlines() if line.startswith("| margin |")]
    own = [line["scores"]["8"] for line in lines if line["settings"]["strategy"] == "margin"]
    assert row.split("|")[3].strip() == f"{sum(own) / 2:.3f}"
