"""Self-training with real models: it learns, is written, and refuses what it cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import InputError, SelfTrainingConfig, ULMFiTClassifier, self_train
from ulmfit_fast.cli.main import main
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.both_directions import has_both
from ulmfit_fast.training.trained import TrainedClassifier

MORE, TRUE = make_task(60, seed=3)
TEXTS, LABELS = make_task(24)
QUICK = replace(CLASSIFY, epochs=2)


def right(trained: TrainedClassifier, texts: list[str], labels: list[str]) -> float:
    activated = predict_probabilities(trained.model, trained.tokenizer, trained.task, texts)
    return float(np.mean(trained.task.decode(activated) == np.array(labels)))


def test_it_takes_the_labels_that_it_predicts(models: Path) -> None:
    """From a classifier that knows the task: half of each class is taken, and it still knows the task."""
    tests, expected = make_task(60, seed=9)
    config = SelfTrainingConfig(rounds=1, threshold=0.5, share=0.5)
    trained = self_train(TEXTS, LABELS, MORE, models / "clf", config, QUICK, progress=False)
    assert [each.number for each in trained.rounds] == [0, 1]
    assert trained.rounds[1].taken == [{"bad": 15, "good": 15}]
    assert right(trained.models[0], tests, expected) >= 0.9
    assert {record["round"] for record in trained.models[0].history.records} == {1}


def test_weak_labels_are_learned_from(models: Path) -> None:
    """The labelled texts are few; three sources label the others."""
    random = np.random.default_rng(0)
    weak = {
        name: [None if random.random() < 0.2 else label if random.random() < 0.8 else "good" for label in TRUE]
        for name in "xyz"
    }
    tests, expected = make_task(60, seed=9)
    config = SelfTrainingConfig(rounds=1, threshold=1.0, labeled_weight=1.0)  # nothing is sure enough for a round
    trained_by = replace(CLASSIFY, label_smoothing=0.1)
    trained = self_train(
        TEXTS[:2], LABELS[:2], MORE, models / "lm2", config, trained_by, weak_labels=weak, progress=False
    )
    assert [each.number for each in trained.rounds] == [0]
    assert right(trained.models[0], tests, expected) > 0.9
    with pytest.raises(InputError, match="a label or None for each of 60 texts"):
        self_train(TEXTS, LABELS, MORE, None, weak_labels={"x": ["good"]})


def test_the_estimator(tmp_path: Path) -> None:
    how = SelfTrainingConfig(rounds=1, threshold=0.5, balance=False)
    estimator = ULMFiTClassifier(
        pretrain_config=PRETRAIN, finetune_config=FINETUNE, classifier_config=QUICK, self_training=how
    )
    with pytest.raises(InputError, match="give fit some as unlabeled"):
        estimator.fit(TEXTS, LABELS)
    estimator.fit(TEXTS, LABELS, unlabeled=MORE)
    assert {record.get("round") for record in estimator.history_.records} == {None, 1}
    estimator.save(tmp_path / "clf")
    assert ULMFiTClassifier.load(tmp_path / "clf").self_training == how


def test_what_is_refused(tmp_path: Path, models: Path) -> None:
    with pytest.raises(InputError, match="unlabeled is empty"):
        self_train(TEXTS, LABELS, [], None)
    with pytest.raises(InputError, match="the task regression has no confidence"):
        self_train(TEXTS, range(24), MORE, None, classifier_config=replace(QUICK, task="regression"))
    with pytest.raises(InputError, match="the task multi_label has no confidence"):
        self_train(TEXTS, [["a"], ["a", "b"]] * 12, MORE, None)
    with pytest.raises(InputError, match="already holds a model"):
        self_train(TEXTS, LABELS, MORE, None, output=models / "clf")


def test_the_command(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two models, validation texts, weak labels in columns, a folder for each model."""
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "t.csv", index=False)
    rules = [label if i % 3 else "" for i, label in enumerate(TRUE)]
    pd.DataFrame({"text": MORE, "rule": rules}).to_csv(tmp_path / "more.csv", index=False)
    files = [str(tmp_path / "t.csv"), "--unlabeled", str(tmp_path / "more.csv")]
    output = tmp_path / "out"
    arguments = [
        "self-train", *files, "--model", str(models / "lm"), "--model", str(models / "lm2"), "--output", str(output),
        "--rounds", "1", "--threshold", "0.5", "--no-balance", "--teacher", "others", "--weak-column", "rule=0.9",
        "--valid-fraction", "0.2", "--epochs", "2", "--lr", "0.03", "--unfreezing", "all", *SMALL,
    ]  # fmt: skip
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "round 0" in captured.err
    assert "; labels taken of model 1: " in captured.err
    assert "; labels taken of model 2: " in captured.err
    assert "predict with a --model for each" in captured.out
    classifiers = Classifiers.load([output / "1", output / "2"])
    assert classifiers.task.labels == ["bad", "good"]
    assert not (output / "config.json").exists()
    for name, message in (("no=0.9", "has no column 'no'"), ("rule=x", "after = stands how often it is right")):
        weak = ["--weak-column", name, "--output", str(tmp_path / "new")]
        assert main(["self-train", *files, "--model", str(models / "lm"), *weak]) == 2
        assert_one_line(capsys, message)
        assert not (tmp_path / "new").exists()


def test_both_directions_become_one_folder(tmp_path: Path) -> None:
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "t.csv", index=False)
    data, lm = str(tmp_path / "t.csv"), str(tmp_path / "lm")
    assert main(["pretrain-lm", data, "--output", lm, "--direction", "both", *SIZES, *SMALL]) == 0
    config = SelfTrainingConfig(rounds=1, threshold=0.5)
    trained = self_train(TEXTS, LABELS, MORE, lm, config, QUICK, output=tmp_path / "clf", progress=False)
    assert has_both(tmp_path / "clf")
    assert [path.name for path in trained.folders] == ["forward", "backward"]
    mean = np.mean(
        [predict_probabilities(each.model, each.tokenizer, each.task, MORE[:9]) for each in trained.models], axis=0
    )
    assert np.array_equal(Classifiers.load([tmp_path / "clf"]).activated(MORE[:9]), mean)
