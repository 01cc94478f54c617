"""``convert``: models in another form."""

from __future__ import annotations

import json
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


def test_a_classifier_for_onnxruntime(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    output, texts = tmp_path / "out", make_task(6)[0]
    assert main(["convert", str(models / "clf"), "--to", "onnx", "--output", str(output)]) == 0
    said = capsys.readouterr()
    assert "model.onnx of" in said.out
    assert said.err == ""
    about = json.loads((output / "classifier.json").read_text())
    assert (about["labels"], about["decision"], about["precision"]) == (["bad", "good"], "highest", "float32")
    clf = ULMFiTClassifier.load(models / "clf")
    session = ort.InferenceSession(output / "model.onnx")
    for text, expected in zip(texts, clf.predict_proba(texts), strict=True):
        tokens = np.array(list(clf.tokenizer_.encode([text])), np.int64)
        (found,) = session.run(["probabilities"], {"tokens": tokens, "lengths": np.array([tokens.shape[1]])})
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert main(["convert", str(models / "clf"), "--to", "onnx-int8", "--output", str(output)]) == 2
    assert_one_line(capsys, "already holds an exported classifier")
    assert main(["convert", str(models / "lm"), "--to", "onnx", "--output", str(tmp_path / "lm")]) == 2
    assert_one_line(capsys, "holds a language model; expected a classifier")
    assert main(["convert", str(models / "clf"), "--to", "onnx", "--output", str(models / "lm"), "--overwrite"]) == 2
    assert_one_line(capsys, "holds a model, whose tokenizer.json is another")
    assert not (tmp_path / "lm").exists()
