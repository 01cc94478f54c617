"""The three stages with a QRNN, saved, loaded, gone on with, predicted; and from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import QRNN, finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.cli.main import main
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
    with pytest.raises(InputError, match="encoder is 'qrnn', but the given model's is 'awd_lstm'"):
        finetune_classifier(texts, labels, pretrain_lm(texts, PRETRAIN, progress=False), config, progress=False)
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


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("\n\n".join(make_task(60)[0]))
    table = str(write_task(tmp_path / "train.csv"))
    source, lm, clf, small = (str(tmp_path / name) for name in ("texts.txt", "lm", "clf", "small"))
    assert main(["pretrain-lm", source, "--output", lm, "--encoder", "qrnn", *SIZES, *SMALL]) == 0
    assert main(["train", table, "--model", lm, "--output", clf, "--epochs", "1", *SMALL]) == 0
    assert main(["convert", clf, "--to", "int8", "--output", small]) == 0
    for folder in (clf, small):
        capsys.readouterr()
        assert main(["info", folder]) == 0
        assert "encoder: qrnn\n" in capsys.readouterr().out
        assert main(["evaluate", table, "--model", folder]) == 0
    capsys.readouterr()
    assert main(["train", table, "--model", lm, "--output", small + "2", "--encoder", "qrnn"]) == 2
    assert_one_line(capsys, "--encoder does nothing here")
    assert main(["evaluate", table, "--model", clf, "--precision", "int8"]) == 2
    assert_one_line(capsys, "a QRNN has no int8 form")
