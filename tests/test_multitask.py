"""Several tables at once over one encoder: what is shared, how tables are drawn, what is kept, and going on."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from tests.training.test_resume import EVERY_STEP, assert_same, train_killed
from ulmfit_fast import (
    InputError,
    LabelledTexts,
    TrainedClassifier,
    TrainedLanguageModel,
    ULMFiTClassifier,
    finetune_classifier,
    finetune_multitask,
    pretrain_lm,
)
from ulmfit_fast.training import history
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.multi_task import MultiTaskTrainer, shares_of

TEXTS, LABELS = make_task(64)
OTHERS, _ = make_task(40, seed=3)
VALID, VALID_LABELS = make_task(24, seed=5)


def counts(texts: list[str]) -> list[float]:
    """A number to predict: how many words of filler."""
    return [float(sum(word in ("the", "film", "was", "too") for word in text.split())) for text in texts]


def sets(texts: list[str]) -> list[list[str]]:
    return [[word for word in ("great", "awful", "dull") if word in text.split()] for text in texts]


def three_tables() -> dict[str, LabelledTexts]:
    return {
        "mood": LabelledTexts(TEXTS, LABELS, valid_texts=VALID, valid_labels=VALID_LABELS, metric="accuracy"),
        "count": LabelledTexts(
            OTHERS, counts(OTHERS), task="regression", valid_texts=VALID, valid_labels=counts(VALID), metric="mae"
        ),
        "words": LabelledTexts(OTHERS, sets(OTHERS)),
    }


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "plot_curves", lambda *_: b"")


@pytest.fixture(scope="module")
def language_model() -> TrainedLanguageModel:
    return pretrain_lm([*TEXTS, *OTHERS], PRETRAIN)


class Steps:
    """What each step trained on, and what it changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tables: list[str] = []
        self.texts: list[list[int]] = []
        self.trainer: Any = None
        real = MultiTaskTrainer.compute_loss

        def compute_loss(trainer: MultiTaskTrainer, batch: Any) -> Any:
            self.trainer = trainer
            self.tables.append(batch[0])
            self.texts.append(batch[1].rows.tolist())
            return real(trainer, batch)

        monkeypatch.setattr(MultiTaskTrainer, "compute_loss", compute_loss)


def test_shares() -> None:
    there = {"large": 100, "middle": 25, "small": 1}
    assert shares_of(there, "proportional") == there
    assert shares_of(there, "uniform") == {"large": 42, "middle": 42, "small": 42}
    assert shares_of(there, "square-root") == {"large": 79, "middle": 39, "small": 8}  # 126 x 10, 5 and 1 over 16
    assert shares_of({"large": 10_000, "small": 1}, "proportional")["small"] == 1
    with pytest.raises(InputError, match="sampling must be one of proportional, square-root, uniform, got 'log'"):
        shares_of(there, "log")


@pytest.mark.parametrize("sampling", ["proportional", "uniform"])
def test_what_an_epoch_reads(
    sampling: str, language_model: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(monkeypatch)
    tables = {"mood": (TEXTS, LABELS), "few": (OTHERS[:8], counts(OTHERS[:8]))}
    config = replace(CLASSIFY, epochs=1, batch_size=4)
    finetune_multitask(tables, language_model, config, sampling=sampling)
    read = {name: Counter(i for t, rows in zip(steps.tables, steps.texts, strict=True) if t == name for i in rows)
            for name in tables}  # fmt: skip
    assert len(steps.tables) == 18
    if sampling == "proportional":
        assert read["mood"] == Counter(range(64))
        assert read["few"] == Counter(range(8))
    else:
        assert Counter(steps.tables) == {"mood": 9, "few": 9}
        assert max(read["mood"].values()) == 1  # a part of the large table, nothing twice
        assert set(read["few"]) == set(range(8))
        assert max(read["few"].values()) - min(read["few"].values()) <= 1  # the small one again and again, evenly
    assert steps.tables != sorted(steps.tables)  # mixed


def test_a_step_changes_the_encoder_and_its_own_head(
    language_model: TrainedLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, before, changed = Steps(monkeypatch), {}, []

    class Watch(Callback):
        def on_start(self, trainer: Any) -> None:
            before.update({name: p.detach().clone() for name, p in trainer.model.named_parameters()})

        def on_step(self, trainer: Any, done: Any) -> None:
            now = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            changed.append({name.split(".")[1] if name.startswith("heads") else "encoder"
                            for name in now if not torch.equal(now[name], before[name])})  # fmt: skip
            before.update(now)

    finetune_multitask(three_tables(), language_model, replace(CLASSIFY, epochs=1), callbacks=[Watch()])
    of_head = {"mood": "0", "count": "1", "words": "2"}
    assert [each == {"encoder", of_head[name]} for each, name in zip(changed, steps.tables, strict=True)] == [True] * 10
    state = steps.trainer.model.state_dict()
    encoders = [name for name in state if name.endswith("encoder.weight")]
    assert len(encoders) == 1  # once, however many classifiers there are


def test_results_are_classifiers_like_any_other(language_model: TrainedLanguageModel, tmp_path: Path) -> None:
    """Also: the best epoch of each table is its own, in memory as in the folder."""
    config = replace(CLASSIFY, epochs=6)
    found = finetune_multitask(three_tables(), language_model, config)
    written = finetune_multitask(three_tables(), language_model, config, output=tmp_path / "out")
    assert list(found) == ["mood", "count", "words"]
    for name, trained in found.items():
        assert_same(trained, written[name])
        loaded = ULMFiTClassifier.load(tmp_path / "out" / name)
        for key, value in loaded.model_.state_dict().items():
            assert torch.equal(value, trained.model.state_dict()[key]), (name, key)
        assert loaded.task_.settings() == trained.task.settings()
    mood, count, words = found.values()
    scores = [record["accuracy"] for record in mood.history.records]
    assert ULMFiTClassifier.load(tmp_path / "out" / "mood").score(VALID, VALID_LABELS) == pytest.approx(max(scores))
    assert max(scores) > 0.85
    predicted = ULMFiTClassifier.load(tmp_path / "out" / "count").predict(VALID)
    errors = [record["mae"] for record in count.history.records]
    assert np.abs(predicted - counts(VALID)).mean() == pytest.approx(min(errors), abs=1e-4)
    assert words.task.type == "multi_label"
    assert "valid_loss" not in words.history.records[-1]
    assert {record["loss"] for record in mood.history.records}.isdisjoint(
        record["loss"] for record in count.history.records
    )
    assert mood.model.bpt3c.encoder is not count.model.bpt3c.encoder
    with pytest.raises(InputError, match="holds classifiers of several tables; give one of its folders: mood, count"):
        TrainedClassifier.load(tmp_path / "out")


def train(output: Path | None, resume: bool) -> Any:
    config = replace(
        CLASSIFY, epochs=3, batch_size=24, unfreezing="gradual", drop_mult=0.5, word_dropout=0.2, metric="loss",
        checkpoint_minutes=EVERY_STEP,
    )  # fmt: skip
    return finetune_multitask(
        three_tables(), pretrain_lm(TEXTS[:30], PRETRAIN), config, sampling="square-root", output=output, resume=resume
    )


def test_killed_before_any_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", False)
    for name, trained in train_killed(train, tmp_path / "killed", monkeypatch).items():
        assert_same(trained, whole[name])
        for file in ("model.safetensors", "config.json"):
            paths = [tmp_path / folder / name / file for folder in ("whole", "killed")]
            assert paths[0].read_bytes() == paths[1].read_bytes()
    monkeypatch.undo()
    (tmp_path / "killed" / "count" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"the best model so far, and count/model.safetensors is missing"):
        train(tmp_path / "killed", True)


def test_a_classifier_brings_encoder_and_head(tmp_path: Path) -> None:
    """And the other way round: one of the results begins another task."""
    base = finetune_classifier(TEXTS, LABELS, None, CLASSIFY)
    tables = {"mood": (TEXTS, LABELS), "count": LabelledTexts(OTHERS, counts(OTHERS), task="regression")}
    found = finetune_multitask(tables, base, replace(CLASSIFY, epochs=1, lr=1e-9), output=tmp_path / "out")
    for name in ("bpt3c.encoder.encoder.weight", "head.6.weight"):
        assert torch.allclose(found["mood"].model.state_dict()[name], base.model.state_dict()[name], atol=1e-6), name
    assert found["count"].model.head[6].weight.shape == (1, 50)
    other = finetune_classifier(OTHERS, sets(OTHERS), tmp_path / "out" / "mood", replace(CLASSIFY, epochs=1, lr=1e-9))
    assert other.task.type == "multi_label"
    embedding = other.model.state_dict()["bpt3c.encoder.encoder.weight"]
    assert torch.allclose(embedding, base.model.state_dict()["bpt3c.encoder.encoder.weight"], atol=1e-6)


def test_language_model_first(language_model: TrainedLanguageModel, tmp_path: Path) -> None:
    tables = {"mood": (TEXTS, LABELS), "count": LabelledTexts(["zebra zebra"] * 5, [1, 2, 3, 4, 5], task="regression")}
    found = finetune_multitask(
        tables, language_model, replace(CLASSIFY, epochs=1), finetune_config=replace(FINETUNE, epochs=1),
        unlabeled=["okapi okapi okapi"], output=tmp_path / "out",
    )  # fmt: skip
    assert {"zebra", "okapi"} <= set(found["mood"].tokenizer.vocabulary)
    assert TrainedLanguageModel.load(tmp_path / "out" / "language_model").tokenizer.to_json() == (
        found["count"].tokenizer.to_json()
    )


def test_early_stopping_waits_for_every_table(language_model: TrainedLanguageModel) -> None:
    """The one table learns nothing from the start, the other goes on."""
    never = LabelledTexts(OTHERS, counts(OTHERS), task="regression", metric="mae",
                          valid_texts=["a", "b"], valid_labels=[50.0, -50.0])  # fmt: skip
    tables = {"mood": three_tables()["mood"], "never": never}
    config = replace(CLASSIFY, epochs=12, early_stopping=2)
    records = finetune_multitask(tables, language_model, config)["mood"].history.records
    scores = [record["accuracy"] for record in records]
    assert len(scores) < 12
    assert len(scores) - 1 - scores.index(max(scores)) >= 2


def test_what_is_refused(language_model: TrainedLanguageModel, tmp_path: Path) -> None:
    tables: dict[str, Any] = {"mood": (TEXTS, LABELS), "count": (OTHERS, counts(OTHERS))}
    for changed, message in (
        ({"mood": (TEXTS, LABELS)}, "give two tables or more, got 1"),
        (tables | {"a/b": (TEXTS, LABELS)}, "cannot have the name 'a/b', as a folder's it takes letters"),
        (tables | {"language_model": (TEXTS, LABELS)}, "cannot have the name 'language_model', which is taken"),
        (tables | {"same": (TEXTS, ["a"] * 64)}, "table same: .*all labels are 'a'"),
        (tables | {"odd": (TEXTS, LABELS[1:])}, "table odd: .*texts and labels must have one length, got 64 and 63"),
        (tables | {"x": LabelledTexts(TEXTS, LABELS, metric="mae")}, "table x: metric 'mae' is measured on validation"),
        (tables | {"x": LabelledTexts(TEXTS, LABELS, task="rank")}, "table x: .*task must be one of"),
    ):
        with pytest.raises(InputError, match=message):
            finetune_multitask(changed, language_model, CLASSIFY, output=tmp_path / "out")
        assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(InputError, match="sampling must be one of proportional"):
        finetune_multitask(tables, language_model, CLASSIFY, sampling="log")
    with pytest.raises(InputError, match="finetune_config needs a language model"):
        finetune_multitask(tables, None, CLASSIFY, finetune_config=FINETUNE)
    quick = replace(CLASSIFY, epochs=1)
    finetune_multitask(tables, language_model, quick, output=tmp_path / "out")
    with pytest.raises(InputError, match="already holds a model"):
        finetune_multitask(tables, language_model, quick, output=tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()
    (tmp_path / "out" / "checkpoint.safetensors").unlink()
    with pytest.raises(InputError, match="mood: already holds a model"):
        finetune_multitask(tables, language_model, quick, output=tmp_path / "out")
    fewer = {"count": tables["count"], "new": tables["mood"]}
    finetune_multitask(tables, language_model, quick, output=tmp_path / "out", overwrite=True)
    finetune_multitask(fewer, language_model, quick, output=tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "mood" / "model.safetensors").exists()
    assert (tmp_path / "out" / "new" / "model.safetensors").exists()
