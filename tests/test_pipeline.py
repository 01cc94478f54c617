"""The three stages on a tiny task."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import InputError, TrainingDivergedError, finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model
from ulmfit_fast.tasks import single_label
from ulmfit_fast.tasks.labels import as_labels
from ulmfit_fast.training.trained import TrainedLanguageModel


@pytest.fixture(scope="module")
def language_model() -> TrainedLanguageModel:
    return pretrain_lm(make_task(200)[0], replace(PRETRAIN, epochs=2))


def test_pretraining_learns_and_writes_a_folder(tmp_path: Path) -> None:
    texts, _ = make_task(200)
    trained = pretrain_lm(texts, replace(PRETRAIN, epochs=3), output=tmp_path / "lm")
    losses = [record["valid_loss"] for record in trained.history.records]
    assert losses[-1] < losses[0] < np.log(len(trained.tokenizer))
    files = {p.name for p in (tmp_path / "lm").iterdir()}
    assert files == {
        "config.json", "model.safetensors", "tokenizer.json", "training_args.json", "history.jsonl", "curves.png",
        "checkpoint.safetensors",
    }  # fmt: skip
    history = [json.loads(line) for line in (tmp_path / "lm" / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert (tmp_path / "lm" / "curves.png").read_bytes().startswith(b"\x89PNG")
    loaded, _ = load_language_model(tmp_path / "lm")
    assert torch.equal(loaded.decoder_weight, trained.model.decoder_weight)


def test_weight_drop_reaches_the_model() -> None:
    """The mistake of several public ports: the model trains, but nothing is dropped."""
    trained = pretrain_lm(make_task(60)[0], PRETRAIN)
    model = trained.model.train()
    assert all(p.grad is None for p in model.parameters())
    assert {rnn.weight_dropout for rnn in model.encoder.rnns} == {0.2}
    output = model(torch.randint(9, 15, (6, 4)))
    output.raw.sum().backward()
    dropped = (model.encoder.rnns[0].weight_hh_l0.grad == 0).float().mean()
    assert 0.15 < dropped < 0.25


def test_finetuning_keeps_the_given_model_and_takes_the_new_vocabulary(language_model: TrainedLanguageModel) -> None:
    before = language_model.model.decoder_weight.detach().clone()
    texts = [text + " brandnew" for text in make_task(100, seed=1)[0]]
    tuned = finetune_lm(texts, language_model, FINETUNE)
    assert torch.equal(language_model.model.decoder_weight, before)
    assert "brandnew" in tuned.tokenizer.vocabulary
    few = finetune_lm(texts[:20], language_model, replace(FINETUNE, min_frequency=3))
    assert set(language_model.tokenizer.vocabulary) < set(few.tokenizer.vocabulary)
    kept = finetune_lm(texts, language_model, replace(FINETUNE, new_vocabulary=False))
    assert kept.tokenizer.vocabulary == language_model.tokenizer.vocabulary


def test_classifier_learns_and_predicts_alike_after_loading(
    language_model: TrainedLanguageModel, tmp_path: Path
) -> None:
    texts, labels = make_task(120)
    test_texts, test_labels = make_task(60, seed=9)
    trained = finetune_classifier(
        texts, labels, language_model, CLASSIFY,
        valid_texts=test_texts, valid_labels=test_labels, output=tmp_path / "clf",
    )  # fmt: skip
    assert trained.labels == ["bad", "good"]
    probabilities = predict_probabilities(trained.model, trained.tokenizer, trained.task, test_texts)
    accuracy = np.mean(
        [trained.labels[i] == label for i, label in zip(probabilities.argmax(1), test_labels, strict=True)]
    )
    assert accuracy > 0.9
    assert accuracy == pytest.approx(max(r["accuracy"] for r in trained.history.records), abs=0.05)
    model, tokenizer, task = load_classifier(tmp_path / "clf")
    assert task.labels == trained.labels
    assert np.array_equal(predict_probabilities(model, tokenizer, task, test_texts), probabilities)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def test_predictions_do_not_depend_on_the_batch(language_model: TrainedLanguageModel) -> None:
    texts, labels = make_task(40)
    trained = finetune_classifier(texts, labels, language_model, replace(CLASSIFY, epochs=1))
    texts = [*texts, "", "x " * 300]
    expected = predict_probabilities(trained.model, trained.tokenizer, trained.task, texts)
    for batch_size in (1, 7):
        assert np.array_equal(
            predict_probabilities(trained.model, trained.tokenizer, trained.task, texts, batch_size=batch_size),
            expected,
        )


def test_gradual_unfreezing_is_recorded(language_model: TrainedLanguageModel) -> None:
    texts, labels = make_task(40)
    config = replace(CLASSIFY, epochs=5, unfreezing="gradual")
    trained = finetune_classifier(texts, labels, language_model, config)
    assert [record["trainable_groups"] for record in trained.history.records] == [1, 2, 3, 4, 4]
    assert all(p.requires_grad for p in trained.model.parameters())


def test_a_folder_and_the_same_model_in_memory_train_alike(tmp_path: Path) -> None:
    texts, labels = make_task(40)
    pretrain_lm(texts, PRETRAIN, output=tmp_path / "lm")
    given = TrainedLanguageModel.load(tmp_path / "lm")
    for first, second in (
        [finetune_lm(texts, base, FINETUNE).model for base in (tmp_path / "lm", given)],
        [finetune_classifier(texts, labels, base, CLASSIFY).model for base in (tmp_path / "lm", given)],
    ):
        for one, other in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize(
    ("unfreezing", "epochs", "trained"),
    [("last", 2, {"head"}), ("chain-thaw", 2, {"head", "embedding"}), ("all", 1, {"head", "embedding", "rnns"})],
)
def test_what_each_way_of_unfreezing_trains(
    language_model: TrainedLanguageModel, unfreezing: str, epochs: int, trained: set[str], memory: str
) -> None:
    texts, labels = make_task(40)
    config = replace(CLASSIFY, epochs=epochs, unfreezing=unfreezing, memory=memory, weight_decay=0.0)
    before = language_model.model.encoder
    after = finetune_classifier(texts, labels, language_model, config).model.bpt3c.encoder
    changed = {"head"}  # which was not there before
    if not torch.equal(before.encoder.weight, after.encoder.weight):
        changed.add("embedding")
    pairs = list(zip(before.rnns.parameters(), after.rnns.parameters(), strict=True))
    different = [not torch.equal(old, new) for old, new in pairs]
    assert all(different) or not any(different)
    if all(different):
        changed.add("rnns")
    assert changed == trained


def test_averaging_needs_validation_texts() -> None:
    """Fewer than twenty texts, none held out: NT-ASGD would never begin to average."""
    with pytest.raises(InputError, match="ntasgd averages once the validation loss no longer falls, and there are no"):
        pretrain_lm(make_task(19)[0], replace(PRETRAIN, optimizer="ntasgd"))


def test_same_seed_same_model() -> None:
    texts, labels = make_task(40)
    runs = [finetune_classifier(texts, labels, None, replace(CLASSIFY, epochs=2, seed=seed)) for seed in (3, 3, 4)]
    weights = [run.model.head[2].weight for run in runs]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_labels_and_settings_of_other_libraries() -> None:
    labels = [0, 1] * 4
    assert as_labels(torch.tensor(labels)) == as_labels(np.array(labels)) == as_labels(list(np.array(labels))) == labels
    assert as_labels([torch.tensor(label) for label in labels]) == as_labels(pd.Series(labels, index=range(9, 1, -1)))
    config = replace(PRETRAIN, epochs=np.int64(2), lr=1)
    assert (type(config.epochs), type(config.lr)) == (int, float)


def test_labels_may_be_numbers() -> None:
    texts, labels = make_task(20)
    trained = finetune_classifier(texts, [int(label == "good") for label in labels], None, replace(CLASSIFY, epochs=1))
    assert trained.labels == [0, 1]
    assert all(type(label) is int for label in trained.labels)


def test_diverged_training_keeps_the_last_good_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts, labels = make_task(40)
    real, calls = torch.nn.functional.cross_entropy, []

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        loss = real(*args, **kwargs)  # type: ignore[arg-type]
        return loss * torch.nan if len(calls) > 4 else loss  # in the second epoch

    monkeypatch.setattr(single_label.F, "cross_entropy", poisoned)
    with pytest.raises(TrainingDivergedError, match=r"classifier 2/8: the loss became nan .* checkpoint is kept"):
        finetune_classifier(texts, labels, None, CLASSIFY, output=tmp_path / "clf")
    monkeypatch.undo()
    model, _, _ = load_classifier(tmp_path / "clf")
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_mixed_precision(precision: str) -> None:
    texts, labels = make_task(60)
    language_model = pretrain_lm(texts, replace(PRETRAIN, precision=precision))
    trained = finetune_classifier(texts, labels, language_model, replace(CLASSIFY, epochs=2, precision=precision))
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
    assert np.isfinite(trained.history.records[-1]["loss"])


TEXTS, LABELS = make_task(8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: finetune_classifier(TEXTS, ["a"] * 8, None, CLASSIFY), InputError, "all labels are 'a'"),
        (lambda: finetune_classifier(TEXTS, LABELS[:-1], None, CLASSIFY), InputError, "one length, got 8 and 7"),
        (lambda: finetune_classifier([], [], None, CLASSIFY), InputError, "texts is empty"),
        (lambda: finetune_classifier("text", LABELS, None, CLASSIFY), TypeError, "put it into a list"),
        (
            lambda: finetune_classifier(TEXTS, LABELS, None, CLASSIFY, valid_texts=["x"], valid_labels=["new"]),
            InputError,
            "valid_labels: row 1: unknown label 'new'; the model knows bad, good",
        ),
        (
            lambda: finetune_classifier(TEXTS, LABELS, None, CLASSIFY, valid_texts=["x", "y"], valid_labels=["good"]),
            InputError,
            "valid_texts and valid_labels must have one length, got 2 and 1",
        ),
        (
            lambda: finetune_classifier(TEXTS, [1.0, float("nan")] * 4, None, CLASSIFY),
            InputError,
            "labels: row 2: a label must be a text or a number, got nan",
        ),
        (
            lambda: finetune_classifier(TEXTS, ["a", 1] * 4, None, CLASSIFY),
            InputError,
            "labels: row 2: labels are all texts or all numbers, got 1 beside 'a'",
        ),
        (lambda: pretrain_lm(["a", None], PRETRAIN), TypeError, r"texts\[1\] must be a str, got NoneType"),
        (lambda: replace(PRETRAIN, epochs=2.5), InputError, "epochs must be a whole number, got 2.5"),
        (lambda: replace(CLASSIFY, variable_bptt=1), InputError, "must be True or False, got 1"),
        (
            lambda: replace(CLASSIFY, unfreezing="none"),
            InputError,
            "must be one of gradual, fastai, chain-",
        ),
        (lambda: finetune_classifier(TEXTS, LABELS, "gone", CLASSIFY), InputError, "gone: no such model folder"),
        (lambda: pretrain_lm(["a"], PRETRAIN), InputError, "too few for 4 lanes"),
        (lambda: replace(PRETRAIN, epochs=0), InputError, "epochs must be at least 1, got 0"),
        (lambda: replace(PRETRAIN, precision="float8"), InputError, "precision must be one of float32, bfloat16"),
        (
            lambda: replace(PRETRAIN, tokenizer="char"),
            InputError,
            r"must be one of word, .*, got 'char'",
        ),
        (lambda: replace(PRETRAIN, lr=float("nan")), InputError, "lr must be a finite number, got nan"),
        (lambda: replace(CLASSIFY, batch_size=1), InputError, "batch_size must be at least 2, got 1"),
        (lambda: pretrain_lm(TEXTS, replace(PRETRAIN, drop_mult=5)), InputError, "drop_mult=5 makes input_p 1.25"),
        (lambda: pretrain_lm(TEXTS, PRETRAIN, valid_texts=[""]), InputError, "valid_texts holds no text"),
    ],
)
def test_bad_input(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
