"""Stages two and three in one: as the two one after the other, with faulty input found before the long work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.command_line import assert_one_line
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import (
    InputError,
    TrainedLanguageModel,
    ULMFiTClassifier,
    finetune_classifier,
    finetune_lm,
    finetune_pretrained,
    pretrain_lm,
)
from ulmfit_fast.cli.main import main
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.loop import EpochProgress
from ulmfit_fast.training.trainer import Trainer

TEXTS, LABELS = make_task(40)
MORE = make_task(30, seed=7)[0]
VALID = {"valid_texts": TEXTS[:8], "valid_labels": LABELS[:8]}
CONFIGS = (replace(FINETUNE, checkpoint_minutes=1e-9), replace(CLASSIFY, epochs=2, checkpoint_minutes=1e-9))


@pytest.fixture(scope="module")
def base() -> TrainedLanguageModel:
    return pretrain_lm(TEXTS, PRETRAIN, progress=False)


class Killed(BaseException):
    pass


class KillAt(Callback):
    def __init__(self, stage: str) -> None:
        self.stage = stage

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        if trainer.name == self.stage and done.batches == 2:
            raise Killed


def test_the_two_stages_one_after_the_other(base: TrainedLanguageModel) -> None:
    mine = finetune_pretrained(
        (text for text in TEXTS), iter(LABELS), base, *CONFIGS, unlabeled=iter(MORE), sample_weight=[1.0, 2.0] * 20,
        valid_texts=iter(VALID["valid_texts"]), valid_labels=VALID["valid_labels"], progress=False,
    )  # fmt: skip
    tuned = finetune_lm([*TEXTS, *MORE], base, CONFIGS[0], progress=False)
    theirs = finetune_classifier(
        TEXTS, LABELS, tuned, CONFIGS[1], sample_weight=[1.0, 2.0] * 20, **VALID, progress=False
    )
    for one, other in zip(mine.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert len(mine.history.records) == 2
    assert "accuracy" in mine.history.records[0]


@pytest.mark.parametrize("stage", ["fine-tune LM", "classifier"])
def test_killed_in_either_stage_and_resumed(base: TrainedLanguageModel, stage: str, tmp_path: Path) -> None:
    whole = finetune_pretrained(TEXTS, LABELS, base, *CONFIGS, unlabeled=MORE, output=tmp_path / "a", progress=False)
    with pytest.raises(Killed):
        finetune_pretrained(
            TEXTS, LABELS, base, *CONFIGS, unlabeled=MORE, output=tmp_path / "b", progress=False,
            callbacks=[KillAt(stage)],
        )  # fmt: skip
    with pytest.raises(InputError, match=r"pass --resume, or --overwrite|pass --overwrite"):
        finetune_pretrained(TEXTS, LABELS, base, *CONFIGS, unlabeled=MORE, output=tmp_path / "b", progress=False)
    again = finetune_pretrained(
        TEXTS, LABELS, base, *CONFIGS, unlabeled=MORE, output=tmp_path / "b", progress=False, resume=True
    )
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"valid_texts": ["a"], "valid_labels": ["new"]}, InputError, "valid_labels: row 1: unknown label 'new'"),
    ({"valid_texts": [3], "valid_labels": ["good"]}, TypeError, r"valid_texts\[0\] must be a str"),
    ({"sample_weight": [1.0]}, InputError, "40 weights are needed"),
    ({"class_weight": {"new": 2.0}}, InputError, "class_weight: 'new' is no label"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
@pytest.mark.parametrize("way", ["function", "estimator"])
def test_faults_are_found_before_the_long_work(
    base: TrainedLanguageModel, wrong: dict[str, Any], error: type[Exception], message: str, way: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def train(_: Trainer) -> None:
        raise AssertionError("training has begun")

    monkeypatch.setattr(Trainer, "train", train)
    call: Callable[[], Any]
    if way == "function":
        call = lambda: finetune_pretrained(TEXTS, LABELS, base, *CONFIGS, output=tmp_path / "clf", **wrong)  # noqa: E731
    else:
        fit = {name: value for name, value in wrong.items() if name != "class_weight"}
        estimator = ULMFiTClassifier(pretrain_config=PRETRAIN, class_weight=wrong.get("class_weight"), progress=False)
        call = lambda: estimator.fit(TEXTS, LABELS, **fit)  # noqa: E731
    with pytest.raises(error, match=message):
        call()
    assert not (tmp_path / "clf" / "language_model").exists()


def test_command_line(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(models / "train.csv")
    small = ["--lm-batch-size", "4", "--lm-min-frequency", "1", "--batch-size", "16", "--epochs", "1"]
    arguments = ["train", data, "--pretrained", str(models / "lm"), "--output", str(tmp_path / "clf"), *small]
    assert main([*arguments, "--unlabeled", data]) == 0
    err = capsys.readouterr().err
    assert "fine-tune LM: 1 x " in err  # how long it will take
    assert err.index("fine-tune LM, epoch 1") < err.index("classifier, epoch 1")
    assert (tmp_path / "clf" / "language_model" / "config.json").exists()
    assert main(["predict", data, "--model", str(tmp_path / "clf"), "--output", str(tmp_path / "o.csv")]) == 0
    capsys.readouterr()
    assert (
        main(["train", data, "--model", str(models / "lm"), "--unlabeled", data, "--output", str(tmp_path / "x")]) == 2
    )
    assert_one_line(capsys, "--unlabeled does nothing here: no language model is fine-tuned without --pretrained")
