"""A linear classifier as a model folder: against scikit-learn's regression, taught by words, and as others are used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from tests.cli.command_line import assert_one_line, write_task
from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import (
    InputError,
    InputWarning,
    LinearConfig,
    TrainedClassifier,
    TrainedLanguageModel,
    ULMFiTClassifier,
    finetune_classifier,
    pretrain_lm,
    train_linear,
)
from ulmfit_fast.cli.main import main
from ulmfit_fast.few_labels import features as features_module
from ulmfit_fast.few_labels import probe
from ulmfit_fast.few_labels.train_linear import _taught
from ulmfit_fast.inference.pooled_vectors import language_model_vectors, pooled_vectors
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.linear_head import set_linear
from ulmfit_fast.tasks.single_label import SingleLabel

TEXTS, LABELS = make_task(40)
MORE, TRUE = make_task(90, seed=3)
WORDS = {"good": ["great", "fine"], "bad": ["poor"]}


def predicted(trained: TrainedClassifier, texts: list[str]) -> np.ndarray:
    return predict_probabilities(trained.model, trained.tokenizer, trained.task, texts, progress=False)


def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation; 1 for a feature that never changes."""
    deviation = x.std(0, dtype=np.float64)
    return x.mean(0, dtype=np.float64), np.where(deviation > 1e-6, deviation, 1)


def regression(
    trained: TrainedLanguageModel, strength: float, weights: np.ndarray | None = None, like: list[str] = MORE
) -> np.ndarray:
    """What scikit-learn's predicts of ``MORE``. It has one output for two classes, where ours has two."""
    x, new = (language_model_vectors(trained.model, trained.tokenizer, texts) for texts in (TEXTS, MORE))
    of_all = np.concatenate([x, language_model_vectors(trained.model, trained.tokenizer, like)]) if like else x
    mean, deviation = statistics(of_all)
    fitted = LogisticRegression(C=2 / strength, tol=1e-10, max_iter=1000)
    fitted.fit((x - mean) / deviation, LABELS, sample_weight=weights)
    return fitted.predict_proba((new - mean) / deviation)


@pytest.fixture(scope="module")
def language_model(models: Path) -> TrainedLanguageModel:
    return TrainedLanguageModel.load(models / "lm2")


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_the_head_computes_the_linear_map(outputs: int) -> None:
    random = torch.Generator().manual_seed(0)
    encoder = AWDLSTM(AWDLSTMConfig(vocab_size=20, embedding_size=4, hidden_size=6, num_layers=1))
    model = TextClassifier(encoder, outputs, 12).eval()
    pooled = torch.randn(30, 12, generator=random) * 3 + 1
    pooled[:, 0] = 2.0  # never changes
    pooled[:, 1] *= 1e-4  # and one that hardly does, next to BatchNorm's 1e-5
    mean, scale = pooled.mean(0), 1 / pooled.std(0).clamp(min=1e-5)
    weight, bias = torch.randn(outputs, 12, generator=random), torch.randn(outputs, generator=random)
    set_linear(model, mean, scale, weight, bias, pooled)
    expected = ((pooled.double() - mean) * scale) @ weight.double().T + bias
    torch.testing.assert_close(model.classify(pooled).double(), expected, rtol=1e-4, atol=1e-4)
    # The BatchNorms' statistics are those of these texts: training begins with the same function, but for dropout.
    for module in model.head:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    in_training = model.head.train()(pooled)
    torch.testing.assert_close(in_training.double(), expected, rtol=0.1, atol=0.1 * float(expected.std()))


def test_too_few_hidden_features() -> None:
    encoder = AWDLSTM(AWDLSTMConfig(vocab_size=20, embedding_size=4, hidden_size=6, num_layers=1))
    one = torch.ones(12)
    with pytest.raises(ValueError, match="3 outputs need 6 hidden features, got 5"):
        set_linear(TextClassifier(encoder, 3, 5), one, one, torch.ones(3, 12), torch.ones(3), torch.ones(4, 12))


@pytest.mark.parametrize("strength", [200.0, 1.0])
def test_it_is_the_regression_of_scikit_learn(language_model: TrainedLanguageModel, strength: float) -> None:
    before = {name: x.clone() for name, x in language_model.model.state_dict().items()}
    trained = train_linear(
        TEXTS, LABELS, language_model, LinearConfig(strength=strength), unlabeled=MORE, progress=False
    )
    np.testing.assert_allclose(predicted(trained, MORE), regression(language_model, strength), atol=2e-4)
    assert trained.labels == ["bad", "good"]
    states = pooled_vectors(trained.model, trained.tokenizer, MORE)
    own = language_model_vectors(language_model.model, language_model.tokenizer, MORE)
    assert np.array_equal(states, own)  # the encoder is the language model's
    assert all(torch.equal(x, before[name]) for name, x in language_model.model.state_dict().items())


def test_weights_count(language_model: TrainedLanguageModel) -> None:
    weights = np.linspace(0.1, 3, len(TEXTS))
    trained = train_linear(TEXTS, LABELS, language_model, sample_weight=weights, progress=False)
    np.testing.assert_allclose(predicted(trained, MORE), regression(language_model, 200.0, weights, []), atol=2e-4)
    of_class = train_linear(TEXTS, LABELS, language_model, class_weight={"good": 2.0, "bad": 0.5}, progress=False)
    weights = np.where(np.array(LABELS) == "good", 2.0, 0.5)
    np.testing.assert_allclose(predicted(of_class, MORE), regression(language_model, 200.0, weights, []), atol=2e-4)


def test_numbers_and_several_labels(language_model: TrainedLanguageModel) -> None:
    """Ridge regression on numbers that one output learns; and two independent regressions of several labels."""
    x, new = (language_model_vectors(language_model.model, language_model.tokenizer, texts) for texts in (TEXTS, MORE))
    mean, deviation = statistics(x)
    numbers = np.array([len(text) / 10 for text in TEXTS])
    trained = train_linear(TEXTS, numbers.tolist(), language_model, LinearConfig(task="regression"), progress=False)
    ridge = Ridge(alpha=100, tol=1e-8).fit((x - mean) / deviation, numbers)
    expected = ridge.predict((new - mean) / deviation)
    found = predicted(trained, MORE)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-3 * expected.std())

    both = [[label] if i % 3 else [label, "third"] for i, label in enumerate(LABELS)]
    several = predicted(train_linear(TEXTS, both, language_model, progress=False), MORE)
    for place, label in enumerate(["bad", "good", "third"]):
        own = LogisticRegression(C=1 / 200, tol=1e-10, max_iter=1000)
        own.fit((x - mean) / deviation, [label in each for each in both])
        expected = own.predict_proba((new - mean) / deviation)[:, 1]
        np.testing.assert_allclose(several[:, place], expected, atol=2e-4)


@pytest.fixture
def words_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words tell good texts from bad ones."""

    def evidence(model: Any, words: dict[str, Any], templates: Any, texts: list[str], *options: Any) -> np.ndarray:
        true = dict(zip([*TEXTS, *MORE], [*LABELS, *TRUE], strict=True))
        side = np.array([1.0 if true[text] == "good" else -1.0 for text in texts])
        return np.stack([side if label == "good" else -side for label in words], axis=1)

    monkeypatch.setattr(features_module, "label_evidence", evidence)


@pytest.mark.usefixtures("words_know")
@pytest.mark.parametrize("task", ["single_label", "binary"])
def test_words_teach(language_model: TrainedLanguageModel, task: str) -> None:
    """Four labels teach little; with words the model knows what the words know, and needs them no more."""
    few, labels = TEXTS[:4], LABELS[:4]
    config = LinearConfig(task=task, strength=1.0)
    alone = train_linear(few, labels, language_model, config, unlabeled=MORE, progress=False)
    taught = train_linear(few, labels, language_model, config, unlabeled=MORE, label_words=WORDS, progress=False)
    new, true = make_task(200, seed=9)

    def right(trained: TrainedClassifier) -> float:
        return float(np.mean(trained.task.decode(predicted(trained, new)) == np.array(true)))

    assert right(taught) > right(alone) + 0.1
    assert right(taught) > 0.8


@pytest.mark.usefixtures("words_know")
@pytest.mark.parametrize("of_class", [None, {"good": 0.3, "bad": 1.7}])
def test_taught_labels_count_as_they_are_probable(
    language_model: TrainedLanguageModel, of_class: dict[Any, float] | None
) -> None:
    """Against scikit-learn's, which gets each unlabelled text once with each label. Weights of classes count once."""
    config = LinearConfig(strength=3.0)
    trained = train_linear(
        TEXTS, LABELS, language_model, config, unlabeled=[*MORE, *MORE[:5], *TEXTS, " "], label_words=WORDS,
        class_weight=of_class, progress=False,
    )  # fmt: skip

    states = language_model_vectors(language_model.model, language_model.tokenizer, [*TEXTS, *MORE])
    mean, deviation = statistics(states)
    states = (states - mean) / deviation
    side = np.where(np.array([*LABELS, *TRUE]) == "good", 1.0, -1.0)
    evidence = np.stack([-side, side], axis=1)
    evidence = 10 * (evidence - evidence.mean(0)) / evidence.std(0)
    with_words = np.concatenate([states, evidence], axis=1)
    new = LogisticRegression(C=2 / 3, tol=1e-10, max_iter=5000)
    shares = new.fit(with_words[:40], LABELS).predict_proba(with_words[40:])
    x = np.concatenate([states[:40], states[40:], states[40:]])
    y = [*LABELS, *["bad"] * len(MORE), *["good"] * len(MORE)]
    weights = np.concatenate([np.ones(40), shares[:, 0], shares[:, 1]])
    if of_class is not None:
        weights *= np.array([of_class[label] for label in y])
    expected = LogisticRegression(C=2 / 3, tol=1e-10, max_iter=5000).fit(x, y, sample_weight=weights)
    np.testing.assert_allclose(predicted(trained, MORE), expected.predict_proba(states[40:]), atol=1e-3)


def test_so_many_texts_are_read(language_model: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    plain = features_module.language_model_vectors
    monkeypatch.setattr(
        features_module, "language_model_vectors", lambda *a, **k: (read.append(len(a[2])), plain(*a, **k))[1]
    )
    for number, expected in ((7, 7), (0, len(MORE))):
        config = LinearConfig(pool=number)
        train_linear(TEXTS, LABELS, language_model, config, unlabeled=MORE, progress=False)
        assert read.pop() == len(TEXTS) + expected


def test_a_folder_like_others(models: Path, tmp_path: Path) -> None:
    trained = train_linear(
        TEXTS, LABELS, models / "lm2", LinearConfig(strength=1.0), valid_texts=MORE, valid_labels=TRUE,
        output=tmp_path / "clf", progress=False,
    )  # fmt: skip
    (record,) = trained.history.records
    assert record["accuracy"] > 0.7
    assert record["calibration"]["temperature"] == trained.task.temperature != 1  # type: ignore[attr-defined]
    loaded = ULMFiTClassifier.load(tmp_path / "clf", device="cpu")
    assert np.array_equal(loaded.predict_proba(MORE), predicted(trained, MORE))
    arguments = json.loads((tmp_path / "clf" / "training_args.json").read_text())
    assert (arguments["stage"], arguments["strength"]) == ("linear classifier", 1.0)
    assert "lr" not in arguments
    assert json.loads((tmp_path / "clf" / "history.jsonl").read_text())["stage"] == "linear"
    # int8, a stream and an explanation see nothing but a classifier.
    assert np.abs(loaded.quantize().predict_proba(MORE) - loaded.predict_proba(MORE)).mean() < 0.05
    assert loaded.explain(MORE[0]).label in ("good", "bad")
    goes_on = finetune_classifier(TEXTS, LABELS, tmp_path / "clf", replace(CLASSIFY, epochs=1, lr=1e-7), progress=False)
    np.testing.assert_allclose(goes_on.task.activate(torch.zeros(1, 2)).numpy(), [[0.5, 0.5]])
    # No step was large enough to matter, so what it can it has from the linear classifier. Running means have moved.
    assert np.mean(predicted(goes_on, MORE).argmax(1) == predicted(trained, MORE).argmax(1)) > 0.7
    with pytest.raises(InputError, match="already holds a model"):
        train_linear(TEXTS, LABELS, models / "lm2", output=tmp_path / "clf", progress=False)
    again = train_linear(TEXTS, LABELS, models / "lm2", output=tmp_path / "clf", overwrite=True, progress=False)
    loaded = ULMFiTClassifier.load(tmp_path / "clf", device="cpu")
    assert np.array_equal(loaded.predict_proba(MORE), predicted(again, MORE))


def test_numbers_in_order_and_many_classes(language_model: TrainedLanguageModel) -> None:
    """Ratings, whose outputs are thresholds; and more classes than a head usually has room for."""
    rating = [3 if label == "good" else 1 + i % 4 // 2 for i, label in enumerate(LABELS)]
    config = LinearConfig(task="ordinal", strength=1.0)
    trained = train_linear(TEXTS, rating, language_model, config, progress=False)
    assert trained.task.decode(predicted(trained, TEXTS)).tolist().count(3) in range(15, 26)
    assert np.corrcoef(trained.task.decode(predicted(trained, TEXTS)), rating)[0, 1] > 0.6
    many = [f"class {i % 30:02d}" for i in range(len(TEXTS))]
    trained = train_linear(TEXTS, many, language_model, LinearConfig(strength=1e-3), progress=False)
    assert trained.model.head[2].out_features == 60
    assert np.mean(trained.task.decode(predicted(trained, TEXTS)) == np.array(many)) > 0.7


@pytest.mark.usefixtures("words_know")
def test_many_labels_are_taught_by_the_most_probable_ones() -> None:
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(50), 7).astype(np.float32)
    task = SingleLabel([f"{i:02d}" for i in range(50)])
    rows, targets, shares = _taught(probabilities, task)
    assert rows.tolist() == [row for row in range(7) for _ in range(20)]
    for row in range(7):
        best = np.argsort(-probabilities[row])[:20]
        assert sorted(targets[rows == row].tolist()) == sorted(best.tolist())
        taught = np.zeros(50)
        taught[targets[rows == row].numpy()] = shares[rows == row].numpy()
        np.testing.assert_allclose(taught[best], probabilities[row][best] / probabilities[row][best].sum(), rtol=1e-5)


def test_a_backward_model_and_bfloat16(models: Path) -> None:
    backward = pretrain_lm([*TEXTS, *MORE], replace(PRETRAIN, direction="backward"), progress=False)
    with pytest.raises(InputError, match="reads a template from its end"):
        train_linear(TEXTS, LABELS, backward, unlabeled=MORE, label_words=WORDS, progress=False)
    trained = train_linear(TEXTS, LABELS, backward, unlabeled=MORE, progress=False)
    np.testing.assert_allclose(predicted(trained, MORE), regression(backward, 200.0), atol=2e-4)
    rounded = train_linear(TEXTS, LABELS, backward, LinearConfig(precision="bfloat16"), unlabeled=MORE, progress=False)
    assert 0 < np.abs(predicted(rounded, MORE) - predicted(trained, MORE)).max() < 0.1


def test_what_is_not_as_it_should_be_is_said(
    language_model: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = [f"{text} зима весна лето осень дождь снег" for text in TEXTS]
    with pytest.warns(InputWarning, match="train_linear: .* tokens are unknown"):
        train_linear(foreign, LABELS, language_model, progress=False)
    monkeypatch.setattr(probe, "_NEARLY_FLAT", 0.0)
    with pytest.warns(InputWarning, match="not fitted to the end"):
        train_linear(TEXTS, LABELS, language_model, progress=False)


def test_what_is_refused(models: Path, language_model: TrainedLanguageModel) -> None:
    with pytest.raises(InputError, match="needs a language model, got a classifier"):
        train_linear(TEXTS, LABELS, models / "clf", progress=False)
    with pytest.raises(InputError, match="give some as unlabeled"):
        train_linear(TEXTS, LABELS, language_model, label_words=WORDS, progress=False)
    with pytest.raises(InputError, match="none that have no label"):
        train_linear(TEXTS, LABELS, language_model, unlabeled=TEXTS, label_words=WORDS, progress=False)
    with pytest.raises(InputError, match="for tasks with one label a text, not regression"):
        train_linear(
            TEXTS, [1.0 * i for i in range(len(TEXTS))], language_model, LinearConfig(task="regression"),
            unlabeled=MORE, label_words=WORDS, progress=False,
        )  # fmt: skip
    with pytest.raises(InputError, match="must name each label"):
        train_linear(
            TEXTS, LABELS, language_model, unlabeled=MORE, label_words={"good": "great", "worse": "poor"},
            progress=False,
        )  # fmt: skip
    with pytest.raises(InputError, match="templates do nothing without label_words"):
        train_linear(TEXTS, LABELS, language_model, templates=["{text} {label}"], progress=False)
    with pytest.raises(InputError, match="strength must be above 0"):
        LinearConfig(strength=0.0)
    with pytest.raises(InputError, match="LinearConfig: label_delimiter must not be empty"):
        LinearConfig(label_delimiter="")
    with pytest.raises(InputError, match="all are 0"):
        train_linear(TEXTS, LABELS, language_model, class_weight={"good": 0, "bad": 0}, progress=False)
    small = TrainedClassifier.load(models / "clf")
    small.model = small.model.quantize()
    with pytest.raises(InputError, match="train_linear: an int8 model only predicts"):
        train_linear(TEXTS, LABELS, small, progress=False)  # type: ignore[arg-type]


def test_the_command(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = tmp_path / "more.csv"
    pd.DataFrame({"text": MORE}).to_csv(more, index=False)
    arguments = ["train-linear", str(models / "train.csv"), "--model", str(models / "lm2")]
    of_words = ["--unlabeled", str(more), "--label", "good=great,fine", "--label", "bad=poor"]
    valid = ["--valid", str(write_task(tmp_path / "valid.csv", 40, seed=5)), "--strength", "1"]
    assert main([*arguments, *of_words, *valid, "--output", str(tmp_path / "clf")]) == 0
    said = capsys.readouterr()
    assert "linear classifier: loss " in said.err
    assert "accuracy " in said.err
    assert f"model and history in {tmp_path / 'clf'}" in said.out
    assert main(["predict", str(more), "--model", str(tmp_path / "clf"), "--output", str(tmp_path / "p.csv")]) == 0
    table = pd.read_csv(tmp_path / "p.csv")
    assert np.mean(table["prediction"] == np.array(TRUE)) > 0.7
    assert main(["evaluate", str(tmp_path / "valid.csv"), "--model", str(tmp_path / "clf"),
                 "--report", str(tmp_path / "r.html")]) == 0  # fmt: skip
    again = ["train", str(models / "train.csv"), "--model", str(tmp_path / "clf"), "--epochs", "1"]
    assert main([*again, "--output", str(tmp_path / "clf2")]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "good=great", "--label", "bad=poor"], "name some with --unlabeled"),
        (["--template", "{text} {label}"], "--template does nothing here: no --label has words"),
        (["--strength", "0"], "strength must be above 0"),
        (["--pool", "10"], "--pool does nothing here: no --unlabeled has texts to read"),
    ],
)
def test_the_command_refuses(
    options: list[str], said: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train-linear", str(models / "train.csv"), "--model", str(models / "lm2")]
    assert main([*arguments, "--output", str(tmp_path / "clf"), *options]) == 2
    assert_one_line(capsys, said)
    assert not (tmp_path / "clf").exists()
