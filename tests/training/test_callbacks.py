"""Callbacks: when they are told of what; early stopping, also of runs that are resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import InputError, finetune_classifier, pretrain_lm
from ulmfit_fast.training.callbacks import Callback, EarlyStopping, TensorBoard
from ulmfit_fast.training.history import History, Record
from ulmfit_fast.training.loop import EpochProgress
from ulmfit_fast.training.trainer import Trainer

TEXTS, LABELS = make_task(40)
VALID = {"valid_texts": make_task(20, seed=5)[0], "valid_labels": make_task(20, seed=5)[1]}


class Recorder(Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def on_start(self, trainer: Trainer) -> None:
        self.calls.append(("start", len(trainer.history.records)))

    def on_step(self, trainer: Trainer, done: EpochProgress) -> None:
        self.calls.append(("step", (trainer.epoch, done.batches)))

    def on_epoch(self, trainer: Trainer, record: Record) -> None:
        assert trainer.history.records[-1] is record
        self.calls.append(("epoch", record["epoch"]))

    def on_end(self, trainer: Trainer) -> None:
        assert not trainer.model.training
        self.calls.append(("end", None))


def test_what_a_callback_is_told() -> None:
    told = Recorder()
    finetune_classifier(TEXTS, LABELS, None, replace(CLASSIFY, epochs=2), progress=False, callbacks=[told])
    steps = [value for name, value in told.calls if name == "step"]
    assert told.calls[0] == ("start", 0)
    assert told.calls[-1] == ("end", None)
    assert [call for call in told.calls if call[0] == "epoch"] == [("epoch", 1), ("epoch", 2)]
    assert [step for step in steps if step[0] == 0] == [(0, i + 1) for i in range(len(steps) // 2)]
    assert told.calls.index(("epoch", 1)) == told.calls.index(("step", (1, 1))) - 1


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([], False),
        ([3, 2, 1], False),
        ([1, 2], False),
        ([1, 2, 3], True),
        ([1, 2, 0.5, 0.6], False),
        ([2, 1, 1, 1], True),
    ],
)
def test_when_to_stop(losses: list[float], stops: bool) -> None:
    history = History([{"valid_loss": loss} for loss in losses])
    assert EarlyStopping(2).wants_to_stop(history) is stops
    assert not EarlyStopping(2).wants_to_stop(History([{"loss": 1.0}] * 5))
    with pytest.raises(InputError, match="at least 1 epoch, got 0"):
        EarlyStopping(0)


def test_early_stopping_without_validation_texts() -> None:
    with pytest.raises(InputError, match="classifier: early stopping goes by the validation loss, and there are no"):
        finetune_classifier(TEXTS, LABELS, None, replace(CLASSIFY, early_stopping=1), progress=False)


def test_a_run_that_stopped_early_stays_stopped_when_it_is_resumed(tmp_path: Path) -> None:
    """At a rate of next to nothing no epoch is better than the first by more than noise; validation on other labels."""
    config = replace(CLASSIFY, epochs=30, lr=0.2, early_stopping=2)
    wrong = {"valid_texts": VALID["valid_texts"], "valid_labels": VALID["valid_labels"][::-1]}
    first = finetune_classifier(TEXTS, LABELS, None, config, **wrong, output=tmp_path / "clf", progress=False)
    done = len(first.history.records)
    assert done < 30
    losses = [record["valid_loss"] for record in first.history.records]
    assert losses.index(min(losses)) == done - 3
    again = finetune_classifier(
        TEXTS, LABELS, None, config, **wrong, output=tmp_path / "clf", progress=False, resume=True
    )
    assert len(again.history.records) == done


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain_lm(TEXTS, replace(PRETRAIN, epochs=2), progress=False, callbacks=[TensorBoard(tmp_path, every=2)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"pretrain LM/loss", "pretrain LM/valid_loss", "pretrain LM/perplexity"} <= set(events.Tags()["scalars"])
