"""Runs that are killed anywhere and go on end with the bits of a run that never stopped."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import InputError, TrainingInterrupted, finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.core.interrupt import terminated_as_interrupted
from ulmfit_fast.storage.run_file import load_state, save_state
from ulmfit_fast.text.corpus import Source, tokenize_corpus
from ulmfit_fast.training import run
from ulmfit_fast.training.optim import AveragedWeights
from ulmfit_fast.training.trained import TrainedClassifier
from ulmfit_fast.training.trainer import Trainer

EVERY_STEP = 1e-9  # minutes between checkpoints
TEXTS, LABELS = make_task(60)
VALID_TEXTS, VALID_LABELS = make_task(20, seed=5)


class Killed(BaseException):
    pass


def train_adam(output: Path | None, resume: bool) -> Any:
    config = replace(PRETRAIN, epochs=2, ema_decay=0.9, precision="bfloat16", checkpoint_minutes=EVERY_STEP)
    return pretrain_lm(TEXTS, config, valid_texts=VALID_TEXTS, output=output, resume=resume)


def train_ntasgd(output: Path | None, resume: bool) -> Any:
    config = replace(PRETRAIN, epochs=5, optimizer="ntasgd", lr=20.0, patience=1, checkpoint_minutes=EVERY_STEP)
    return pretrain_lm(TEXTS[:30], config, valid_texts=VALID_TEXTS, output=output, resume=resume)


def tune(output: Path | None, resume: bool) -> Any:
    base = pretrain_lm(TEXTS, PRETRAIN)
    return finetune_lm(TEXTS, base, replace(FINETUNE, checkpoint_minutes=EVERY_STEP), output=output, resume=resume)


def classify(output: Path | None, resume: bool) -> Any:
    config = replace(
        CLASSIFY, epochs=3, unfreezing="gradual", variable_bptt=True, drop_mult=0.5, checkpoint_minutes=EVERY_STEP
    )
    return finetune_classifier(
        TEXTS, LABELS, None, config, valid_texts=VALID_TEXTS, valid_labels=VALID_LABELS, output=output, resume=resume
    )


def tag(output: Path | None, resume: bool) -> Any:
    """Several labels: the best epoch, by F1, has its own temperature and thresholds."""
    sets = [[label, "long"] if len(text) > 80 else [label] for text, label in zip(TEXTS, LABELS, strict=True)]
    config = replace(CLASSIFY, epochs=4, lr=0.1, metric="f1_micro", checkpoint_minutes=EVERY_STEP)
    return finetune_classifier(
        TEXTS[20:], sets[20:], None, config, valid_texts=TEXTS[:20], valid_labels=sets[:20], output=output,
        resume=resume,
    )  # fmt: skip


def assert_same(mine: Any, whole: Any) -> None:
    if isinstance(mine, TrainedClassifier):
        assert mine.task.settings() == whole.task.settings()
    for (name, a), b in zip(mine.model.state_dict().items(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    records = [
        [{k: v for k, v in record.items() if k not in ("seconds", "tokens_per_s")} for record in run.history.records]
        for run in (mine, whole)
    ]
    assert records[0] == records[1]
    assert mine.history.points == whole.history.points


def train_killed(train: Callable[[Path | None, bool], Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every other checkpoint is the last one of its process, the step after it is done again."""
    written = 0

    def save(folder: Path, state: dict[str, Any]) -> None:
        nonlocal written
        written += 1
        if written % 2 == 0:
            raise Killed
        save_state(folder, state)

    monkeypatch.setattr(run, "save_state", save)
    starts = 0
    while True:
        starts += 1
        torch.manual_seed(starts)  # what a fresh process has in its generator does not matter
        try:
            trained = train(folder, True)
        except Killed:
            continue
        break
    assert starts > 5
    return trained


@pytest.mark.parametrize("train", [train_adam, train_ntasgd, tune, classify, tag], ids=lambda f: f.__name__)
def test_killed_before_any_checkpoint_is_written(
    train: Callable[[Path | None, bool], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", False)
    assert_same(train_killed(train, tmp_path / "killed", monkeypatch), whole)
    if isinstance(whole, TrainedClassifier):  # what the folder holds is what training gave
        for folder in ("whole", "killed"):
            assert TrainedClassifier.load(tmp_path / folder).task.settings() == whole.task.settings()


@pytest.mark.parametrize("train", [train_adam, classify], ids=lambda f: f.__name__)
def test_losses_are_read_late(
    train: Callable[[Path | None, bool], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the same training, whether or not it is killed."""
    at_once = train(None, False)
    real = Trainer.new_loop

    def new_loop(trainer: Trainer) -> Any:
        loop = real(trainer)
        loop.late = True
        return loop

    monkeypatch.setattr(Trainer, "new_loop", new_loop)
    late = train(None, False)
    at_once.history.points = late.history.points  # which come a step later
    assert len(late.history.points) > 5
    assert_same(late, at_once)
    assert_same(train_killed(train, tmp_path / "killed", monkeypatch), late)


@pytest.mark.parametrize("train", [train_adam, train_ntasgd, classify], ids=lambda f: f.__name__)
def test_interrupted_in_the_middle_of_steps(
    train: Callable[[Path | None, bool], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after a batch's backward: its masks are drawn, BatchNorm has seen it, and yet it is done again whole."""
    whole = train(tmp_path / "whole", False)
    real, calls = nn.utils.clip_grad_norm_, 0

    def interrupt(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 7 == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", interrupt)
    starts = 0
    while True:
        starts += 1
        torch.manual_seed(starts)
        try:
            mine = train(tmp_path / "interrupted", True)
        except TrainingInterrupted as error:
            assert "go on with --resume" in str(error)  # noqa: PT017
            continue
        break
    assert starts > 2
    assert_same(mine, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_checkpoint_is_written(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits, and the run goes on from that checkpoint."""
    whole = classify(tmp_path / "whole", False)
    written = 0

    def save(folder: Path, state: dict[str, Any]) -> None:
        nonlocal written
        written += 1
        if written == 4:
            os.kill(os.getpid(), number)
        save_state(folder, state)

    monkeypatch.setattr(run, "save_state", save)
    with pytest.raises(TrainingInterrupted), terminated_as_interrupted():
        classify(tmp_path / "interrupted", True)
    assert_same(classify(tmp_path / "interrupted", True), whole)


def test_a_signal_while_the_average_is_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint has the weights themselves."""
    whole = train_adam(tmp_path / "whole", False)
    real = AveragedWeights.in_place

    @contextlib.contextmanager
    def in_place(self: AveragedWeights) -> Iterator[None]:
        with real(self):
            os.kill(os.getpid(), signal.SIGINT)
            yield

    monkeypatch.setattr(AveragedWeights, "in_place", in_place)
    with pytest.raises(TrainingInterrupted):
        train_adam(tmp_path / "interrupted", True)
    monkeypatch.undo()
    assert_same(train_adam(tmp_path / "interrupted", True), whole)


def test_a_checkpoint_without_its_best_model(tmp_path: Path) -> None:
    train_adam(tmp_path, False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing; bring the whole folder"):
        train_adam(tmp_path, True)


def test_other_labels_or_texts_are_refused(tmp_path: Path) -> None:
    classify(tmp_path, False)
    config = replace(CLASSIFY, epochs=3, unfreezing="gradual", variable_bptt=True, drop_mult=0.5)
    for texts, labels, valid in ((TEXTS, LABELS[::-1], VALID_TEXTS), (TEXTS, LABELS, VALID_TEXTS[::-1])):
        with pytest.raises(InputError, match="made on other texts, labels or words"):
            finetune_classifier(
                texts, labels, None, config, valid_texts=valid, valid_labels=VALID_LABELS, output=tmp_path, resume=True
            )


def test_other_class_weights_are_refused(tmp_path: Path) -> None:
    config = replace(CLASSIFY, epochs=1)

    def train(weights: dict[str, float] | None, resume: bool) -> None:
        finetune_classifier(TEXTS, LABELS, None, config, class_weight=weights, output=tmp_path, resume=resume)

    train({"good": 2.0, "bad": 1.0}, False)
    train({"bad": 1, "good": 2}, True)
    for other in ({"good": 3.0}, None):
        with pytest.raises(InputError, match=r"was made with class_weights=\[\['bad', 1\.0\], \['good', 2\.0\]\], not"):
            train(other, True)


def test_another_language_model_is_refused(tmp_path: Path) -> None:
    """Of the same sizes and words, but trained with another seed."""
    config = replace(CLASSIFY, epochs=1)
    for seed in (0, 1):
        pretrain_lm(TEXTS, replace(PRETRAIN, seed=seed), valid_texts=VALID_TEXTS, output=tmp_path / f"lm{seed}")
    finetune_classifier(TEXTS, LABELS, tmp_path / "lm0", config, output=tmp_path / "clf")
    with pytest.raises(InputError, match="began from another model; resume with the same one"):
        finetune_classifier(TEXTS, LABELS, tmp_path / "lm1", config, output=tmp_path / "clf", resume=True)
    finetune_classifier(TEXTS, LABELS, tmp_path / "lm0", config, output=tmp_path / "clf", resume=True)


def test_without_checkpoints_nothing_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", interrupt)
    with pytest.raises(TrainingInterrupted, match=r"^pretrain LM 1/1: interrupted$"):
        pretrain_lm(TEXTS, replace(PRETRAIN, checkpoint_minutes=0), output=tmp_path / "lm")


def test_a_finished_model_is_not_resumed_into(tmp_path: Path) -> None:
    pretrain_lm(TEXTS, replace(PRETRAIN, checkpoint_minutes=0), output=tmp_path / "lm")
    with pytest.raises(InputError, match="already holds a model; choose another folder or pass --overwrite"):
        pretrain_lm(TEXTS, PRETRAIN, output=tmp_path / "lm", resume=True)


def test_ntasgd_averages_in_that_run() -> None:
    """Else the test above says nothing of averages."""
    records = train_ntasgd(None, False).history.records
    losses = [record["valid_loss"] for record in records]
    assert any(loss > min(losses[: i - 1]) for i, loss in enumerate(losses) if i > 1)


_SCRIPT = """
import sys
from pathlib import Path
from tests.training.test_resume import train_adam
train_adam(Path(sys.argv[1]), True)
"""
_KILLS = int(os.environ.get("ULMFIT_FAST_KILLS", "2"))


def test_kill_nine_at_random_moments(tmp_path: Path) -> None:
    whole = train_adam(tmp_path / "whole", False)
    draw = random.Random(0)
    kills = 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(tmp_path / "killed")])
        deadline = time.monotonic() + 120
        checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        while kills < _KILLS and process.poll() is None and time.monotonic() < deadline:
            if checkpoint.exists() and checkpoint.stat().st_mtime_ns != before:  # it is training
                time.sleep(draw.uniform(0, 0.15))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        if process.wait(120) != -signal.SIGKILL:
            break
        kills += 1
    assert process.returncode == 0
    assert kills >= 1
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert_same(train_adam(tmp_path / "killed", True), whole)  # nothing is left to do


def test_a_corpus_on_disk_trains_the_same_model_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(TEXTS))
    corpus, _ = tokenize_corpus(Source(path, min_frequency=1), tmp_path / "corpus")
    config = replace(PRETRAIN, checkpoint_minutes=EVERY_STEP)
    one, two = (pretrain_lm(corpus, config, output=tmp_path / name) for name in "ab")
    assert_same(one, two)
    other, _ = tokenize_corpus(Source(path, min_frequency=1, seed=3), tmp_path / "corpus3")
    with pytest.raises(InputError, match="made on other texts, labels or words; resume with the same files"):
        pretrain_lm(other, config, output=tmp_path / "a", resume=True)


def test_a_checkpoint_that_is_cut_after_it_was_read(tmp_path: Path) -> None:
    """By who writes into the file itself: it is in memory, not mapped, where the system would end the process."""
    state = {"large": torch.arange(1 << 16), "odd": torch.tensor([True]), "small": torch.arange(3.0)}
    save_state(tmp_path, state)
    found = load_state(tmp_path)
    os.truncate(tmp_path / "checkpoint.safetensors", 0)
    assert found is not None
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor)
        assert found[name].data_ptr() % 16 == 0  # in memory of its own
    with pytest.raises(InputError, match="truncated or damaged"):
        load_state(tmp_path)


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    train_adam(tmp_path, False)
    path = tmp_path / "checkpoint.safetensors"
    data = path.read_bytes()
    for position in (*range(0, 2000, 61), *range(2000, len(data), len(data) // 40), len(data) - 1):
        for damaged in (data[:position], data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]):
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=r"checkpoint\.safetensors: .*delete it to start the run again"):
                train_adam(tmp_path, True)
    path.unlink()
    assert load_state(tmp_path) is None


def test_state_of_any_shape(tmp_path: Path) -> None:
    weight = nn.Parameter(torch.randn(3, 2))
    state = {
        "a": [1, 2.5, None, True, "x", float("inf"), 2**100],
        3: {"b": weight, "same": weight, "half": weight.bfloat16()},
        "empty": {}, "none": [], "scalar": torch.tensor(7), "random": torch.get_rng_state(),
    }  # fmt: skip
    save_state(tmp_path, state)
    loaded = load_state(tmp_path)
    assert loaded is not None
    assert list(loaded) == list(state)
    assert loaded["a"] == state["a"]
    assert torch.equal(loaded[3]["b"], weight)
    assert loaded[3]["half"].dtype == torch.bfloat16
    assert torch.equal(loaded["random"], state["random"])
    assert loaded["scalar"].shape == ()
    with pytest.raises(TypeError, match="x/0 is a set; expected tensors"):
        save_state(tmp_path, {"x": [set()]})
