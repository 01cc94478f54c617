"""Messages of any input on any terminal: one line of bounded length, exit status 2, no traceback."""

from __future__ import annotations

import io
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import ClassifierConfig, InputError, PretrainConfig, finetune_classifier, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.training import history

LONG = "9" * 5000


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_task(tmp_path / "train.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", LONG], "Invalid value for '--seed'"),
        (["--seed", "1" + "0" * 30], "seed must be at most 9223372036854775807, got one of 100 bits"),
        (["--epochs", "-" + "9" * 30], "epochs must be at most 9223372036854775807"),
        (["--max-texts", LONG], "Invalid value for '--max-texts'"),
        (["--lr", LONG], "lr must be a finite number, got inf"),
        (["--precision", LONG], "precision must be one of float32, bfloat16, got '999"),
        (["--embedding-size", "1000000000000"], "not enough memory"),
        (["--head-size", str(1 << 62)], "not enough memory"),
        (["--model", "gone" * 2000], "File name too long"),
        (["--model", "a\nb\x1b[2Jc\udce9"], "a b\\x1b[2Jc\\udce9: no such model folder"),
        (["--" + LONG], "No such option"),
    ],
)
def test_values_that_are_too_long_or_too_large(
    options: list[str], message: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [] if "--model" in options else SIZES
    assert main(["train", data, "--output", str(tmp_path / "out"), *sizes, *SMALL, *options]) == 2
    err = capsys.readouterr().err
    assert err.startswith("ulmfit-fast: error: ")
    assert message in err
    assert len(err) < 1200
    assert err.endswith("\n")
    assert err[:-1].isprintable()  # which a line end is not
    assert not (tmp_path / "out").exists()


def test_numbers_that_python_does_not_print() -> None:
    for config in (PretrainConfig, ClassifierConfig):
        with pytest.raises(InputError, match=f"{config.__name__}: epochs must be at most .* got one of 16610 bits"):
            config(epochs=10**5000)


def test_a_folder_that_was_deleted(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert main(["train", data, "--output", str(tmp_path / "out")]) == 2
    finally:
        os.chdir(tmp_path)
    assert_one_line(capsys, "the current folder has been deleted; change to one that exists")


def test_labels_that_the_terminal_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, labels = make_task(20)
    names = {"good": "\U0001f600", "bad": "\u0439"}
    finetune_classifier(texts, [names[label] for label in labels], None, CLASSIFY, output=tmp_path / "clf")
    table = tmp_path / "t.csv"
    table.write_text("text,label\ngreat film,\U0001f600\n", encoding="utf-8")
    for arguments in (["info", str(tmp_path / "clf")], ["evaluate", str(table), "--model", str(tmp_path / "clf")]):
        stream = io.TextIOWrapper(io.BytesIO(), "latin-1", write_through=True)
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(arguments) == 0
        assert b"\\U0001f600" in stream.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_warning_is_a_line_and_comes_once(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the NaN weights that two folders of the same model hold: once each, not once a reading."""
    import safetensors.torch

    for name in ("one", "two"):
        shutil.copytree(models / "clf", tmp_path / name)
        weights = safetensors.torch.load_file(tmp_path / name / "model.safetensors")
        weights["bpt3c.encoder.encoder.weight"][5] = float("nan")  # of a word that no text here has
        safetensors.torch.save_file(weights, tmp_path / name / "model.safetensors")
    (tmp_path / "t.csv").write_text("text\ngreat film\n")
    arguments = ["predict", str(tmp_path / "t.csv"), "--output", str(tmp_path / "o.csv")]
    assert main([*arguments, "--model", str(tmp_path / "one"), "--model", str(tmp_path / "two")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("one", "two"), strict=True):
        assert line.startswith(f"ulmfit-fast: note: {tmp_path / name / 'model.safetensors'}: ")
        assert "holds NaN" in line


def test_no_folder_for_matplotlib_s_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOME and TMPDIR that cannot be written: there is no picture, and all else."""

    def plot(*_: object) -> bytes:
        raise OSError("Matplotlib requires access to a writable cache directory")

    monkeypatch.setattr(history, "plot_curves", plot)
    with pytest.warns(UserWarning, match=r"no curves\.png is drawn .Matplotlib requires access"):
        pretrain_lm(make_task(20)[0], PRETRAIN, output=tmp_path / "lm")
    names = {path.name for path in (tmp_path / "lm").iterdir()}
    assert {"history.jsonl", "model.safetensors", "config.json"} <= names
    assert "curves.png" not in names


def test_main_leaves_streams_and_warnings_as_they_were(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, sys.stdout.errors, sys.stderr.errors, warnings.showwarning
    assert main(["info", str(models / "lm")]) == 0
    assert (sys.stdout, sys.stderr, sys.stdout.errors, sys.stderr.errors, warnings.showwarning) == before
