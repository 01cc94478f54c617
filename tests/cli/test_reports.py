"""``evaluate --report`` and ``--json``, and ``compare``: one page that holds all it needs, numbers that agree."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.inference import intervals

_VOID = {"meta", "br", "circle", "line", "rect", "polyline"}


class Checked(HTMLParser):
    """Every element is closed in its turn, nothing comes from elsewhere, and nothing is run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.headings: list[str] = []
        self.marks = 0
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object")
        assert not {name for name, _ in attrs} & {"src", "href", "onclick", "onload"}
        self.marks += tag == "mark"
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in _VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_MOST", 40)
    monkeypatch.setattr(intervals, "_FEWEST", 40)


@pytest.fixture(scope="module")
def table(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with some labels that are wrong, and characters that HTML would take for its own."""
    rows = pd.read_csv(models / "train.csv")[:40]
    rows["label"] = np.where(rows.index % 7 == 0, "good", rows["label"])
    rows["text"] += " <script>alert(1)</script> & \x07"
    path = tmp_path_factory.mktemp("report") / "table.csv"
    rows.to_csv(path, index=False)
    return path


def test_the_report_holds_what_it_says(
    models: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, found = tmp_path / "report.html", tmp_path / "found.json"
    arguments = ["evaluate", str(table), "--model", str(models / "clf"), "--report", str(page), "--json", str(found)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    content = json.loads(found.read_text())
    score = content["scores"]["accuracy"]
    assert f"accuracy {score['value']:.4f} on 40 texts" in printed
    assert score["low"] < score["value"] <= score["high"]
    assert sum(map(sum, content["confusion"])) == content["texts"] == 40
    rows = pd.read_csv(table)
    predicted = ULMFiTClassifier.load(models / "clf", device="cpu").predict(rows["text"].tolist())
    wrong = set(np.flatnonzero(predicted != rows["label"]) + 1)
    assert {error["row"] for error in content["worst_errors"]} <= wrong
    assert len(content["worst_errors"]) == min(10, len(wrong))

    checked = Checked(page.read_text())
    assert checked.headings == [
        "Scores", "Confusion", "Classes", "Calibration", "Worst errors", "Longest and slowest texts", "Training",
        "Model card",
    ]  # fmt: skip
    assert checked.marks > 10
    assert f"{score['value']:.4f}" in checked.text
    assert "<script>alert(1)</script> & \ufffd" in checked.text
    assert re.search(r"https?://(?!arxiv)", page.read_text().replace("http://www.w3.org", "")) is None
    assert main(arguments) == 2
    assert_one_line(capsys, "exists; choose another file or pass --overwrite")


def test_json_to_standard_output_stands_alone(models: Path, table: Path, capfd: pytest.CaptureFixture[str]) -> None:
    both = ["--model", str(models / "clf"), "--model", str(models / "clf"), "--precision", "int8"]
    assert main(["evaluate", str(table), *both, "--json", "-"]) == 0
    assert json.loads(capfd.readouterr().out)["model"].count("clf") == 2


def test_numbers_and_several_labels_have_reports(models: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(models / "train.csv")[:30]
    rows["number"] = np.where(rows["label"] == "good", 5.0, 1.0) + rows.index % 3
    rows["labels"] = np.where(rows.index % 3 == 0, "x;" + rows["label"], rows["label"])
    rows.to_csv(tmp_path / "table.csv", index=False)
    for task, column, heading in (("regression", "number", "Numbers"), ("multi_label", "labels", "Classes")):
        folder, page = tmp_path / task, tmp_path / f"{task}.html"
        options = ["--task", task, "--label-column", column, "--epochs", "1"]
        assert main(["train", str(tmp_path / "table.csv"), "--output", str(folder), *SIZES, *SMALL, *options]) == 0
        options = ["--model", str(folder), "--label-column", column, "--report", str(page)]
        assert main(["evaluate", str(tmp_path / "table.csv"), *options]) == 0
        assert heading in Checked(page.read_text()).headings
    assert main(["compare", str(tmp_path / "table.csv"), *["--model", str(tmp_path / "regression")] * 2,
                 "--label-column", "number"]) == 0  # fmt: skip


def test_a_language_model_has_no_report(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(models / "train.csv"), "--model", str(models / "lm"), "--report", "x.html"]) == 2
    assert_one_line(capsys, "--report does nothing here")


def test_two_models_are_compared(models: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ULMFiTClassifier.load(models / "clf", device="cpu")
    other.model_.head[-1].weight.data.mul_(-1)  # wrong where the first one is right
    other.save(tmp_path / "other")
    found = tmp_path / "found.json"
    arguments = ["compare", str(table), "--model", str(models / "clf"), "--model", str(tmp_path / "other")]
    assert main([*arguments, "--json", str(found)]) == 0
    printed, content = capsys.readouterr().out, json.loads(found.read_text())
    test, scores = content["mcnemar"], content["scores"]
    assert test["first_alone"] == round(40 * scores[0]["accuracy"])
    assert test["first_alone"] + test["second_alone"] == 40
    assert test["p"] < 1e-3
    assert f"alone is right on {test['first_alone']}" in printed
    difference = content["differences"]["accuracy"]
    assert difference["low"] <= difference["value"] <= difference["high"] < 0
    assert main(arguments[:4]) == 2
    assert_one_line(capsys, "compare: give --model twice, got 1")
    shutil.copytree(models / "clf", tmp_path / "third")
    (tmp_path / "third" / "labels.json").write_text('["bad", "fair"]')
    assert main([*arguments[:4], "--model", str(tmp_path / "third")]) == 2
    assert_one_line(capsys, "has another task, or other labels")
