"""The three stages with a QRNN, saved, loaded, gone on with, predicted; and from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.command_line import run
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import QRNN, finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model
from ulmfit_fast.training.trained import TrainedClassifier


def probabilities(classifier: TrainedClassifier, texts: list[str]) -> np.ndarray:
    return predict_probabilities(classifier.model, classifier.tokenizer, classifier.task, texts)


def test_three_stages_to_the_same_bits(tmp_path: Path) -> None:
    texts, labels = make_task()
    outcomes = []
    for run_number in range(2):
        folder = tmp_path / str(run_number)
        folder.mkdir()
        base = pretrain_lm(texts, replace(PRETRAIN, encoder="qrnn"), output=folder / "base", progress=False)
        assert isinstance(base.model.encoder, QRNN)
        assert len(base.history.records) == 1
        finetune_lm(texts, folder / "base", FINETUNE, output=folder / "lm", progress=False)
        classifier = finetune_classifier(
            texts, labels, folder / "lm", replace(CLASSIFY, unfreezing="gradual"), output=folder / "clf", progress=False
        )
        assert isinstance(classifier.model.bpt3c.encoder, QRNN)
        predicted = probabilities(classifier, texts)
        assert np.array_equal(probabilities(TrainedClassifier.load(folder / "clf"), texts), predicted)
        assert np.array_equal(probabilities(classifier, texts[::-1])[::-1], predicted)
        outcomes.append(predicted)
        for name in ("base", "lm", "clf"):
            assert json.loads((folder / name / "config.json").read_text())["encoder_type"] == "qrnn"
        model, _ = load_language_model(folder / "lm")
        assert isinstance(model.encoder, QRNN)
    assert np.array_equal(outcomes[0], outcomes[1])
    right = np.array(classifier.labels)[outcomes[0].argmax(1)] == np.array(labels)
    assert right.mean() > 0.8


def test_from_scratch_and_on_with_a_classifier(tmp_path: Path) -> None:
    texts, labels = make_task(40)
    config = replace(CLASSIFY, encoder="qrnn", epochs=1)
    first = finetune_classifier(texts, labels, None, config, output=tmp_path / "clf", progress=False)
    again = finetune_classifier(texts, labels, tmp_path / "clf", config, progress=False)
    assert isinstance(again.model.bpt3c.encoder, QRNN)
    assert not torch.equal(first.model.head[6].weight, again.model.head[6].weight)  # type: ignore[arg-type]


def test_damaged_and_foreign_folders(tmp_path: Path) -> None:
    texts, labels = make_task(40)
    config = replace(CLASSIFY, encoder="qrnn", epochs=1)
    finetune_classifier(texts, labels, None, config, output=tmp_path / "clf", progress=False)
    path = tmp_path / "clf" / "config.json"
    contents = json.loads(path.read_text())
    for change, message in (
        ({"encoder_type": "gru"}, "has an encoder 'gru', which this version lacks; update"),
        ({"encoder_type": "awd_lstm"}, "damaged, or not this model's weights"),
        ({"precision": "int8"}, "precision int8, which a qrnn has not"),
    ):
        path.write_text(json.dumps(contents | change))
        with pytest.raises(InputError, match=message):
            load_classifier(tmp_path / "clf")
    with pytest.raises(InputError, match=r"encoder must be one of awd_lstm, qrnn, got 'gru'"):
        replace(CLASSIFY, encoder="gru")


def test_the_command_line(tmp_path: Path) -> None:
    texts, labels = make_task(60)
    (tmp_path / "texts.txt").write_text("\n\n".join(texts))
    rows = "\n".join(f"{label},{text}" for text, label in zip(texts, labels, strict=True))
    (tmp_path / "train.csv").write_text(f"label,text\n{rows}\n")
    sizes = ["--embedding-size", "12", "--hidden-size", "16", "--num-layers", "2", "--min-frequency", "1"]
    small = ["--batch-size", "4", "--bptt", "10"]
    source, lm, clf = (str(tmp_path / name) for name in ("texts.txt", "lm", "clf"))
    run("pretrain-lm", source, "--output", lm, "--encoder", "qrnn", *sizes, *small)
    assert json.loads((tmp_path / "lm" / "config.json").read_text())["encoder_type"] == "qrnn"
    table = str(tmp_path / "train.csv")
    run("train", table, "--model", lm, "--output", clf, "--epochs", "1", *small)
    assert "encoder: qrnn" in run("info", clf).output
    refused = run("train", table, "--model", lm, "--output", clf + "2", "--encoder", "qrnn", status=2)
    assert "--encoder does nothing here" in refused.output
    refused = run("evaluate", table, "--model", clf, "--precision", "int8", status=2)
    assert "a QRNN has no int8 form" in refused.output
    refused = run("convert", clf, "--to", "onnx", "--output", str(tmp_path / "m.onnx"), status=2)
    assert "a QRNN cannot be exported" in refused.output
