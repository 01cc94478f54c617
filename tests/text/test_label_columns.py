"""Several labels a text, in every form that a table has for them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ulmfit_fast import InputError
from ulmfit_fast.text.files import read_documents
from ulmfit_fast.text.label_columns import LabelColumns

TAGS = LabelColumns(("tags",), ";")
EXPECTED = [["a", "b"], [], ["c"]]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_column_with_a_delimiter(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    table = pd.DataFrame({"text": ["x", "y", "z"], "tags": ["a; b", "", ";c;"]})
    if suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    elif suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    documents = read_documents(path, None, TAGS)
    assert documents.labels == EXPECTED
    assert documents.sample(2, 0).labels in ([EXPECTED[i] for i in pair] for pair in ([0, 1], [0, 2], [1, 2]))


def test_lists_of_labels_in_a_file(tmp_path: Path) -> None:
    """A delimiter inside an element is a part of it."""
    rows = [
        {"text": "x", "tags": ["a", "b;c"]},
        {"text": "y", "tags": []},
        {"text": "z", "tags": [3, "d"]},
        {"text": ""},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_documents(tmp_path / "t.jsonl", None, TAGS).labels == [["a", "b;c"], [], ["3", "d"], []]
    pd.DataFrame(rows[:2]).to_parquet(tmp_path / "t.parquet")
    assert read_documents(tmp_path / "t.parquet", None, TAGS).labels == [["a", "b;c"], []]


def test_columns_of_zeros_and_ones(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,a,b,c\nx,1,1,0\ny,0,0,0\nz,0.0,false,true\n")
    assert read_documents(tmp_path / "t.csv", None, LabelColumns(("a", "b", "c"), ";")).labels == EXPECTED
    pd.DataFrame({"text": ["x", "y"], "a": [True, False], "b": [1, 0]}).to_parquet(tmp_path / "t.parquet")
    assert read_documents(tmp_path / "t.parquet", None, LabelColumns(("a", "b"), ";")).labels == [["a", "b"], []]


def test_columns_of_a_label_each(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,first,second\nx,a,b\ny,,\nz,,c\n")
    assert read_documents(tmp_path / "t.csv", None, LabelColumns(("first", "second"), ";")).labels == EXPECTED


def test_a_missing_column(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,a\nx,1\n")
    with pytest.raises(InputError, match="no column 'b'; its columns are 'text', 'a'; choose one with --label-column"):
        read_documents(tmp_path / "t.csv", None, LabelColumns(("a", "b"), ";"))
