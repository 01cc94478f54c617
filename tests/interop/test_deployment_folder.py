"""Exported classifiers against the classifiers: as a program without torch reads the folder, for every task."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from torch import nn

from tests.text.any_text import any_text
from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, TextClassifier, Tokenizer, ULMFiTClassifier
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.interop.deployed import DeployedClassifier
from ulmfit_fast.interop.deployment_folder import rules_sources, save_onnx, tokenizer_json
from ulmfit_fast.storage.model_folder import save_model
from ulmfit_fast.tasks.binary import Binary
from ulmfit_fast.tasks.multi_label import MultiLabel
from ulmfit_fast.tasks.ordinal import Ordinal
from ulmfit_fast.tasks.regression import Regression
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.training.history import History
from ulmfit_fast.training.trained import TrainedClassifier

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "predict_without_torch.py"
TEXTS, _ = make_task(40)
NEW = ["The FILM was great, sooooo great!<br>It's NOT dull dull dull dull.", "", "unseen words &amp; 3.14", *TEXTS[:5]]


def make_trained(task: Task, direction: str = "forward", kind: str = "word", **options: Any) -> TrainedClassifier:
    """Of random weights, large enough that probabilities differ from text to text."""
    tokenizer = Tokenizer.train(kind, TEXTS, 200, 1).reading(direction)
    model = TextClassifier(AWDLSTM(AWDLSTMConfig(len(tokenizer), 16, 24, 2)), task.outputs, **options)
    nn.init.normal_(model.bpt3c.encoder.encoder.weight)
    nn.init.normal_(model.head[6].weight)
    for module in model.head:
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.02, 0.1)
    return TrainedClassifier(model.eval(), tokenizer, task, History())


def probabilities(trained: TrainedClassifier, texts: Sequence[str]) -> np.ndarray:
    return predict_probabilities(trained.model, trained.tokenizer, trained.task, texts)


def run_example(folder: Path, texts: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[list, np.ndarray]:
    """Predictions and what they were made of, by the example, here and now."""
    arguments, path = sys.argv, list(sys.path)
    sys.argv = [str(EXAMPLE), str(folder), *texts]
    capsys.readouterr()
    try:
        runpy.run_path(str(EXAMPLE))
    finally:
        sys.argv, sys.path[:] = arguments, path
        for name in [name for name in sys.modules if name.partition(".")[0] == "text_rules"]:
            del sys.modules[name]
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == list(texts)
    output = json.loads((folder / "classifier.json").read_text())["output"]
    return [line["prediction"] for line in lines], np.array([line[output] for line in lines])


TASKS = [
    SingleLabel(["a", "b", "c"], temperature=1.7),
    Binary(["no", "yes"], temperature=0.6),
    MultiLabel(["x", "y", "z"], temperature=1.3, thresholds=[0.3, 0.5, 0.8]),
    Regression([], mean=3.5, scale=2.25),
    Ordinal([1, 2, 3, 5], temperature=2.0),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.type)
def test_every_task(task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(1)
    trained = make_trained(task)
    save_onnx(tmp_path / "out", trained)
    predictions, found = run_example(tmp_path / "out", NEW, capsys)
    expected = probabilities(trained, NEW)
    assert np.ptp(expected, axis=0).max() > 0.05, "the texts differ"
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    decoded = trained.task.decode(expected)
    if task.type == Regression.type:
        np.testing.assert_allclose(predictions, decoded, atol=1e-5, rtol=1e-5)
    else:
        assert predictions == list(decoded)


def test_a_hundred_texts_of_1_to_2000_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a window, and the newest operators that are supported."""
    trained = make_trained(TASKS[0], pool_window=700)
    save_onnx(tmp_path, trained, opset=20)
    random = np.random.default_rng(0)
    lengths = np.unique(np.linspace(0, 1999, 100).astype(int))
    words = trained.tokenizer.vocabulary[9:]
    texts = [" ".join(random.choice(words, size=length)) for length in lengths]
    assert [len(ids) for ids in trained.tokenizer.encode(texts)][:: len(texts) - 1] == [1, 2000]
    expected = probabilities(trained, texts)
    for some in (range(0, 100, 7), [0], [99], range(100)):
        _, found = run_example(tmp_path, [texts[i] for i in some], capsys)
        np.testing.assert_allclose(found, expected[list(some)], atol=1e-5, rtol=1e-5)


def test_both_directions_are_one_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = [make_trained(SingleLabel(["a", "b"], temperature=t), d) for d, t in (("forward", 1.5), ("backward", 0.7))]
    save_onnx(tmp_path, both)
    mean = np.mean([probabilities(each, NEW) for each in both], axis=0)
    np.testing.assert_allclose(run_example(tmp_path, NEW, capsys)[1], mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["concat", "attention"])
def test_int8_is_smaller_and_nearly_the_same(
    pooling: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    texts, labels = make_task(80)
    new, expected = make_task(100, seed=1)
    config = replace(CLASSIFY, pooling=pooling)
    clf = ULMFiTClassifier(pretrain_config=PRETRAIN, classifier_config=config, progress=False, seed=0)
    clf.fit(texts, labels, valid_texts=texts[:40], valid_labels=labels[:40])
    assert clf.task_.temperature != 1
    clf.to_onnx(tmp_path / "out", int8=True)
    predictions, found = run_example(tmp_path / "out", new, capsys)
    assert np.abs(found - clf.predict_proba(new)).max() < 0.03
    right = np.mean(np.array(predictions) == expected)
    assert right > 0.9
    assert abs(right - clf.score(new, expected)) <= 0.01
    wide = TextClassifier(AWDLSTM(AWDLSTMConfig(1000, 100, 200, 2)), 2).eval()
    tokenizer = Tokenizer.from_vocabulary([f"w{i}" for i in range(991)])
    sizes = []
    for int8 in (False, True):
        save_onnx(tmp_path / "wide", TrainedClassifier(wide, tokenizer, SingleLabel(["a", "b"]), History()), int8=int8,
                  overwrite=True)  # fmt: skip
        sizes.append((tmp_path / "wide" / "model.onnx").stat().st_size)
    assert sizes[1] < 0.35 * sizes[0]


def shipped(tokenizer: Tokenizer, folder: Path) -> Any:
    """What a program does with a text, by the shipped files: ids. They are read without this package."""
    backend = tokenizers.Tokenizer.from_str(tokenizer_json(tokenizer))
    if not tokenizer.uses_rules:
        return lambda text: backend.encode(text.encode("utf-8", "replace").decode()).ids
    package = folder / f"rules_of_{tokenizer.rules_version}"
    package.mkdir()
    for name, source in rules_sources(tokenizer.rules_version).items():
        assert "ulmfit_fast." not in source.replace("``ulmfit_fast.", "")
        (package / name).write_text(source, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        prepare = __import__(package.name).prepare
    finally:
        sys.path.remove(str(folder))
    return lambda text: backend.encode(prepare(text)).ids


@pytest.mark.parametrize("kind", ["word", "word 1", "subword", "whitespace"])
def test_texts_become_the_same_tokens(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    name, _, version = kind.partition(" ")
    words = [*TEXTS, "no the film can't don't it's o'brien 3.14 10,000 \u00e9 \u03c3 ss '", '- / # & < > " . , !'] * 3
    tokenizer = Tokenizer.train(name, words, 300, 1, int(version or 2))
    encode = shipped(tokenizer, tmp_path_factory.mktemp("rules"))

    @settings(max_examples=150, deadline=None)
    @given(any_text)
    def check(text: str) -> None:
        (expected,) = tokenizer.encode([text])
        assert encode(text) == expected.tolist()

    check()


def test_the_example_runs_without_torch_and_without_this_package(tmp_path: Path) -> None:
    trained = make_trained(TASKS[0])
    save_onnx(tmp_path / "out", trained)
    blocked = tmp_path / "blocked"
    for name in ("torch", "ulmfit_fast", "onnx", "onnxscript", "sklearn"):
        (blocked / name).mkdir(parents=True)
        (blocked / name / "__init__.py").write_text(f"raise ImportError('{name} is not to be imported')\n")
    environment = os.environ | {"PYTHONPATH": str(blocked)}
    tried = subprocess.run([sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True)
    assert "torch is not to be imported" in tried.stderr
    texts = ["The GREAT film was weak weak weak", "dull"]
    command = [sys.executable, str(EXAMPLE), str(tmp_path / "out"), *texts]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    expected = probabilities(trained, texts)
    np.testing.assert_allclose([line["probabilities"] for line in lines], expected, atol=1e-5, rtol=1e-5)
    assert [line["prediction"] for line in lines] == list(trained.task.decode(expected))


def test_what_is_refused_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, other = make_trained(TASKS[0]), make_trained(TASKS[1])
    foreign = make_trained(TASKS[0], kind="whitespace")
    save_model(tmp_path / "model", trained.model, trained.tokenizer, trained.task)
    quantized = TrainedClassifier(trained.model.quantize(), trained.tokenizer, trained.task, History())
    small = tmp_path / "small"
    for given_, options, folder, message in (
        ([], {}, small, "no classifier was given"),
        ([trained, other], {}, small, "different tasks or labels"),
        ([trained, foreign], {}, small, "different vocabularies"),
        (quantized, {}, small, "the model is int8"),
        (trained, {"opset": 17}, small, "opset must be a whole number from 18 on, got 17"),
        (trained, {"opset": 999}, small, "opset"),
        (trained, {"overwrite": True}, tmp_path / "model", "holds a model"),
        (trained, {}, tmp_path / "nowhere" / "out", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            save_onnx(folder, given_, **options)  # type: ignore[arg-type]
        assert not folder.exists() or folder.name == "model"
    monkeypatch.setattr("ulmfit_fast.interop.deployment_folder.onnx_bytes", lambda *_: b"a graph")
    save_onnx(small, trained)
    before = {path: path.read_bytes() for path in small.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="already holds an exported classifier"):
        save_onnx(small, other)

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ulmfit_fast.interop.deployment_folder.write_all_atomically", fails)
        with pytest.raises(OSError, match="No space"):
            save_onnx(small, other, overwrite=True)
    assert {path: path.read_bytes() for path in small.rglob("*") if path.is_file()} == before
    (small / "model.pt2").write_bytes(b"of another form")
    save_onnx(small, foreign, overwrite=True)
    assert sorted(path.name for path in small.iterdir()) == ["classifier.json", "model.onnx", "tokenizer.json"]


def test_a_model_in_training_mode_stays_in_it() -> None:
    trained = make_trained(TASKS[0])
    trained.model.train()
    deployed = DeployedClassifier(trained)
    assert trained.model.training
    assert not any(module.training for module in deployed.modules())
