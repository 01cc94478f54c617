"""Int8 from the command line and the estimator: predictions that hardly differ, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import make_task
from ulmfit_fast import InputError, ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.nn.quantized import is_quantized


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "new.csv"
    texts, labels = make_task(300, seed=5)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def quantized(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's folder in int8."""
    folder = tmp_path_factory.mktemp("quantized") / "clf"
    ULMFiTClassifier.load(models / "clf").quantize().save(folder)
    return folder


def predicted(table: Path, output: Path, *arguments: str) -> pd.DataFrame:
    assert main(["predict", str(table), "--output", str(output), *arguments]) == 0
    return pd.read_csv(output)


def test_at_most_one_prediction_of_a_hundred_changes(
    models: Path, quantized: Path, table: Path, tmp_path: Path
) -> None:
    exact = predicted(table, tmp_path / "exact.csv", "--model", str(models / "clf"))
    at_load = predicted(table, tmp_path / "a.csv", "--model", str(models / "clf"), "--precision", "int8")
    stored = predicted(table, tmp_path / "b.csv", "--model", str(quantized))
    given = predicted(table, tmp_path / "c.csv", "--model", str(quantized), "--precision", "int8", "--batch-size", "1")
    assert (at_load.prediction != exact.prediction).mean() <= 0.01
    assert not at_load.confidence.equals(exact.confidence)  # it was int8
    assert at_load.equals(stored)
    assert given.equals(stored)
    assert main(["evaluate", str(table), "--model", str(models / "clf"), "--precision", "int8"]) == 0


def test_estimator(models: Path, quantized: Path, table: Path, tmp_path: Path) -> None:
    exact, texts = ULMFiTClassifier.load(models / "clf"), pd.read_csv(table).text.tolist()
    ours, loaded = exact.quantize(), ULMFiTClassifier.load(quantized)
    assert not is_quantized(exact.model_)
    assert is_quantized(loaded.model_)
    np.testing.assert_allclose(ours.predict_proba(texts), loaded.predict_proba(texts), rtol=1e-4, atol=1e-7)
    assert (ours.predict(texts) != exact.predict(texts)).mean() <= 0.01
    assert ours.get_params(deep=False) == exact.get_params(deep=False)
    stream = loaded.stream()
    stream.feed(texts[0])
    assert np.array_equal(stream.predict_proba(), loaded.predict_proba(texts[:1])[0])
    loaded.save(tmp_path / "again")
    loaded.set_params(warm_start=True)
    with pytest.raises(InputError, match="an int8 model only predicts"):
        loaded.fit(texts, pd.read_csv(table).label)
    exact.precision = "bfloat16"
    assert exact.quantize().precision == "float32"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["predict", "{table}", "--output", "{out}.csv", "--precision", "bfloat16"], "holds an int8 model"),
        (["predict", "{table}", "--output", "{out}.csv", "--device", "cuda"], "int8 computes on the CPU alone"),
        (["convert", "{model}", "--to", "float32", "--output", "{out}"], "convert the float32 model"),
        (["train", "{table}", "--output", "{out}"], "an int8 model only predicts"),
    ],
)
def test_refusals(
    command: list[str], words: str, quantized: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"table": str(table), "out": str(tmp_path / "out"), "model": str(quantized)}
    arguments = [part.format(**names) for part in command]
    if command[0] != "convert":
        arguments += ["--model", str(quantized)]
    assert main(arguments) == 2
    assert_one_line(capsys, words)


def test_info_and_convert(quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(quantized)]) == 0
    assert "precision: int8" in capsys.readouterr().out
    assert main(["convert", str(quantized), "--to", "int8", "--output", str(tmp_path / "same")]) == 0
    assert is_quantized(ULMFiTClassifier.load(tmp_path / "same").model_)
