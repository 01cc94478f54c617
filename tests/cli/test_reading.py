"""Options on how files are read, the same in every command; standard input and output; probabilities of all classes."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import zipfile
from pathlib import Path

import click
import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line
from tests.tiny import make_task
from ulmfit_fast.cli import options
from ulmfit_fast.cli.main import command, main
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.text.corpus import Corpus

READERS = ["train", "evaluate", "predict", "tokenize", "pretrain-lm", "finetune-lm"]


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize("name", READERS)
def test_commands_have_the_same_options(name: str) -> None:
    found = command.get_command(click.Context(command), name)
    assert found is not None
    names = {parameter.name for parameter in found.params}
    assert set(options.OF_READING) - {"split"} <= names
    assert ("split" in names) == (name != "train")


def test_a_table_of_another_make(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Semicolons, Windows-1252, no header, two columns of text: read alike by every command."""
    texts, labels = make_task(60, seed=2)
    rows = [f"{label};caf\xe9 {number};{text}" for number, (text, label) in enumerate(zip(texts, labels, strict=True))]
    data = tmp_path / "a.csv"
    data.write_bytes("\r\n".join(rows).encode("cp1252"))
    how = ["--delimiter", ";", "--encoding", "windows-1252", "--columns", "label,title,text"]
    both = [*how, "--text-column", "title", "--text-column", "text"]
    assert main(["tokenize", str(data), "--output", str(tmp_path / "c"), "--min-frequency", "1", *both]) == 0
    corpus = Corpus.load(tmp_path / "c")
    assert {"xxfld", "caf\xe9"} <= set(corpus.tokenizer.vocabulary)
    assert corpus.source["text_column"] == ["title", "text"]
    new = ["--output", str(tmp_path / "lm"), *SIZES, *SMALL]
    assert main(["pretrain-lm", str(data), *new, "--eval", str(data), *both]) == 0
    read = capsys.readouterr().out.splitlines()[-1]
    assert main(["pretrain-lm", str(tmp_path / "c"), *new[:-6], *SMALL, "--overwrite", "--eval", str(data)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split(" on ")[1] == read.split(" on ")[1]
    tuned = ["finetune-lm", str(data), "--model", str(tmp_path / "lm"), "--output", str(tmp_path / "lm2"), *SMALL]
    assert main([*tuned, *both]) == 0
    trained = ["train", str(data), "--model", str(tmp_path / "lm2"), "--output", str(tmp_path / "clf"), *SMALL]
    assert main([*trained, "--valid", str(data), "--epochs", "1", *both]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(data), "--model", str(tmp_path / "clf"), *both]) == 0
    assert "on 60 texts" in capsys.readouterr().out
    out = tmp_path / "out.tsv.gz"
    assert main(["predict", str(data), "--model", str(tmp_path / "clf"), "--output", str(out), *both]) == 0
    written = pd.read_csv(out, sep="\t", dtype=str)
    assert written.columns.tolist() == ["label", "title", "text", "prediction", "confidence"]
    assert written["text"].tolist() == texts
    assert written["title"][0] == "caf\xe9 0"


@pytest.mark.parametrize("probabilities", [False, True])
def test_probabilities_of_all_classes(probabilities: bool, models: Path, tmp_path: Path) -> None:
    texts, _ = make_task(9, seed=4)
    data, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps({"text": text, "good": 1}) + "\n" for text in texts))
    more = ["--probabilities"] if probabilities else []
    assert main(["predict", str(data), "--model", str(models / "clf"), "--output", str(out), *more]) == 0
    written = [json.loads(line) for line in out.read_text().splitlines()]
    names = ["probability:bad", "probability:good"] if probabilities else []
    assert list(written[0]) == ["text", "good", "prediction", "confidence", *names]
    model, tokenizer, task = load_classifier(models / "clf")
    for row, expected in zip(written, predict_probabilities(model, tokenizer, task, texts), strict=True):
        assert row["confidence"] == pytest.approx(expected.max(), abs=1e-6)
        if probabilities:
            assert [row[name] for name in names] == pytest.approx(expected.tolist(), abs=1e-6)
    if probabilities:  # again, of its own output: the same columns anew
        again = ["predict", str(out), "--model", str(models / "clf"), "--output", str(tmp_path / "again.jsonl"), *more]
        assert main(again) == 0
        assert (tmp_path / "again.jsonl").read_text() == out.read_text()


def test_columns_that_predict_writes(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("prediction,confidence,n,text\nfine,dull,1,weak\n")
    out = tmp_path / "out.csv"
    arguments = ["predict", str(tmp_path / "a.csv"), "--model", str(models / "clf"), "--output", str(out)]
    for name in ("prediction", "confidence"):
        assert main([*arguments, "--text-column", "n", "--text-column", name]) == 2
        assert_one_line(capsys, f"--text-column '{name}': predict writes a column of this name; rename it in")
    assert not out.exists()
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert err == f"ulmfit-fast: note: {tmp_path}/a.csv: new columns take the place of its 'confidence', 'prediction'\n"


def test_standard_input_and_output(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content = (models / "train.csv").read_bytes()
    stdin(monkeypatch, content)
    assert main(["predict", "-", "--format", "csv", "--model", str(models / "clf"), "--output", "-"]) == 0
    captured = capfd.readouterr()
    assert len(pd.read_csv(io.StringIO(captured.out))) == 120
    assert captured.err == "120 predictions in -\n"
    stdin(monkeypatch, content)
    assert main(["evaluate", "-", "--format", "csv", "--model", str(models / "clf")]) == 0
    assert "on 120 texts" in capfd.readouterr().out
    stdin(monkeypatch, content)
    assert main(["predict", "-", "--model", str(models / "clf"), "--output", str(tmp_path / "out.csv")]) == 2
    assert "-: unknown kind of file" in capfd.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_corpus_from_a_pipe(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read two or three times, by processes too; a run that goes on knows the same texts again."""
    content = (models / "train.csv").read_bytes()
    arguments = ["pretrain-lm", "-", "--format", "csv", "--output", str(tmp_path / "lm"), *SIZES, *SMALL]
    for more, status in (([], 0), (["--resume"], 0), (["--resume"], 2)):
        stdin(monkeypatch, content if status == 0 else content + b"another text,good\n")
        assert main([*arguments, "--processes", "2", *more]) == status
    assert main(["pretrain-lm", str(models / "train.csv"), "--output", str(tmp_path / "lm3"), *arguments[6:]]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("lm", "lm3")]
    assert weights[0] == weights[1]


def test_a_table_and_its_validation_from_pipes(models: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "train.csv", tmp_path / "valid.csv"]
    for path in paths:
        os.mkfifo(path)
        content = (models / "train.csv").read_bytes()
        threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
    arguments = ["train", str(paths[0]), "--valid", str(paths[1]), "--output", str(tmp_path / "clf"), *SIZES, *SMALL]
    assert main([*arguments, "--epochs", "1", "--max-texts", "50"]) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a.csv", "--split", "line"], "--split does nothing here: {}/a.csv is not a .txt file"),
        (["a.csv", "--format", "csv"], "--format does nothing here: {}/a.csv is of the kind that the name tells"),
        (["a.txt", "--text-column", "x"], "--text-column does nothing here: {}/a.txt is no table"),
        (["a.txt", "--delimiter", ";"], "--delimiter does nothing here: {}/a.txt is no .csv or .tsv file"),
        (["a.jsonl", "--columns", "x"], "--columns does nothing here: {}/a.jsonl is no .csv or .tsv file"),
        (["a.jsonl", "--no-quotes"], "--no-quotes does nothing here: {}/a.jsonl is no .csv or .tsv file"),
        (["a.parquet", "--encoding", "utf-16"], "--encoding does nothing here: {}/a.parquet is a .parquet file"),
        (["folder", "--split", "line"], "--split does nothing here: {}/folder is not a .txt file"),
        (["a.csv", "--delimiter", "::"], "--delimiter must be one character, or tab, got '::'"),
        (["a.csv", "--encoding", "klingon"], "--encoding: 'klingon' is no encoding of text"),
        (["a.csv", "--columns", "text,text"], "--columns: 'text' is given twice"),
        (["gone.csv", "--split", "line"], "{}/gone.csv: no such file or folder"),
    ],
)  # fmt: skip
def test_options_that_mean_nothing(
    given: list[str], message: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("text\nx\n")
    (tmp_path / "a.txt").write_text("x\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    pd.DataFrame({"text": ["x"]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.txt").write_text("x")
    arguments = ["predict", str(tmp_path / given[0]), "--model", str(models / "clf"), *given[1:]]
    assert main([*arguments, "--output", str(tmp_path / "out.csv")]) == 2
    assert_one_line(capsys, message.format(tmp_path))


def test_an_option_that_one_of_two_files_needs(tmp_path: Path) -> None:
    texts, labels = make_task(40)
    pd.DataFrame({"text": texts, "label": labels}).to_csv(tmp_path / "a.csv", index=False, sep=";")
    pd.DataFrame({"text": texts, "label": labels}).to_parquet(tmp_path / "v.parquet")
    arguments = ["train", str(tmp_path / "a.csv"), "--valid", str(tmp_path / "v.parquet"), "--delimiter", ";"]
    assert main([*arguments, "--output", str(tmp_path / "clf"), "--epochs", "1", *SIZES, *SMALL]) == 0


def test_a_notice_is_a_line_and_comes_once(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though the file is read twice."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.csv", "n;text\n1;fine\n")
        archive.writestr("README", "x")
    out = tmp_path / "out.csv"
    assert main(["predict", str(tmp_path / "a.zip"), "--model", str(models / "clf"), "--output", str(out)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"ulmfit-fast: note: {tmp_path}/a.zip: left out, as of no known kind: 'README'",
        f"ulmfit-fast: note: {tmp_path}/a.zip: a.csv: read with semicolons between the fields, as its first line has "
        "'text' so alone (--delimiter ';')",
    ]


def test_an_output_that_is_a_link(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "target.csv").write_text("old\n")
    (tmp_path / "link.csv").symlink_to("target.csv")
    arguments = ["predict", str(models / "train.csv"), "--model", str(models / "clf"), "--max-texts", "1"]
    assert main([*arguments, "--output", str(tmp_path / "link.csv")]) == 2
    assert_one_line(capsys, "link.csv: exists; choose another file or pass --overwrite")
    assert main([*arguments, "--output", str(tmp_path / "link.csv"), "--overwrite"]) == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert "prediction" in (tmp_path / "target.csv").read_text()


def test_names_and_messages_of_any_kind(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is not UTF-8 is shown with ``?``; a message is never as long as the input."""
    name = os.fsdecode(b"caf\xe9.csv")
    (tmp_path / name).write_text("text,label\nfine,good\n")
    out = tmp_path / os.fsdecode(b"\xe9.csv")
    assert main(["predict", str(tmp_path / name), "--model", str(models / "clf"), "--output", str(out)]) == 0
    assert "1 predictions in " in capsys.readouterr().out
    assert main(["predict", str(tmp_path / name), "--model", str(models / "clf"), "--output", str(out)]) == 2
    assert_one_line(capsys, ".csv: exists")
    label = "word " * 40_000
    (tmp_path / "a.csv").write_text(f"text,label\nfine,{label}\n")
    assert main(["evaluate", str(tmp_path / "a.csv"), "--model", str(models / "clf")]) == 2
    err = capsys.readouterr().err
    assert "unknown label" in err
    assert len(err) < 1200
