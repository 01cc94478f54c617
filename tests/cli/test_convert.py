"""``convert``: models in another form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import make_task
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.storage.model_folder import load_language_model


def test_a_classifier_and_a_language_model(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, _ = make_task(40)
    assert main(["convert", str(models / "clf"), "--to", "int8", "--output", str(tmp_path / "clf")]) == 0
    assert "MB, model.safetensors before" in capsys.readouterr().out
    before, after = (ULMFiTClassifier.load(folder) for folder in (models / "clf", tmp_path / "clf"))
    assert np.abs(before.predict_proba(texts) - after.predict_proba(texts)).max() < 0.05
    assert after.get_params(deep=False) == before.get_params(deep=False)
    assert main(["convert", str(models / "lm"), "--to", "float16", "--output", str(tmp_path / "lm")]) == 0
    assert load_language_model(tmp_path / "lm")[1].vocabulary == load_language_model(models / "lm")[1].vocabulary
    capsys.readouterr()
    assert main(["convert", str(models / "lm"), "--to", "float16", "--output", str(tmp_path / "lm")]) == 2
    assert_one_line(capsys, "already holds a model")
