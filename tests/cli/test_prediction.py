"""`ulmfit-fast predict`: every row of a file with its prediction, whatever the file and however it is read."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import make_task
from ulmfit_fast.cli.main import main
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.text import files, tables
from ulmfit_fast.text.inputs import Input
from ulmfit_fast.text.table_writer import write_table


def test_predict_keeps_rows_and_columns(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"id": ["07", "8", "9"], "text": ["great superb lovely", "", "awful dull poor"]})
    table.to_csv(tmp_path / "new.csv", index=False)
    output = tmp_path / "predictions.csv"
    assert main(["predict", str(tmp_path / "new.csv"), "--model", str(models / "clf"), "--output", str(output)]) == 0
    assert "3 predictions" in capsys.readouterr().out
    written = pd.read_csv(output, dtype=str, keep_default_na=False)
    assert written.columns.tolist() == ["id", "text", "prediction", "confidence"]
    assert written["id"].tolist() == ["07", "8", "9"]
    assert written["prediction"][0] == "good"
    assert written["prediction"][2] == "bad"
    assert all(0.5 <= float(value) <= 1 for value in written["confidence"])


@pytest.mark.parametrize("output", ["p.jsonl", "p.parquet"])
def test_predict_on_plain_text(models: Path, tmp_path: Path, output: str) -> None:
    (tmp_path / "new.txt").write_text("great superb\nawful dull\n")
    arguments = [
        "predict",
        str(tmp_path / "new.txt"),
        "--model",
        str(models / "clf"),
        "--output",
        str(tmp_path / output),
    ]
    assert main(arguments) == 0
    read = pd.read_parquet if output.endswith("parquet") else lambda p: pd.read_json(p, lines=True)
    assert read(tmp_path / output)["text"].tolist() == ["great superb", "awful dull"]


def test_predictions_in_bfloat16(models: Path, tmp_path: Path) -> None:
    """Close to float32's, and not the same."""
    tables = {}
    for precision in ("float32", "bfloat16"):
        output = tmp_path / f"{precision}.csv"
        arguments = ["predict", str(models / "train.csv"), "--model", str(models / "clf"), "--output", str(output)]
        assert main([*arguments, "--precision", precision]) == 0
        tables[precision] = pd.read_csv(output)["confidence"].to_numpy()
    assert not (tables["float32"] == tables["bfloat16"]).all()
    assert abs(tables["float32"] - tables["bfloat16"]).max() < 0.03


def test_unwritable_predictions(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", str(models / "train.csv"), "--model", str(models / "clf"), "--output"]
    assert main([*arguments, str(tmp_path / "p.xlsx")]) == 2
    assert_one_line(capsys, "cannot write this kind of file")


def read_whole(path: Path) -> pd.DataFrame:
    return pd.concat(tables.read_tables(Input(str(path), path, path.suffix), {}), ignore_index=True)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_read_in_pieces(suffix: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows at a time: the same rows in the same order, with what the model says of them all at once."""
    texts, _ = make_task(30, seed=5)
    table = pd.DataFrame({"id": range(30), "text": texts})
    write_table(table, tmp_path / f"new{suffix}")
    for module in (files, tables):
        monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(tables, "BATCH", 2)
    output = tmp_path / f"out{suffix}"
    arguments = ["predict", str(tmp_path / f"new{suffix}"), "--model", str(models / "clf"), "--output", str(output)]
    assert main(arguments) == 0
    written = read_whole(output)
    assert written["id"].astype(int).tolist() == list(range(30))
    assert written["text"].tolist() == texts
    model, tokenizer, task = load_classifier(models / "clf")
    expected = predict_probabilities(model, tokenizer, task, texts)
    assert written["prediction"].tolist() == [task.labels[i] for i in expected.argmax(1)]
    assert written["confidence"].astype("float32").to_numpy() == pytest.approx(expected.max(1), abs=1e-6)

    assert main([*arguments, "--overwrite", "--max-texts", "7", "--seed", "3"]) == 0
    drawn = read_whole(output)
    chosen = files.draw(30, 7, 3)
    assert drawn["id"].astype(int).tolist() == chosen.tolist()
    assert drawn["prediction"].tolist() == written["prediction"][chosen].tolist()


def test_a_faulty_row_is_found_before_the_work(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS", 2)
    monkeypatch.setattr("ulmfit_fast.cli.prediction.predict_documents", lambda *_: pytest.fail("predicted"))
    (tmp_path / "new.csv").write_text("text\n" + "fine\n" * 9 + "one,two\n")
    output = tmp_path / "out.csv"
    arguments = ["predict", str(tmp_path / "new.csv"), "--model", str(models / "clf"), "--output", str(output)]
    assert main(arguments) == 2
    assert_one_line(capsys, "new.csv: line 11: 2 fields where the header has 1")
    assert not output.exists()


@pytest.mark.parametrize(("split", "expected"), [("auto", ["a b", "c\nd"]), ("line", ["a b", "c", "d"])])
def test_documents_of_a_text_file(split: str, expected: list[str], models: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a b\n\nc\nd\n")
    output = tmp_path / "out.csv"
    arguments = ["predict", str(tmp_path / "new.txt"), "--model", str(models / "clf"), "--output", str(output)]
    assert main([*arguments, "--split", split]) == 0
    assert pd.read_csv(output)["text"].tolist() == expected


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_of_different_keys(suffix: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and types that the first rows do not show, and predictions of an earlier run."""
    monkeypatch.setattr(tables, "ROWS", 2)
    rows = [{"text": "fine", "prediction": 7}, {"text": "dull", "n": None}, {"n": 3}, {"text": "", "tags": ["a", "b"]}]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / f"out{suffix}"
    arguments = ["predict", str(tmp_path / "new.jsonl"), "--model", str(models / "clf"), "--output", str(output)]
    assert main(arguments) == 0
    written = read_whole(output)
    assert list(written.columns) == ["text", "n", "tags", "prediction", "confidence"]
    assert set(written["prediction"]) <= {"good", "bad"}
    present = [value if isinstance(value, list) else str(value) for value in written["tags"].dropna() if value != ""]
    assert present in ([["a", "b"]], ["['a', 'b']"])
    assert [int(n) for n in written["n"].dropna() if n != ""] == [3]


def test_an_index_of_pandas_is_no_column(models: Path, tmp_path: Path) -> None:
    pd.DataFrame({"text": ["fine", "dull", "weak"], "n": [1, None, 3]}).dropna().to_parquet(tmp_path / "new.parquet")
    output = tmp_path / "out.csv"
    arguments = ["predict", str(tmp_path / "new.parquet"), "--model", str(models / "clf"), "--output", str(output)]
    assert main(arguments) == 0
    assert list(pd.read_csv(output).columns) == ["text", "n", "prediction", "confidence"]


@pytest.mark.parametrize(
    ("rows", "suffix", "message"),
    [
        ('{"text": "x", "n": 1}\n{"text": "x", "n": "one"}\n', ".parquet", "column 'n' does not fit into a parquet"),
        ('{"text": "x", "id": 13835058055282163712}\n', ".parquet", "column 'id' does not fit into a parquet"),
        ('{"text": "x", "meta": {}}\n', ".parquet", "cannot be written"),
        ('{"text": "x", "meta": {"a": "\\ud83d"}}\n', ".jsonl", "cannot be written"),
    ],
)
def test_what_the_output_cannot_hold_is_said_before_the_work(
    rows: str, suffix: str, message: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "new.jsonl").write_text(rows)
    output = tmp_path / f"out{suffix}"
    arguments = ["predict", str(tmp_path / "new.jsonl"), "--model", str(models / "clf"), "--output", str(output)]
    monkeypatch.setattr("ulmfit_fast.inference.prediction.activated_of", lambda *_: pytest.fail("predicted"))
    assert main(arguments) == 2
    assert_one_line(capsys, message)
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_split_is_for_plain_text(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", str(models / "train.csv"), "--model", str(models / "clf")]
    assert main([*arguments, "--output", str(tmp_path / "out.csv"), "--split", "line"]) == 2
    assert_one_line(capsys, "--split does nothing here: ")
