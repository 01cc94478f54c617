"""The command line: the three stages on files, and one line and exit status 2 for every bad input."""

from __future__ import annotations

import json
import lzma
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from tests.tiny import make_task
from ulmfit_fast.cli.main import main
from ulmfit_fast.training.loop import Loop


def test_stages_report_what_they_do(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(models / "train.csv")
    assert (
        main(["train", data, "--output", str(tmp_path / "clf"), "--epochs", "2", "--valid", data, *SIZES, *SMALL]) == 0
    )
    captured = capsys.readouterr()
    assert "model, history and curves in" in captured.out
    assert captured.err.count("tokens/s") == 2
    assert "accuracy" in captured.err
    arguments = json.loads((tmp_path / "clf" / "training_args.json").read_text())
    assert (arguments["epochs"], arguments["embedding_size"]) == (2, 12)


def test_evaluate(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_task(tmp_path / "test.csv", 40, seed=3)
    assert main(["evaluate", str(data), "--model", str(models / "clf")]) == 0
    out = capsys.readouterr().out
    assert "precision" in out
    last = out.strip().splitlines()[-1].split()
    assert last[:1] + last[2:] == ["accuracy", "on", "40", "texts"]
    assert float(last[1]) > 0.85


def test_info(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(models / "clf")]) == 0
    out = capsys.readouterr().out
    assert "labels: bad, good" in out
    assert "encoder.hidden_size: 16" in out


def test_help_shows_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--backprop" in out
    assert "[default: 0.01" in out
    assert main([]) == 0


def _file(name: str, content: bytes) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return make


GOOD = b"text,label\n" + b"great film,good\nawful film,bad\n" * 20
BAD_TRAINING = {
    "no such file": (lambda folder: str(folder / "gone.csv"), "gone.csv: no such file or folder"),
    "empty file": (_file("a.csv", b""), "a.csv: the file is empty"),
    "missing column": (
        _file("a.csv", b"body,label\nx,y\n"),
        "a.csv: no column 'text'; its columns are 'body', 'label'",
    ),
    "missing label": (_file("a.csv", b"text,label\nx,y\nx,\n"), "a.csv: row 2: column 'label' is empty"),
    "one label": (
        _file("a.csv", b"text,label\nx,y\nz,y\n"),
        "a.csv: all labels are 'y'; a classifier needs at least two",
    ),
    "not utf-8": (_file("a.csv", b"text,label\nx,y\n\xe9,y\n"), "a.csv: line 3: byte 0xe9 is not UTF-8"),
    "truncated xz": (_file("a.csv.xz", lzma.compress(GOOD)[:-9]), "a.csv.xz: damaged or truncated"),
    "unknown kind": (_file("a.doc", GOOD), "a.doc: unknown kind of file"),
}


@pytest.mark.parametrize("name", BAD_TRAINING)
def test_bad_training_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = BAD_TRAINING[name]
    assert main(["train", make(tmp_path), "--output", str(tmp_path / "clf"), *SIZES]) == 2
    assert_one_line(capsys, message)
    assert not (tmp_path / "clf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weight-decay", "much"], "'much' is not a valid float"),
        (["--epochs", "-1"], "epochs must be at least 0, got -1"),
        (["--valid", "gone.csv"], "gone.csv: no such file"),
        (["--precision", "int4"], "precision must be one of float32, bfloat16, got 'int4'"),
        (["--ratio", "0.5"], "ratio must be at least 1, got 0.5"),
        (["--backprop", "all"], "backprop must be one of detached, exact, got 'all'"),
        (["--drop-mult", "3"], "drop_mult=3 makes input_p 1.2;"),
        (["--seed", "-1"], "seed must be at least 0, got -1"),
        (["--head-size", "0"], "head_size must be at least 1"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_bad_options(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _file("a.csv", GOOD)(tmp_path)
    assert main(["train", data, "--output", str(tmp_path / "clf"), *SIZES, *arguments]) == 2
    assert_one_line(capsys, message)
    assert not (tmp_path / "clf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "{data}", "--model", "gone", "--output", "{new}"], "gone: no such model folder"),
        (
            ["train", "{data}", "--model", "{lm}", "--output", "{new}", "--hidden-size", "8"],
            "--hidden-size does nothing",
        ),
        (
            ["evaluate", "{data}", "--model", "{lm}", "--batch-size", "8"],
            "--batch-size does nothing here: {lm} is a lang",
        ),
        (
            ["evaluate", "{data}", "--model", "{clf}", "--split", "line"],
            "--split does nothing here: {clf} is a classif",
        ),
        (["predict", "{data}", "--model", "{clf}", "--output", "{data}"], "train.csv: exists; choose another"),
    ],
)
def test_options_that_would_do_nothing_or_harm(
    models: Path, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {"data": models / "train.csv", "lm": models / "lm2", "clf": models / "clf", "new": tmp_path / "new"}
    before = (models / "train.csv").read_bytes()
    assert main([argument.format(**paths) for argument in arguments]) == 2
    assert_one_line(capsys, message.format(**paths))
    assert (models / "train.csv").read_bytes() == before
    assert not (tmp_path / "new").exists()


def test_an_output_that_holds_a_model(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(models / "train.csv"), "--output", str(models / "clf")]) == 2
    assert_one_line(capsys, "already holds a model; choose another folder or pass --overwrite")


def test_unknown_label_in_evaluation(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _file("a.csv", b"text,label\nx,good\ny,fair\n")(tmp_path)
    assert main(["evaluate", data, "--model", str(models / "clf")]) == 2
    assert_one_line(capsys, "a.csv: row 2: unknown label 'fair'; the model knows bad, good")


@pytest.mark.parametrize("damage", ["truncated", "foreign", "language model"])
def test_bad_model_folders(models: Path, damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clf"
    folder.mkdir()
    for path in (models / ("lm" if damage == "language model" else "clf")).glob("*.*"):
        content = path.read_bytes()
        if damage == "truncated" and path.name == "model.safetensors":
            content = content[:-100]
        if damage == "foreign" and path.name == "config.json":
            content = b'{"model_type": "bert"}'
        (folder / path.name).write_bytes(content)
    output = tmp_path / "p.csv"
    assert main(["predict", str(models / "train.csv"), "--model", str(folder), "--output", str(output)]) == 2
    expected = {"truncated": "damaged", "foreign": "foreign", "language model": "expected a classifier"}
    assert_one_line(capsys, expected[damage])
    assert not output.exists()


def test_unknown_label_in_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, valid = _file("a.csv", GOOD)(tmp_path), _file("v.csv", b"text,label\nx,good\ny,fair\n")(tmp_path)
    assert main(["train", data, "--valid", valid, "--output", str(tmp_path / "clf"), *SIZES]) == 2
    assert_one_line(capsys, "v.csv: row 2: unknown label 'fair'")
    assert not (tmp_path / "clf").exists()


def test_a_part_held_out_for_validation(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same part each time: a run resumed after its end finds its texts again."""
    data = str(models / "train.csv")
    arguments = ["train", data, "--output", str(tmp_path / "clf"), "--epochs", "1", *SIZES, *SMALL]
    assert main([*arguments, "--valid-fraction", "0.2"]) == 0
    assert "accuracy" in capsys.readouterr().err
    assert main([*arguments, "--valid-fraction", "0.2", "--resume"]) == 0
    assert main([*arguments, "--valid-fraction", "0.3", "--resume"]) == 2
    assert_one_line(capsys, "made on other texts, labels or words")
    assert main([*arguments, "--valid-fraction", "0.2", "--valid", data, "--overwrite"]) == 2
    assert_one_line(capsys, "--valid-fraction does not go with --valid")


def test_a_label_with_one_text_cannot_be_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = _file("a.csv", GOOD + b"the only one,rare\n")(tmp_path)
    assert main(["train", data, "--output", str(tmp_path / "clf"), "--valid-fraction", "0.2", *SIZES]) == 2
    assert_one_line(capsys, "a.csv: cannot hold out 0.2 of every label: 'rare' has one text alone")
    assert not (tmp_path / "clf").exists()


def test_a_step_that_ruins_the_weights_is_never_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One batch: its own loss is finite, what the step leaves behind is not."""
    data = _file("a.csv", GOOD)(tmp_path)
    arguments = ["train", data, "--output", str(tmp_path / "clf"), *SIZES, "--batch-size", "64", "--lr", "1e38"]
    assert main([*arguments, "--clip", "1e30", "--epochs", "1"]) == 2
    assert_one_line(capsys, "the last good checkpoint is kept")
    assert not (tmp_path / "clf").exists()


def test_a_diverging_loss_is_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(write_task(tmp_path / "a.csv"))
    arguments = ["train", data, "--output", str(tmp_path / "clf"), *SIZES, *SMALL, "--lr", "1e30", "--clip", "1e30"]
    assert main(arguments) == 2
    err = capsys.readouterr().err.strip().splitlines()
    assert "became" in err[-1]
    assert "the last good checkpoint is kept" in err[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_loses_no_whole_step(
    number: int, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def advance(self: Loop, tokens: float) -> None:
        calls.append(tokens)
        if len(calls) == 30:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Loop, "advance", advance)
    data, output = str(models / "train.csv"), tmp_path / "clf"
    assert main(["train", data, "--model", str(models / "lm2"), "--output", str(output), *SMALL]) == 130
    assert f"go on with --resume (resume=True), from the checkpoint in {output}" in capsys.readouterr().err
    monkeypatch.undo()
    arguments = ["train", data, "--model", str(models / "lm2"), *SMALL]
    assert main([*arguments, "--output", str(output), "--resume"]) == 0
    assert main([*arguments, "--output", str(tmp_path / "whole")]) == 0
    weights = [(folder / "model.safetensors").read_bytes() for folder in (output, tmp_path / "whole")]
    assert weights[0] == weights[1]
    assert main([*arguments, "--output", str(output), "--resume", "--lr", "0.5"]) == 2
    assert "its checkpoint was made with lr=0.01, not 0.5" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_can_go_on_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = str(write_task(tmp_path / "a.csv")), tmp_path / "clf"

    def interrupt(self: Loop, tokens: float) -> None:
        raise KeyboardInterrupt

    arguments = ["train", data, "--output", str(output), *SIZES, *SMALL]
    monkeypatch.setattr(Loop, "advance", interrupt)
    assert main(arguments) == 130
    checkpoint = (output / "checkpoint.safetensors").read_bytes()
    monkeypatch.undo()
    assert main(arguments) == 2
    assert "holds a run that can go on; pass --resume, or --overwrite to start again" in capsys.readouterr().err
    assert (output / "checkpoint.safetensors").read_bytes() == checkpoint
    monkeypatch.setattr(Loop, "train_epoch", lambda *_: sys.exit("killed"))
    with pytest.raises(SystemExit):
        main([*arguments, "--overwrite"])
    assert not (output / "checkpoint.safetensors").exists()  # else a later --resume would go on with the old run


def test_long_documents_options(models: Path, tmp_path: Path) -> None:
    """A document of 4,000 words among short ones; every way to train it gives a model that predicts it."""
    texts, labels = make_task(20)
    texts[0] = " ".join(texts * 15)
    data = tmp_path / "long.csv"
    pd.DataFrame({"text": texts, "label": labels}).to_csv(data, index=False)
    options = {
        "exact": ["--backprop", "exact", "--bptt", "30"],
        "chunk": ["--mask-scope", "chunk", "--variable-bptt", "--pool-window", "50"],
        "recompute": ["--memory", "recompute"],
    }
    for name, chosen in options.items():
        arguments = ["train", str(data), "--model", str(models / "lm2"), "--output", str(tmp_path / name)]
        assert main([*arguments, "--epochs", "1", "--batch-size", "8", "--max-tokens", "200", *chosen]) == 0
        predictions = []
        for limit in ("10", "1000000"):
            output = tmp_path / f"{name}-{limit}.csv"
            model = ["--model", str(tmp_path / name), "--max-tokens", limit]
            assert main(["predict", str(data), *model, "--output", str(output)]) == 0
            predictions.append(output.read_bytes())
        assert predictions[0] == predictions[1]


def test_the_installed_command_has_no_traceback(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "ulmfit_fast", "info", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.count("\n") == 1
