"""A bar on a terminal, else a line a minute; neither ends the work that it shows."""

from __future__ import annotations

import errno
import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.command_line import write_task
from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import finetune_classifier, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.core import progress
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.inference.prediction import predict_probabilities

TEXTS, LABELS = make_task(40)


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


class GoneTerminal(Terminal):
    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_a_minute(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("train 1/2", 1000, "tok", initial=200) as bar:
        bar.figures["loss"] = "1.5"
        for _ in range(59):
            clock[0] += 1
            bar.update(5)
        assert capsys.readouterr().err == ""
        clock[0] += 1
        bar.update(5)  # 300 in 60 seconds; 500 are left
        assert capsys.readouterr().err == "train 1/2: 50%, 500 of 1.00k tok, 5.00 tok/s, 01:40 left, loss 1.5\n"
        for _ in range(59):
            clock[0] += 1
            bar.update(0)
        assert capsys.readouterr().err == ""
        clock[0] += 1
        bar.update(600)  # more than was expected: 900 in 120 seconds
        assert capsys.readouterr().err == "train 1/2: 100%, 1.10k of 1.00k tok, 7.50 tok/s, 00:00 left, loss 1.5\n"
    assert capsys.readouterr().err == ""


def test_where_the_total_is_not_known(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("vocabulary", 0, "B") as bar:
        bar.title = "tokenize"
        clock[0] += 120
        bar.update(3_600_000)
    assert capsys.readouterr().err == "tokenize: 3.60M B, 30.0k B/s\n"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with progress_bar("evaluate", 100, "tok") as bar:
        bar.figures["loss"] = "2.5"
        bar._bar.mininterval = 0
        bar.update(50)
    shown = terminal.getvalue()
    assert "evaluate:  50%|" in shown
    assert "50.0/100" in shown
    assert "loss=2.5" in shown
    assert "\n" not in shown


@pytest.mark.parametrize("stream", ["closed", "none", "gone"])
def test_no_stream_ends_the_work(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", {"closed": closed, "none": None, "gone": GoneTerminal()}[stream])
    trained = finetune_classifier(TEXTS, LABELS, None, replace(CLASSIFY, epochs=1), progress=True)
    assert predict_probabilities(trained.model, trained.tokenizer, trained.task, TEXTS, progress=True).shape == (40, 2)


def test_training_and_prediction_say_how_far_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    trained = pretrain_lm(TEXTS, PRETRAIN)
    lines = capsys.readouterr().err.splitlines()
    training = [line for line in lines if line.startswith("pretrain LM 1/1: ")]
    assert len(training) > 3
    for part in ("tok/s", " left", "loss ", "perplexity ", f"step {len(training)}"):
        assert part in training[-1]
    assert any(line.startswith("evaluate: 100%") for line in lines)
    classifier = finetune_classifier(TEXTS, LABELS, trained, replace(CLASSIFY, epochs=1))
    assert "classifier 1/1: 100%" in capsys.readouterr().err
    predict_probabilities(classifier.model, classifier.tokenizer, classifier.task, TEXTS, progress=True)
    assert "predict: 100%" in capsys.readouterr().err


def test_progress_false_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    pretrain_lm(TEXTS, PRETRAIN, progress=False)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    trained = finetune_classifier(TEXTS, LABELS, None, replace(CLASSIFY, epochs=1), progress=False)
    predict_probabilities(trained.model, trained.tokenizer, trained.task, TEXTS)
    assert terminal.getvalue() == capsys.readouterr().err == ""


def test_tokenizing_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_task(tmp_path / "train.csv")
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert main(["tokenize", str(data), "--output", str(tmp_path / "out"), "--min-frequency", "1"]) == 0
    err = capsys.readouterr().err
    assert "\nvocabulary: " in f"\n{err}"
    assert "\ntokenize: " in err
