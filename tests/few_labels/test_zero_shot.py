"""Classes from words: the probabilities by hand, calibration, few labels, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import FINETUNE, PRETRAIN
from ulmfit_fast import InputError, TrainedLanguageModel, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.core.errors import InputWarning
from ulmfit_fast.few_labels.zero_shot import ZeroShotClassifier
from ulmfit_fast.inference.scoring import score_text, score_variants

DAY, NIGHT = ["sun light noon", "noon sun", "light noon sun"], ["moon dark star", "star moon", "dark star moon"]
TEXTS, LABELS = [*DAY, *NIGHT], ["d"] * 3 + ["n"] * 3
WORDS = {"d": ["day"], "n": ["night", "evening"]}
TEMPLATE = "{text} {label}."


@pytest.fixture(scope="module")
def model() -> TrainedLanguageModel:
    """Has read what belongs together, and "night" a little more often than "day"."""
    texts = [TEMPLATE.format(text=text, label="day") for text in DAY] * 8
    texts += [TEMPLATE.format(text=text, label=label) for text in NIGHT for label in ("night", "night", "evening")] * 4
    return pretrain_lm(texts, replace(PRETRAIN, epochs=15, drop_mult=0.0, lr=0.03), progress=False)


def test_scores_of_texts(model: TrainedLanguageModel) -> None:
    """The whole continuation counts; what variants have in common does not."""
    text, more = "sun light", [" day.", " night.", " noon"]
    found = score_text(model.model, model.tokenizer, text, more)
    (prefix,) = model.tokenizer.encode([text])
    for score, each in zip(found, more, strict=True):
        (ids,) = model.tokenizer.encode([text + each])
        assert score == pytest.approx(float(model.model.score(prefix, [ids[len(prefix) :]])[0]), abs=1e-5)
    assert found[0] > found[1]
    assert model.score(text, more) == pytest.approx(found)
    beside = score_variants(model.model, model.tokenizer, [[text + more[0], text + more[1]]])
    assert beside[0, 0] - beside[0, 1] == pytest.approx(found[0] - found[1], abs=1e-5)
    assert beside[0] == pytest.approx(found[:2], abs=1e-5)  # the text is not counted


def test_probabilities_by_hand(model: TrainedLanguageModel) -> None:
    """Of a label's words the mean, of templates the mean, calibration a division."""
    templates = [TEMPLATE, "{label}: {text}"]
    classifier = ZeroShotClassifier(model, WORDS, templates, "none")
    expected = np.zeros((6, 2))
    for template in templates:
        for row, text in enumerate(TEXTS):
            each = {
                word: np.exp(score_text(model.model, model.tokenizer, "", [template.format(text=text, label=word)])[0])
                for word in ("day", "night", "evening")
            }
            own = np.array([each["day"], (each["night"] + each["evening"]) / 2])
            expected[row] += own / own.sum() / 2
    found = classifier.predict_proba(TEXTS)
    assert found == pytest.approx(expected, abs=1e-4)
    calibrated = ZeroShotClassifier(model, WORDS, [TEMPLATE], "texts")
    with pytest.raises(InputError, match=r"needs calibrate\(texts\) before"):
        calibrated.predict_proba(TEXTS)
    plain = ZeroShotClassifier(model, WORDS, [TEMPLATE], "none").predict_proba(TEXTS)
    divided = plain / plain.mean(0)
    divided /= divided.sum(1, keepdims=True)
    assert calibrated.calibrate(TEXTS).predict_proba(TEXTS) == pytest.approx(divided, abs=1e-4)
    free = ZeroShotClassifier(model, WORDS, [TEMPLATE], "none").predict_proba(["N/A", "", "..."])
    divided = plain / free.mean(0)
    divided /= divided.sum(1, keepdims=True)
    assert ZeroShotClassifier(model, WORDS, [TEMPLATE]).predict_proba(TEXTS) == pytest.approx(divided, abs=1e-4)


def test_it_predicts_without_labels(model: TrainedLanguageModel) -> None:
    classifier = ZeroShotClassifier(model, WORDS, [TEMPLATE])
    assert classifier.predict(TEXTS).tolist() == LABELS
    assert classifier.score(TEXTS, LABELS) == 1
    assert classifier.predict_proba([]).shape == (0, 2)
    assert classifier.predict(["sun {noon} light"]).tolist() == ["d"]  # braces of a text mean nothing
    cut = ZeroShotClassifier(model, WORDS, [TEMPLATE], words=1)
    assert cut.predict_proba(["moon dark noon sun"]) == pytest.approx(cut.predict_proba(["sun"]))


def test_few_labels_teach_other_words(model: TrainedLanguageModel) -> None:
    """The words change their meaning; the given language model stays as it was."""
    swapped = {"d": "night", "n": "day"}
    before = model.score("sun", [" day."])
    classifier = ZeroShotClassifier(model, swapped, [TEMPLATE])
    assert classifier.score(TEXTS, LABELS) == 0
    classifier.fit(TEXTS * 4, LABELS * 4, replace(FINETUNE, epochs=20, lr=0.03, drop_mult=0.0))
    assert classifier.score(TEXTS, LABELS) > 0.8
    assert model.score("sun", [" day."]) == pytest.approx(before)


def test_what_is_refused(model: TrainedLanguageModel) -> None:
    for verbalizers, template, message in (
        ({"d": "day"}, TEMPLATE, "two labels or more"),
        ({"d": "day", "n": "zzz"}, TEMPLATE, "knows none of the words of 'n'"),
        ({"d": "day", "n": []}, TEMPLATE, "needs at least one word"),
        (WORDS, "{text} {text} {label}", "must have {text} once"),
        (WORDS, "{text", "expected '}'"),
    ):
        with pytest.raises(InputError, match=message):
            ZeroShotClassifier(model, verbalizers, [template])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="calibration must be one of"):
        ZeroShotClassifier(model, WORDS, calibration="all")
    with pytest.raises(InputError, match="unknown label 'x'"):
        ZeroShotClassifier(model, WORDS).fit(["sun"], ["x"])
    with pytest.warns(InputWarning, match="does not know 'zzz', which is left out"):
        assert ZeroShotClassifier(model, {"d": ["day", "zzz"], "n": "night"}).verbalizers["d"] == ("day",)


def test_the_command(model: TrainedLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ulmfit_fast.storage.model_folder import save_model

    save_model(tmp_path / "lm", model.model, model.tokenizer)
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv(tmp_path / "t.csv", index=False)
    arguments = ["zero-shot", str(tmp_path / "t.csv"), "--model", str(tmp_path / "lm"), "--template", TEMPLATE]
    labels = ["--label", "d=day", "--label", "n=night,evening"]
    output = tmp_path / "p.csv"
    assert main([*arguments, *labels, "--output", str(output), "--evaluate", "--calibration", "texts"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert pd.read_csv(output)["prediction"].tolist() == LABELS
    assert main([*arguments, *labels, "--train", str(tmp_path / "t.csv"), "--evaluate"]) == 0
    for given, message in (
        ([*labels], "give --output for predictions"), (["--label", "d", "--evaluate"], "give LABEL=WORD,WORD"),
        ([*labels, *labels, "--evaluate"], "is given twice"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main([*arguments, *given]) == 2
        assert_one_line(capsys, message)
