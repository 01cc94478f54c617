"""The demo from its first line to its last, on texts and models small enough for a test."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast.cli.main import main
from ulmfit_fast.demo import demo
from ulmfit_fast.demo.docstrings import Docstring

AREAS = {"email": "good", "torch.nn": "bad"}


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docstrings of two areas that are told apart by their words, and of a third that is too rare to take part."""
    texts, labels = make_task(240)
    area_of = {label: area for area, label in AREAS.items()}
    found = [Docstring(area_of[label], text) for text, label in zip(texts, labels, strict=True)]
    found += [Docstring("tkinter", "one window")] * 9
    monkeypatch.setattr(demo, "read_docstrings", lambda: found)
    monkeypatch.setattr(demo, "PRETRAIN", PRETRAIN)
    monkeypatch.setattr(demo, "FINETUNE", replace(FINETUNE, new_vocabulary=False))
    monkeypatch.setattr(demo, "CLASSIFY", CLASSIFY)
    monkeypatch.setattr(demo, "FROM_SCRATCH", CLASSIFY)
    monkeypatch.setattr(demo, "measure_layers", partial(demo.measure_layers, 8, 4, 1))


@pytest.mark.usefixtures("small_demo")
def test_demo_ends_with_a_table_and_a_command_that_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "a demo"
    for _ in range(2):  # again into the same folder
        assert main(["demo", "--output", str(output), "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert (output / "results.md").read_text() in printed
    assert "accuracy with the three stages, the same labels" in printed
    assert "task: 2 areas" in printed
    command = shlex.split(printed.splitlines()[printed.splitlines().index("Predict with it:") + 1])
    assert command[0] == "ulmfit-fast"
    assert main(command[1:]) == 0
    predictions = pd.read_csv(output / "predictions.csv")
    assert set(predictions["prediction"]) <= set(AREAS)
    assert predictions["area"].isin(AREAS).all()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.txt").write_text("mine")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert_one_line(capsys, "holds other files; give a new or empty folder for the demo")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.txt", "mine")]
    (tmp_path / "file").write_text("")
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    assert_one_line(capsys, "is a file; give a folder")
