"""Words for labels as features: of the vectorizer, and of the probe that labels first in self-training."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from tests.cli.command_line import assert_one_line
from tests.tiny import CLASSIFY, PRETRAIN
from ulmfit_fast import (
    InputError,
    SelfTrainingConfig,
    TrainedClassifier,
    TrainedLanguageModel,
    ULMFiTClassifier,
    ULMFiTVectorizer,
    pretrain_lm,
    self_train,
)
from ulmfit_fast.cli.main import main
from ulmfit_fast.estimator import classifier as estimator_module
from ulmfit_fast.few_labels import features as features_module
from ulmfit_fast.few_labels import self_train as self_training
from ulmfit_fast.few_labels.features import EMPHASIS, Features
from ulmfit_fast.few_labels.label_scores import label_evidence
from ulmfit_fast.few_labels.self_train import SelfTrained
from ulmfit_fast.few_labels.teacher import Teacher
from ulmfit_fast.few_labels.zero_shot import ZeroShotClassifier
from ulmfit_fast.inference.pooled_vectors import language_model_vectors
from ulmfit_fast.storage.model_folder import save_model

TEMPLATE = "{text} {label}."
WORDS = {"d": ["day"], "n": ["night", "evening"]}
OF_DAY, OF_NIGHT = ["sun", "light", "noon", "warm"], ["moon", "dark", "star", "cold"]
DAY, NIGHT = ([" ".join(p) for p in permutations(words, 2)] for words in (OF_DAY, OF_NIGHT))
FEW, FEW_LABELS = ["sun noon", "noon sun", "moon star", "star moon"], ["d", "d", "n", "n"]
MORE = [text for pair in zip(DAY, NIGHT, strict=True) for text in pair]


QUICK = replace(CLASSIFY, epochs=1)


@pytest.fixture(scope="module")
def model() -> TrainedLanguageModel:
    """Has read what belongs to the day and to the night."""
    texts = [TEMPLATE.format(text=text, label="day") for text in DAY] * 4
    texts += [TEMPLATE.format(text=text, label=word) for text in NIGHT for word in WORDS["n"]] * 2
    return pretrain_lm(texts, replace(PRETRAIN, epochs=10, drop_mult=0.0, lr=0.03), progress=False)


@pytest.fixture(scope="module")
def backward() -> TrainedLanguageModel:
    return pretrain_lm(MORE * 4, replace(PRETRAIN, direction="backward"), progress=False)


KNOWN = {label: tuple(own) for label, own in WORDS.items()}


def test_evidence_is_the_logarithm_of_uncalibrated_probabilities(model: TrainedLanguageModel) -> None:
    logs = np.log(ZeroShotClassifier(model, WORDS, [TEMPLATE], "none").predict_proba(FEW).astype(np.float64))
    one, other = (label_evidence(model, KNOWN, [template], FEW) for template in (TEMPLATE, "{label}: {text}"))
    np.testing.assert_allclose(one, logs - logs.mean(1, keepdims=True), atol=1e-4)
    both = label_evidence(model, KNOWN, [TEMPLATE, "{label}: {text}"], FEW)
    np.testing.assert_allclose(both, (one + other) / 2, atol=1e-6)


def test_columns_of_the_vectorizer(model: TrainedLanguageModel) -> None:
    plain = language_model_vectors(model.model, model.tokenizer, MORE)
    evidence = label_evidence(model, KNOWN, [TEMPLATE], MORE)
    raw = ULMFiTVectorizer(model, standardize=False, label_words=WORDS, templates=[TEMPLATE]).fit(MORE)
    np.testing.assert_allclose(raw.transform(MORE), np.concatenate([plain, evidence], axis=1), atol=1e-5)
    assert raw.get_feature_names_out()[-3:].tolist() == [f"mean{plain.shape[1] // 3 - 1}", "words_d", "words_n"]
    scaled = ULMFiTVectorizer(model, label_words=WORDS, templates=[TEMPLATE]).fit_transform(MORE)
    np.testing.assert_allclose(scaled.std(0)[-2:], EMPHASIS, rtol=1e-4)
    np.testing.assert_allclose(scaled[:, :-2], ULMFiTVectorizer(model).fit_transform(MORE), atol=1e-5)


def test_the_regression_listens_to_words_first(model: TrainedLanguageModel) -> None:
    """The labelled texts tell day from night by their pooled states, too. With the words' columns exchanged, what has
    been learned must say the opposite.
    """
    vectorizer = ULMFiTVectorizer(model, label_words=WORDS, templates=[TEMPLATE]).fit(MORE)
    regression = LogisticRegression(C=0.01).fit(vectorizer.transform(FEW), FEW_LABELS)
    vectors, expected = vectorizer.transform(MORE), ["d", "n"] * len(DAY)
    assert regression.score(vectors, expected) == 1
    vectors[:, -2:] = vectors[:, :-3:-1]
    assert regression.score(vectors, expected) < 0.1


@pytest.fixture
def says_noon_is_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """What words say agrees with the labelled texts, and contradicts the pooled states wherever "noon" is missing."""

    def evidence(model: Any, words: dict[str, Any], templates: Any, texts: list[str], *options: Any) -> np.ndarray:
        side = np.array([1.0 if "noon" in text.split() else -1.0 for text in texts])
        return np.stack([side if label == "d" else -side for label in words], axis=1)

    monkeypatch.setattr(features_module, "label_evidence", evidence)


def taken_labels(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What each training of ``self_train`` learns from, text by text, filled while it runs."""
    trainings: list[dict[str, str]] = []
    train = self_training.finetune_classifier

    def finetune(texts: list[str], labels: list[str], *rest: Any, **options: Any) -> TrainedClassifier:
        trainings.append(dict(zip(texts, labels, strict=True)))
        return train(texts, labels, *rest, **options)

    monkeypatch.setattr(self_training, "finetune_classifier", finetune)
    return trainings


@pytest.mark.usefixtures("says_noon_is_day")
def test_self_training_takes_what_words_say(model: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SelfTrainingConfig(rounds=1, first="probe", share=1.0, balance=False)
    trainings = taken_labels(monkeypatch)
    for label_words, first in ((WORDS, "auto"), (None, "probe")):
        how = replace(config, first=first)
        self_train(FEW, FEW_LABELS, MORE, model, how, QUICK, label_words=label_words, progress=False)
    with_words, without = trainings  # the probe labels alone: no classifier is trained in round 0
    assert (with_words["light warm"], without["light warm"]) == ("n", "d")
    assert (with_words["warm noon"], without["warm noon"]) == ("d", "d")


def test_only_models_that_read_forward_have_words(
    model: TrainedLanguageModel, backward: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    class Recorded(Features):
        def __init__(self, language_model: TrainedLanguageModel, *arguments: Any, **options: Any) -> None:
            given.append((language_model.tokenizer.direction, *arguments))
            super().__init__(language_model, *arguments, **options)

    monkeypatch.setattr(self_training, "Features", Recorded)
    config = SelfTrainingConfig(rounds=1, share=1.0)
    trainings = taken_labels(monkeypatch)
    options = {"label_words": WORDS, "templates": [TEMPLATE], "progress": False}
    self_train(FEW, FEW_LABELS, MORE, [model, backward], config, QUICK, **options)  # type: ignore[arg-type]
    assert given == [
        ("forward", {label: tuple(own) for label, own in WORDS.items()}, (TEMPLATE,)),
        ("backward", None, None),
    ]
    assert [len(learned) > len(FEW) for learned in trainings] == [
        False,
        True,
        True,
    ]  # the backward one has a classifier
    with pytest.raises(InputError, match="label_words need a forward language model"):
        self_train(FEW, FEW_LABELS, MORE, backward, config, QUICK, **options)  # type: ignore[arg-type]


def test_the_estimator_hands_words_on(model: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def record(*arguments: Any, **options: Any) -> SelfTrained:
        given.append((arguments[3].tokenizer.direction, options["label_words"]))
        return self_train(*arguments, **options)

    monkeypatch.setattr(estimator_module, "self_train", record)
    read: list[int] = []
    monkeypatch.setattr(estimator_module, "pretrain_lm", lambda *a, **k: (read.append(1), pretrain_lm(*a, **k))[1])
    quick = {"pretrain_config": PRETRAIN, "classifier_config": QUICK, "direction": "both", "progress": False}
    how, words = SelfTrainingConfig(rounds=1), {"d": "sun", "n": "moon"}
    estimator = ULMFiTClassifier(self_training=how, **quick)  # type: ignore[arg-type]
    for wrong, other, message in (
        ({"d": "day"}, how, "label_words must have two labels"),
        ({"d": "sun", "x": "moon"}, how, "label_words must name each label and no other"),
        (words, replace(how, first="classifier"), "label_words are for a probe"),
        (words, None, "label_words are for self-training"),
    ):
        with pytest.raises(InputError, match=message):
            ULMFiTClassifier(self_training=other, **quick).fit(FEW, FEW_LABELS, MORE, label_words=wrong)  # type: ignore[arg-type]
    assert read == []  # before hours of work
    estimator.fit(FEW, FEW_LABELS, MORE * 4, label_words=words)
    assert given == [("forward", words), ("backward", None)]


def test_a_round_has_a_score_where_all_models_have_a_classifier(
    model: TrainedLanguageModel, backward: TrainedLanguageModel
) -> None:
    """Round 0 has a probe alone for the forward model and a classifier for the backward one: no mean of both."""
    found = self_train(
        FEW, FEW_LABELS, MORE, [model, backward], SelfTrainingConfig(rounds=1, share=1.0), QUICK, label_words=WORDS,
        valid_texts=FEW, valid_labels=FEW_LABELS, progress=False,
    )  # fmt: skip
    assert [done.score is None for done in found.rounds] == [True, False]
    assert all(record["round"] == 1 for each in found.models for record in each.history.records)


def test_words_of_any_sequence_are_written(model: TrainedLanguageModel, tmp_path: Path) -> None:
    words = {label: np.array(own) for label, own in WORDS.items()}
    self_train(
        FEW, FEW_LABELS, MORE, model, SelfTrainingConfig(rounds=1, share=1.0), QUICK, label_words=words,  # type: ignore[arg-type]
        templates=np.array([TEMPLATE]), output=tmp_path / "clf", progress=False,  # type: ignore[arg-type]
    )  # fmt: skip
    arguments = json.loads((tmp_path / "clf" / "training_args.json").read_text())["self_training"]
    assert (arguments["label_words"], arguments["templates"]) == ({"d": ["day"], "n": ["night", "evening"]}, [TEMPLATE])


def test_class_weights_reach_the_probe(model: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks: list[Any] = []

    class Recorded(Teacher):
        def __init__(self, vectors: Any, data: Any, task: Any, seed: int) -> None:
            tasks.append(task)
            super().__init__(vectors, data, task, seed)

    monkeypatch.setattr(self_training, "Teacher", Recorded)
    self_train(
        FEW, FEW_LABELS, MORE, model, SelfTrainingConfig(rounds=1, first="probe"), QUICK,
        class_weight={"d": 1.0, "n": 9.0}, progress=False,
    )  # fmt: skip
    targets = tasks[0].encode(["n", "d"], "labels")
    logits = torch.zeros(2, tasks[0].outputs)
    each = [
        float(tasks[0].loss(logits[i : i + 1], targets[i : i + 1]) * tasks[0].weight(targets[i : i + 1]))
        for i in (0, 1)
    ]
    assert each[0] == pytest.approx(9 * each[1])


def test_what_is_refused(model: TrainedLanguageModel) -> None:
    train = "self_train: "
    for words, first, base, message in (
        ({"d": "day"}, "auto", model, f"{train}label_words must have two labels or more"),
        (
            {"d": "day", "x": "night"},
            "auto",
            model,
            f"{train}label_words must name each label and no other: .*'d', 'n'",
        ),
        (WORDS, "classifier", model, f"{train}label_words are for a probe, and none labels first"),
        (WORDS, "auto", None, f"{train}label_words are for a probe, and none labels first"),
        ({**WORDS, "d": "zzz"}, "auto", model, f"{train}the model knows none of the words of 'd'"),
        ({**WORDS, "d": []}, "auto", model, f"{train}the label 'd' needs at least one word"),
    ):
        with pytest.raises(InputError, match=message):
            self_train(FEW, FEW_LABELS, MORE, base, SelfTrainingConfig(first=first), QUICK, label_words=words)
    with pytest.raises(InputError, match="templates do nothing without label_words"):
        self_train(FEW, FEW_LABELS, MORE, model, None, QUICK, templates=[TEMPLATE])
    for options, kind, message in (
        ({"label_words": {"d": "zzz", "n": "night"}}, InputError, "the model knows none of the words of 'd'"),
        ({"label_words": ["day", "night"]}, TypeError, "label_words must map each label to its words, .* got list"),
        ({"label_words": {"d": 5, "n": "night"}}, TypeError, "label_words of 'd' must be a sequence of texts, got int"),
        (
            {"label_words": WORDS, "templates": TEMPLATE},
            TypeError,
            "templates must be a sequence of texts, got one str",
        ),
        ({"label_words": WORDS, "templates": []}, InputError, "templates is empty"),
        ({"templates": [TEMPLATE]}, InputError, "templates do nothing without label_words"),
    ):
        with pytest.raises(kind, match=f"ULMFiTVectorizer: {message}"):
            ULMFiTVectorizer(model, **options).fit(FEW)  # type: ignore[arg-type]


def test_features_are_those_of_the_texts_alone(model: TrainedLanguageModel) -> None:
    features = Features(model, WORDS, [TEMPLATE])
    together = features.read(MORE)
    assert np.array_equal(together, features.read(MORE, batch_size=3))
    assert np.array_equal(together[5:6], features.read(MORE[5:6]))
    assert features.read([]).shape == (0, together.shape[1])


def test_the_command(model: TrainedLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "lm", model.model, model.tokenizer)
    pd.DataFrame({"text": FEW, "label": FEW_LABELS}).to_csv(tmp_path / "few.csv", index=False)
    pd.DataFrame({"text": MORE}).to_csv(tmp_path / "more.csv", index=False)
    command = ["self-train", str(tmp_path / "few.csv"), "--unlabeled", str(tmp_path / "more.csv")]
    command += ["--model", str(tmp_path / "lm"), "--template", TEMPLATE, "--share", "1", "--rounds", "1"]
    words = ["--label", "d=day", "--label", "n=night,evening"]
    assert main([*command, *words, "--round-epochs", "1", "--output", str(tmp_path / "clf")]) == 0
    assert f"labels taken: d {len(DAY)}, n {len(NIGHT)}" in capsys.readouterr().err
    arguments = json.loads((tmp_path / "clf" / "training_args.json").read_text())["self_training"]
    assert (arguments["label_words"], arguments["templates"]) == ({"d": ["day"], "n": ["night", "evening"]}, [TEMPLATE])
    assert main([*command, "--label", "d=day", "--label", "x=night", "--output", str(tmp_path / "clf2")]) == 2
    assert_one_line(capsys, "label_words must name each label")
    assert main([*command, "--output", str(tmp_path / "clf2")]) == 2
    assert_one_line(capsys, "--template does nothing here: no --label has words to put into it")
    assert not (tmp_path / "clf2").exists()
