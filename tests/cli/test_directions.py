"""``--direction both``: two models in one folder, that predict as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from tests.tiny import make_task
from ulmfit_fast import InputError, Tokenizer, TrainedClassifier, ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.storage.both_directions import has_both, members
from ulmfit_fast.storage.run_file import CHECKPOINT

QUICK = ["--epochs", "2", *SMALL]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model, the same fine-tuned, and a classifier: lm/, lm2/ and clf/, each of both."""
    folder = tmp_path_factory.mktemp("both")
    data = str(write_task(folder / "train.csv"))
    lm, lm2, clf = (str(folder / name) for name in ("lm", "lm2", "clf"))
    assert main(["pretrain-lm", data, "--output", lm, "--direction", "both", *SIZES, *SMALL]) == 0
    assert main(["finetune-lm", data, "--model", lm, "--output", lm2, *SMALL]) == 0
    assert main(["train", data, "--model", lm2, "--output", clf, "--valid", data, *QUICK]) == 0
    return folder


def test_folders_of_two(both: Path) -> None:
    for name in ("lm", "lm2", "clf"):
        assert has_both(both / name)
        directions = [Tokenizer.load(part / "tokenizer.json").direction for part in members(both / name)]
        assert directions == ["forward", "backward"]
        assert {path.name for path in (both / name).iterdir()} == {"config.json", "forward", "backward"}
    assert members(both / "clf" / "forward") == [both / "clf" / "forward"]


def test_they_predict_as_one(both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, labels = make_task(30, seed=4)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "t.csv", index=False)
    parts = [part for name in ("forward", "backward") for part in ("--model", str(both / "clf" / name))]
    said, written = [], []
    for number, model in enumerate((["--model", str(both / "clf")], parts)):
        output = tmp_path / f"{number}.csv"
        assert main(["predict", str(tmp_path / "t.csv"), *model, "--output", str(output), "--probabilities"]) == 0
        written.append(output.read_bytes())
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "t.csv"), *model]) == 0
        said.append(capsys.readouterr().out)
    assert written[0] == written[1]
    assert said[0] == said[1]
    mean = np.mean([ULMFiTClassifier.load(part).predict_proba(texts) for part in members(both / "clf")], axis=0)
    assert pd.read_csv(output)["confidence"].to_numpy() == pytest.approx(mean.max(1), abs=1e-6)
    assert main(["info", str(both / "clf")]) == 0
    assert capsys.readouterr().out.count("reads texts: ") == 2


def test_from_scratch_and_again(both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is replaced unasked, a run that has ended halfway goes on, and one model gives way to two."""
    data, clf = str(both / "train.csv"), tmp_path / "clf"
    arguments = ["train", data, "--output", str(clf), *SIZES, *QUICK]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--direction", "both"]) == 2
    assert_one_line(capsys, "already holds a model")
    assert main([*arguments, "--direction", "both", "--overwrite"]) == 0
    assert {path.name for path in clf.iterdir()} == {"config.json", "forward", "backward"}
    whole = (clf / "backward" / "model.safetensors").read_bytes()
    for path in (clf / "config.json", *(clf / "backward").iterdir()):
        path.unlink()
    assert (clf / "forward" / CHECKPOINT).exists()
    assert main([*arguments, "--direction", "both", "--resume"]) == 0
    assert has_both(clf)
    assert (clf / "backward" / "model.safetensors").read_bytes() == whole


def test_what_is_refused(both: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = str(both / "train.csv"), str(tmp_path / "out")
    capsys.readouterr()
    for options, message in (
        (["--model", str(models / "lm"), "--direction", "both"], "lm has one; make one of both by pretrain-lm"),
        (["--model", str(both / "lm"), "--direction", "backward"], "--direction does nothing here"),
        (["--direction", "sideways"], "direction must be one of forward, backward"),
    ):
        assert main(["train", data, "--output", output, *options]) == 2
        capsys_line = capsys.readouterr().err.splitlines()[-1]
        assert message in capsys_line
    assert main(["evaluate", data, "--model", str(both / "lm")]) == 2
    assert_one_line(capsys, "is a language model; give one alone")
    with pytest.raises(InputError, match="holds models of both directions; give its folder forward, or backward"):
        TrainedClassifier.load(both / "clf")
    assert main(["train", data, "--model", str(both / "lm"), "--direction", "both", "--output", output, *QUICK]) == 0


def test_both_are_one_graph_of_onnx(both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    assert main(["convert", str(both / "clf"), "--to", "onnx", "--output", str(tmp_path / "out")]) == 0
    texts, parts = make_task(5, seed=4)[0], [ULMFiTClassifier.load(part) for part in members(both / "clf")]
    mean = np.mean([part.predict_proba(texts) for part in parts], axis=0)
    session = ort.InferenceSession(tmp_path / "out" / "model.onnx")
    for text, expected in zip(texts, mean, strict=True):
        tokens = np.array(list(parts[0].tokenizer_.encode([text])), np.int64)
        (found,) = session.run(["probabilities"], {"tokens": tokens, "lengths": np.array([tokens.shape[1]])})
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
