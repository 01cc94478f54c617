"""Words for labels as features: of the vectorizer, and of the probe that labels first in self-training."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from tests.cli.command_line import assert_one_line
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN
from ulmfit_fast import (
    InputError,
    SelfTrainingConfig,
    TrainedLanguageModel,
    ULMFiTClassifier,
    ULMFiTVectorizer,
    pretrain_lm,
    self_train,
)
from ulmfit_fast.cli.main import main
from ulmfit_fast.few_labels.features import EMPHASIS, Features
from ulmfit_fast.few_labels.zero_shot import ZeroShotClassifier
from ulmfit_fast.inference.pooled_vectors import language_model_vectors
from ulmfit_fast.storage.model_folder import save_model

TEMPLATE = "{text} {label}."
WORDS = {"d": ["day"], "n": ["night", "evening"]}
OF_DAY, OF_NIGHT = ["sun", "light", "noon", "warm"], ["moon", "dark", "star", "cold"]
DAY, NIGHT = ([" ".join(p) for p in permutations(words, 2)] for words in (OF_DAY, OF_NIGHT))
FEW, FEW_LABELS = ["sun noon", "noon sun", "moon star", "star moon"], ["d", "d", "n", "n"]
MORE = [text for pair in zip(DAY, NIGHT, strict=True) for text in pair]


@pytest.fixture(scope="module")
def model() -> TrainedLanguageModel:
    """Has read what belongs to the day and to the night."""
    texts = [TEMPLATE.format(text=text, label="day") for text in DAY] * 4
    texts += [TEMPLATE.format(text=text, label=word) for text in NIGHT for word in WORDS["n"]] * 2
    return pretrain_lm(texts, replace(PRETRAIN, epochs=10, drop_mult=0.0, lr=0.03), progress=False)


def test_evidence_is_the_logarithm_of_uncalibrated_probabilities(model: TrainedLanguageModel) -> None:
    classifier = ZeroShotClassifier(model, WORDS, [TEMPLATE], "none")
    logs = np.log(classifier.predict_proba(FEW).astype(np.float64))
    np.testing.assert_allclose(classifier.evidence(FEW), logs - logs.mean(1, keepdims=True), atol=1e-4)
    both = ZeroShotClassifier(model, WORDS, [TEMPLATE, "{label}: {text}"], "none").evidence(FEW)
    other = ZeroShotClassifier(model, WORDS, ["{label}: {text}"], "none").evidence(FEW)
    np.testing.assert_allclose(both, (classifier.evidence(FEW) + other) / 2, atol=1e-6)


def test_columns_of_the_vectorizer(model: TrainedLanguageModel) -> None:
    plain = language_model_vectors(model.model, model.tokenizer, MORE)
    evidence = ZeroShotClassifier(model, WORDS, [TEMPLATE], "none").evidence(MORE)
    raw = ULMFiTVectorizer(model, standardize=False, words=WORDS, templates=[TEMPLATE]).fit(MORE)
    np.testing.assert_allclose(raw.transform(MORE), np.concatenate([plain, evidence], axis=1), atol=1e-5)
    assert raw.get_feature_names_out()[-3:].tolist() == [f"mean{plain.shape[1] // 3 - 1}", "words_d", "words_n"]
    scaled = ULMFiTVectorizer(model, words=WORDS, templates=[TEMPLATE]).fit_transform(MORE)
    np.testing.assert_allclose(scaled.std(0)[-2:], EMPHASIS, rtol=1e-4)
    np.testing.assert_allclose(scaled[:, :-2], ULMFiTVectorizer(model).fit_transform(MORE), atol=1e-5)


def test_words_tell_what_two_texts_cannot(model: TrainedLanguageModel) -> None:
    """A label that has nothing to do with what the four texts have in common is found by its words."""
    words = ULMFiTVectorizer(model, words=WORDS, templates=[TEMPLATE]).fit(MORE)
    pipeline = make_pipeline(words, LogisticRegression(C=0.01))
    pipeline[-1].fit(words.transform(FEW), FEW_LABELS)
    assert pipeline.score(MORE, ["d", "n"] * len(DAY)) == 1


def test_what_self_training_takes_first(model: TrainedLanguageModel) -> None:
    config = SelfTrainingConfig(rounds=1, share=1.0)
    quick = replace(CLASSIFY, epochs=1)
    said: list[str] = []
    found = self_train(
        FEW, FEW_LABELS, MORE, model, config, quick, words=WORDS, templates=[TEMPLATE], progress=False,
        on_round=lambda done: said.append(str(done.taken)),
    )  # fmt: skip
    assert {record["round"] for record in found.models[0].history.records} == {1}  # no classifier in round 0
    assert found.rounds[1].taken == [{"d": len(DAY), "n": len(NIGHT)}]
    assert len(said) == 2


def test_a_backward_model_labels_without_words(model: TrainedLanguageModel) -> None:
    backward = pretrain_lm(MORE * 4, replace(PRETRAIN, direction="backward"), progress=False)
    config, quick = SelfTrainingConfig(rounds=1, share=1.0), replace(CLASSIFY, epochs=1)
    options = {"words": WORDS, "templates": [TEMPLATE], "progress": False}
    found = self_train(FEW, FEW_LABELS, MORE, [model, backward], config, quick, **options)  # type: ignore[arg-type]
    assert len(found.models) == 2
    with pytest.raises(InputError, match="words need a forward language model"):
        self_train(FEW, FEW_LABELS, MORE, backward, config, quick, **options)  # type: ignore[arg-type]


def test_the_estimator_hands_words_on(model: TrainedLanguageModel, tmp_path: Path) -> None:
    save_model(tmp_path / "lm", model.model, model.tokenizer)
    quick, how = replace(CLASSIFY, epochs=1), SelfTrainingConfig(rounds=1, share=1.0)
    stage_two = replace(FINETUNE, epochs=1, lr=1e-6)
    for direction, directions in ((None, 1), ("both", 2)):
        pretrained = None if direction else tmp_path / "lm"
        estimator = ULMFiTClassifier(
            pretrained, pretrain_config=replace(PRETRAIN, drop_mult=0.0), finetune_config=stage_two,
            classifier_config=quick, self_training=how, direction=direction, progress=False,
        )  # fmt: skip
        estimator.fit(FEW, FEW_LABELS, MORE * 4, words=WORDS if direction is None else {"d": "sun", "n": "moon"})
        assert len(estimator._members()) == directions
        rounds = {record["round"] for record in estimator.history_.records if "round" in record}
        assert rounds == {1}
    with pytest.raises(InputError, match="words are for self-training"):
        ULMFiTClassifier(tmp_path / "lm", progress=False).fit(FEW, FEW_LABELS, words=WORDS)


def test_what_is_refused(model: TrainedLanguageModel) -> None:
    for words, first, base, message in (
        ({"d": "day"}, "auto", model, "words must name each label .*'d', 'n'.* and no other"),
        ({**WORDS, "x": "day"}, "auto", model, "words must name each label"),
        (WORDS, "classifier", model, "words are for a probe, and none labels first"),
        (WORDS, "auto", None, "words are for a probe, and none labels first"),
        ({**WORDS, "d": "zzz"}, "auto", model, "knows none of the words of 'd'"),
    ):
        with pytest.raises(InputError, match=message):
            self_train(FEW, FEW_LABELS, MORE, base, SelfTrainingConfig(first=first), CLASSIFY, words=words)
    with pytest.raises(InputError, match="knows none of the words of 'd'"):
        ULMFiTVectorizer(model, words={"d": "zzz", "n": "night"}).fit(FEW)


def test_features_are_those_of_the_texts_alone(model: TrainedLanguageModel) -> None:
    features = Features(model, WORDS, [TEMPLATE], batch_size=3)
    together = features.read(MORE)
    np.testing.assert_allclose(together[5:6], features.read(MORE[5:6]), atol=1e-5)
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
    assert main([*command, "--label", "d=day", "--output", str(tmp_path / "clf2")]) == 2
    assert_one_line(capsys, "words must name each label")
    assert not (tmp_path / "clf2").exists()
