"""The search: spaces from the configurations' fields, pruning, a study that goes on after any interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import (
    InputError,
    TrainingDivergedError,
    TrainingInterrupted,
    finetune_classifier,
    parse_space,
    pretrain_lm,
    search,
)
from ulmfit_fast.training.callbacks import Callback
from ulmfit_fast.training.config import ClassifierConfig, PretrainConfig
from ulmfit_fast.training.search import Choice, Range, Trial, draw_search

optuna = pytest.importorskip("optuna", reason="needs the extra search")

TEXTS, LABELS = make_task(48)
VALID_TEXTS, VALID_LABELS = make_task(20, seed=5)
CONFIG = replace(CLASSIFY, epochs=3)
TRAIN = partial(finetune_classifier, TEXTS, LABELS, None, valid_texts=VALID_TEXTS, valid_labels=VALID_LABELS)
LR = parse_space(["lr=1e-4:1e-1:log"], ClassifierConfig)


def test_spaces() -> None:
    space = parse_space(
        ["lr", "cut-frac", "batch_size", "unfreezing", "variable_bptt", "frz-blocks=1:4", "weight_decay=0:0.1",
         "head_size=10,50", "schedule=linear,cosine", "freeze_batch_norm=yes,false"],
        ClassifierConfig,
    )  # fmt: skip
    assert space == {
        "lr": Range(1e-3, 0.1, True), "cut_frac": Range(0.01, 1, True), "batch_size": Range(4, 320, True, True),
        "unfreezing": Choice(("gradual", "fastai", "chain-thaw", "last", "all")),
        "variable_bptt": Choice((False, True)), "frz_blocks": Range(1, 4, False, True),
        "weight_decay": Range(0.0, 0.1), "head_size": Choice((10, 50)), "schedule": Choice(("linear", "cosine")),
        "freeze_batch_norm": Choice((True, False)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("rate", "ClassifierConfig has no 'rate'; it has epochs, "),
        ("seed", "ClassifierConfig has no 'seed'"),
        ("word_dropout", "give a range, such as word_dropout=LOW:HIGH"),
        ("lr=1:x", "'x' is no float"),
        ("batch_size=2.5,4", "'2.5' is no int"),
        ("variable_bptt=maybe", "'maybe' is no bool"),
        ("lr=1e-1:1e-3", "LOW must be below HIGH$"),
        ("lr=0:1:log", "LOW must be below HIGH, and above 0 with log"),
        ("lr=1:2:3", "a range is LOW:HIGH or LOW:HIGH:log"),
        ("unfreezing=all:last", "a range is LOW:HIGH or LOW:HIGH:log"),
        ("lr=-1:1", "ClassifierConfig: lr must be above 0, got -1.0"),
        ("unfreezing=slow", "unfreezing must be one of gradual, .*got 'slow'"),
    ],
)
def test_bad_spaces(specification: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_space([specification], ClassifierConfig)


def test_the_best_is_the_best_epoch_of_the_best_trial(tmp_path: Path) -> None:
    losses: dict[int, list[float]] = {}
    tried: list[float] = []

    def train(config: Any, callbacks: Any) -> Any:
        trained = TRAIN(config=config, callbacks=callbacks, progress=False)
        losses[len(tried)] = [record["valid_loss"] for record in trained.history.records]
        tried.append(config.lr)
        return trained

    told: list[Trial] = []
    result = search(train, CONFIG, LR, 4, study=tmp_path / "s.db", on_trial=told.append)
    assert [trial.options["lr"] for trial in result.trials] == tried
    assert [trial.value for trial in result.trials] == pytest.approx([min(own) for own in losses.values()])
    assert told == result.trials
    best = min(losses, key=lambda k: min(losses[k]))
    assert result.best.number == best
    assert result.config == replace(CONFIG, lr=tried[best])
    assert draw_search(result).startswith(b"\x89PNG")


def test_scores_are_the_higher_the_better() -> None:
    result = search(partial(TRAIN, progress=False), replace(CONFIG, epochs=1), LR, 3, measure="accuracy")
    values = [trial.value for trial in result.trials]
    assert result.best.value == max(values)  # type: ignore[type-var]


def test_the_same_seed_tries_the_same() -> None:
    one, two, other = (
        search(partial(TRAIN, progress=False), replace(CONFIG, epochs=1), LR, 2, seed=seed) for seed in (0, 0, 1)
    )
    assert one.trials == two.trials
    assert [t.options for t in other.trials] != [t.options for t in one.trials]


def test_a_trial_behind_the_others_ends_early() -> None:
    """Four trials, then one whose validation loss is made much worse: it ends after its second epoch."""
    epochs: list[int] = []

    class Worse(Callback):
        def on_epoch(self, trainer: Any, record: Any) -> None:
            epochs[-1] += 1
            if len(epochs) == 5:
                record["valid_loss"] += 10

    def train(config: Any, callbacks: Any) -> Any:
        epochs.append(0)
        return TRAIN(config=config, callbacks=[Worse(), *callbacks], progress=False)

    result = search(train, CONFIG, LR, 5)
    assert epochs[4] == 2
    assert (result.trials[4].state, result.trials[4].epochs) == ("pruned", 2)
    assert result.best.number < 4
    assert draw_search(result).startswith(b"\x89PNG")


def test_an_interrupted_trial_is_run_again(tmp_path: Path) -> None:
    tried: list[float] = []

    class Interrupt(Callback):
        def on_epoch(self, trainer: Any, record: Any) -> None:
            if len(tried) == 3 and record["epoch"] == 2:
                raise KeyboardInterrupt

    def train(config: Any, callbacks: Any) -> Any:
        tried.append(config.lr)
        return TRAIN(config=config, callbacks=[*callbacks, Interrupt()], progress=False)

    with pytest.raises(TrainingInterrupted):
        search(train, CONFIG, LR, 4, study=tmp_path / "s.db")
    result = search(train, CONFIG, LR, 4, study=tmp_path / "s.db")
    assert len(tried) == 5
    assert tried[3] == tried[2]
    assert [trial.options["lr"] for trial in result.trials] == [tried[0], tried[1], tried[3], tried[4]]
    again = search(train, CONFIG, LR, 4, study=tmp_path / "s.db")
    assert len(tried) == 5
    assert again == result


_SCRIPT = """
import sys
from tests.training.test_search import CONFIG, LR, TRAIN, search
from ulmfit_fast.training.callbacks import Callback
class Say(Callback):
    def on_epoch(self, trainer, record):
        print(record["epoch"], flush=True)
def train(config, callbacks):
    return TRAIN(config=config, callbacks=[*callbacks, Say()], progress=False)
search(train, CONFIG, LR, 3, study=sys.argv[1])
"""


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """SIGKILL in the second trial: it is run again, the first is not."""
    study = tmp_path / "s.db"
    process = subprocess.Popen([sys.executable, "-c", _SCRIPT, str(study)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(4):  # three epochs and one
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    tried: list[float] = []

    def train(config: Any, callbacks: Any) -> Any:
        tried.append(config.lr)
        return TRAIN(config=config, callbacks=callbacks, progress=False)

    result = search(train, CONFIG, LR, 3, study=study)
    assert len(tried) == 2
    assert next(trial.number for trial in result.trials) == 0
    assert {trial.state for trial in result.trials} == {"complete"}
    assert [trial.options["lr"] for trial in result.trials][1:] == tried


def test_another_search_is_refused(tmp_path: Path) -> None:
    config, train = replace(CONFIG, epochs=1), partial(TRAIN, progress=False)
    search(train, config, LR, 1, study=tmp_path / "s.db")
    with pytest.raises(InputError, match="the study was begun with another epochs; use another file, or the same"):
        search(train, CONFIG, LR, 2, study=tmp_path / "s.db")
    with pytest.raises(InputError, match="begun with another space"):
        search(train, config, parse_space(["lr"], ClassifierConfig), 2, study=tmp_path / "s.db")
    with pytest.raises(InputError, match="begun with another measure"):
        search(train, config, LR, 2, study=tmp_path / "s.db", measure="accuracy")
    other = partial(
        finetune_classifier, TEXTS, LABELS[::-1], None, valid_texts=VALID_TEXTS, valid_labels=VALID_LABELS,
        progress=False,
    )  # fmt: skip
    with pytest.raises(InputError, match="the study was made on other texts or labels"):
        search(other, config, LR, 2, study=tmp_path / "s.db")


def test_divergence_and_options_that_do_not_go_together_count_as_tried() -> None:
    def diverges(config: Any, callbacks: Any) -> Any:
        raise TrainingDivergedError("the loss became NaN")

    with pytest.raises(InputError, match="none of 2 trials was finished; the last one: the loss became NaN"):
        search(diverges, CONFIG, LR, 2)
    with pytest.raises(InputError, match=r"none of 2 trials .*lr_lowest must be at most lr"):
        search(partial(TRAIN, progress=False), CONFIG, {"lr_lowest": Choice((0.5,))}, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: search(partial(finetune_classifier, TEXTS, LABELS), CONFIG, LR, 1), "are no validation texts"),
        (lambda path: search(TRAIN, CONFIG, LR, 1, measure="f2"), "no 'f2' is measured; the epochs have"),
        (lambda path: search(TRAIN, CONFIG, LR, 0), "trials must be at least 1, got 0"),
        (lambda path: search(TRAIN, CONFIG, LR, 1, study=path / "none" / "s.db"), "none does not exist"),
        (lambda path: search(TRAIN, CONFIG, LR, 1, study=_text(path)), "s.txt: not a study .*file is not a database"),
        (lambda path: parse_space([], ClassifierConfig), "nothing is to be searched"),
    ],
)  # fmt: skip
def test_bad_calls(call: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        call(tmp_path)


def _text(folder: Path) -> Path:
    path = folder / "s.txt"
    path.write_text("this is a text and no study " * 200)
    return path


def test_a_language_model_is_searched_too() -> None:
    space = parse_space(["lr=0.01,0.02", "optimizer=adamw,sgd"], PretrainConfig)
    result = search(
        partial(pretrain_lm, TEXTS, progress=False), PRETRAIN, space, 3, measure="perplexity"
    )  # fmt: skip
    assert result.best.value == min(trial.value for trial in result.trials if trial.value is not None)


def test_optunas_own_logging_is_left_alone() -> None:
    before = optuna.logging.get_verbosity()
    search(partial(TRAIN, progress=False), replace(CONFIG, epochs=1), LR, 1)
    assert optuna.logging.get_verbosity() == before
