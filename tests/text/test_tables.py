"""Tables written in pieces: every kind of file holds what was given, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest

from ulmfit_fast import InputError
from ulmfit_fast.text import tables
from ulmfit_fast.text.files import read_documents
from ulmfit_fast.text.inputs import Input
from ulmfit_fast.text.table_writer import TableWriter, write_table
from ulmfit_fast.text.tables import read_tables

TABLE = pd.DataFrame({"text": ["a, b", "", "NA"], "label": ["x", "1", "x"]})


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_written_tables_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    write_table(TABLE, path)
    documents = read_documents(path, label_column="label")
    assert (documents.texts, documents.labels) == (TABLE["text"].tolist(), TABLE["label"].tolist())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file is left


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_any_text_can_be_written(suffix: str, tmp_path: Path) -> None:
    """Half a surrogate pair becomes a question mark; a carriage return alone is text, not the end of a line."""
    texts = ["cut \ud83d", "a\rb", 'x,"y"\n', "7"]
    write_table(pd.DataFrame({"text": pd.Series(texts, dtype=object), "n": [1, 2, 3, 4]}), tmp_path / f"out{suffix}")
    assert read_documents(tmp_path / f"out{suffix}").texts == ["cut ?", *texts[1:]]


def test_unwritable_tables(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write this kind of file"):
        write_table(TABLE, tmp_path / "out.xlsx")
    with pytest.raises(InputError, match="not a file in an existing folder"):
        write_table(TABLE, tmp_path / "gone" / "out.csv")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_that_come_later(suffix: str, tmp_path: Path) -> None:
    """A first piece without a column, or with nothing in it, does not settle the file's columns or types."""
    pieces = [pd.DataFrame({"text": ["a"], "n": [None]}), pd.DataFrame({"text": ["b"], "n": [7], "more": ["x"]})]
    path = tmp_path / f"out{suffix}"
    writer = TableWriter(path)
    for piece in pieces:
        writer.expect(piece)
    with writer:
        for piece in pieces:
            writer.write(piece)
    [table] = read_tables(Input("out", path, suffix), {"text": "--text-column"})
    assert list(table.columns) == ["text", "n", "more"]
    assert table["text"].tolist() == ["a", "b"]
    first, second = table["n"]
    assert first == "" if suffix == ".csv" else pd.isna(first)
    assert float(second) == 7
    assert table["more"].tolist()[1] == "x"


@pytest.mark.parametrize("at_once", [0, 32 << 20])
def test_parquet_types_stay(at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_READ_AT_ONCE", at_once)
    source = pyarrow.table({
        "text": ["a", None], "n": pyarrow.array([1, None], pyarrow.int16()), "raw": [b"\xff", b""],
        "vector": [[1.5], None], "kind": pyarrow.array(["p", "q"]).dictionary_encode(),
    })  # fmt: skip
    pyarrow.parquet.write_table(source, tmp_path / "in.parquet")
    [table] = read_tables(Input("in", tmp_path / "in.parquet", ".parquet"), {"text": "--text-column"})
    write_table(table, tmp_path / "out.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").equals(source)


def test_a_column_of_two_types(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "out.parquet")
    writer.expect(pd.DataFrame({"n": [1]}))
    with pytest.raises(InputError, match=r"column 'n' does not fit into a parquet file .* write a .csv or .jsonl"):
        writer.expect(pd.DataFrame({"n": ["one"]}))


def test_columns_of_one_name(tmp_path: Path) -> None:
    """A spreadsheet's unnamed columns stay in a .csv; other kinds of file cannot hold them."""
    (tmp_path / "a.csv").write_text("text,,\nx,1,2\n")
    [table] = read_tables(Input("a", tmp_path / "a.csv", ".csv"), {"text": "--text-column"})
    write_table(table, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "text,,\nx,1,2\n"
    for suffix in (".jsonl", ".parquet"):
        with pytest.raises(InputError, match=r"column '' occurs twice; name it otherwise, or write a .csv file"):
            write_table(table, tmp_path / f"b{suffix}")


def test_numbers_stay_as_they_are(tmp_path: Path) -> None:
    row = {"text": "a", "p": 1e-12, "q": 0.857, "n": 2**53 + 1}
    write_table(pd.DataFrame([row]), tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text()) == row


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_table(TABLE, path)
    before = path.read_bytes()

    def fail() -> None:
        writer = TableWriter(path)
        writer.expect(TABLE)
        with writer:
            writer.write(TABLE)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
