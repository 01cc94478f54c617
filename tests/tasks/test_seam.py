"""Tasks alone say what logits mean: nobody else says it, and everybody asks them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

import ulmfit_fast
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import TASKS

PACKAGE = Path(ulmfit_fast.__file__).parent
OF_A_TASK = re.compile(r"softmax|argmax|sigmoid|\baccuracy\b")
# What the words mean elsewhere: a language model's softmax, the step of a maximum, the demonstration's own table.
OTHERWISE = {
    "training/config.py": "softmax",
    "training/language_model.py": "softmax",
    "cli/training.py": "softmax",
    "demo/demo.py": "accuracy",
}


def test_nobody_else_says_what_logits_mean() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] in ("tasks", "ops", "nn", "interop"):  # the last three know logits alone
            continue
        said = set(OF_A_TASK.findall(path.read_text(encoding="utf-8"))) - {OTHERWISE.get(name)}
        if said:
            found[name] = said
    assert found == {}


class Opposite(SingleLabel):
    """What is least probable: every prediction of a good model is wrong."""

    type: ClassVar[str] = "opposite"

    def activate(self, logits: Tensor) -> Tensor:
        return super().activate(-logits)


@pytest.fixture
def opposite(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same classifier with that task."""
    monkeypatch.setitem(TASKS, Opposite.type, Opposite)
    folder = shutil.copytree(models / "clf", tmp_path / "opposite")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"task_type": Opposite.type}))
    return folder


def test_predictions_are_the_task_s(
    models: Path, opposite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = str(models / "train.csv")
    written = []
    for number, folder in enumerate((models / "clf", opposite)):
        output = tmp_path / f"{number}.csv"
        assert main(["predict", table, "--model", str(folder), "--output", str(output), "--probabilities"]) == 0
        written.append(pd.read_csv(output))
    one, other = written
    assert set(one["prediction"] + other["prediction"]) == {"goodbad", "badgood"}
    assert one["probability:good"].to_numpy() == pytest.approx(other["probability:bad"], abs=1e-6)
    assert one["confidence"].to_numpy() == pytest.approx(other["confidence"], abs=1e-6)

    capsys.readouterr()
    scores = []
    for folder in (models / "clf", opposite):
        assert main(["evaluate", table, "--model", str(folder)]) == 0
        scores.append(float(re.findall(r"accuracy (0\.\d+|1\.0+) on 120 texts", capsys.readouterr().out)[0]))
    assert scores[0] > 0.9
    assert sum(scores) == pytest.approx(1, abs=1e-3)


def test_the_estimator_and_streams_ask_the_task(models: Path, opposite: Path) -> None:
    texts = pd.read_csv(models / "train.csv")["text"].tolist()[:10]
    one, other = (ULMFiTClassifier.load(folder) for folder in (models / "clf", opposite))
    assert (one.predict(texts) != other.predict(texts)).all()
    stream = other.stream()
    stream.feed(texts[0])
    assert np.array_equal(stream.predict_proba(), other.predict_proba(texts[:1])[0])
    assert stream.predict() == other.predict(texts[:1])[0]


def test_classifiers_of_two_tasks_have_no_mean(
    models: Path, opposite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--model", str(models / "clf"), "--model", str(opposite)]
    assert main(["predict", str(models / "train.csv"), *both, "--output", str(tmp_path / "p.csv")]) == 2
    assert "has another task than" in capsys.readouterr().err
