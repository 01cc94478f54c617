"""Reading every kind of file, and what is said about files that cannot be read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zstandard

from ulmfit_fast import InputError
from ulmfit_fast.text import files, tables
from ulmfit_fast.text.files import iterate_documents, read_documents
from ulmfit_fast.text.reading import ReadingNotice, ReadOptions
from ulmfit_fast.text.table_writer import write_table

TABLE = pd.DataFrame({"text": ["a, b", "", "NA"], "label": ["x", "1", "x"]})
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def table_bytes(kind: str) -> bytes:
    if kind == ".csv":
        return TABLE.to_csv(index=False).encode()
    if kind == ".jsonl":
        return b'{"text": "a, b", "label": "x"}\n\n{"text": "", "label": 1}\n{"text": "NA", "label": "x"}\n'
    return TABLE.to_parquet()


@pytest.mark.parametrize("compression", COMPRESSORS)
@pytest.mark.parametrize("kind", [".csv", ".jsonl", ".parquet"])
def test_tables(kind: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"data{kind}{compression}"
    path.write_bytes(COMPRESSORS[compression](table_bytes(kind)))
    documents = read_documents(path, label_column="label")
    assert documents.texts == ["a, b", "", "NA"]
    assert documents.labels == ["x", "1", "x"]


@pytest.mark.parametrize("compression", COMPRESSORS)
def test_plain_text(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"data.txt{compression}"
    path.write_bytes(COMPRESSORS[compression]("\ufefféin\nzwei\n".encode()))
    assert read_documents(path).texts == ["éin", "zwei"]


def test_blank_lines_separate_documents(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("= A =\nfirst\n\n\n= B =\nsecond\n\n")
    assert read_documents(path).texts == ["= A =\nfirst", "= B =\nsecond"]


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("two\n\nparts")
    (tmp_path / "sub" / "a.txt.gz").write_bytes(gzip.compress(b"zipped"))
    (tmp_path / "notes.md").write_text("not this")
    with pytest.warns(ReadingNotice, match=r"left out, as they are not .txt: 'notes.md'"):
        [documents] = iterate_documents(tmp_path)
    assert documents.texts == ["two\n\nparts", "zipped"]
    assert documents.table["file"].tolist() == ["b.txt", "sub/a.txt.gz"]


def test_other_column_names(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("body,kind\nhello,7\n")
    documents = read_documents(path, ReadOptions(text_columns=("body",)), "kind")
    assert (documents.texts, documents.labels) == (["hello"], ["7"])


def test_sample_is_a_seeded_draw_in_the_files_order(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    pd.DataFrame({"text": [str(i) for i in range(100)], "label": range(100)}).to_csv(path, index=False)
    [documents] = iterate_documents(path, label_column="label")
    sample = documents.sample(10, seed=1)
    assert sample.texts == sorted(sample.texts, key=int) == sample.labels == sample.table["text"].tolist()
    assert len(set(sample.texts)) == 10
    assert sample.texts == documents.sample(10, seed=1).texts != documents.sample(10, seed=2).texts
    assert documents.sample(None, 0) is documents.sample(100, 0) is documents


GOOD_CSV = b"text,label\n" + b"".join(b"text %d,x\n" % (i * i) for i in range(999))
BAD: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("gone.csv", None, "gone.csv: no such file"),
    "unknown kind": ("data.doc", b"x", r"unknown kind of file; expected .txt, .csv"),
    "empty csv": ("data.csv", b"", "the file is empty"),
    "empty txt": ("data.txt", b"\n\n", "the file is empty"),
    "empty parquet": ("data.parquet", b"", "the file is empty"),
    "header only": ("data.csv", b"text,label\n", "the file has no rows"),
    "no text column": ("data.csv", b"body,label\nx,y\n", "no column 'text'; its columns are 'body', .*--text-column"),
    "no label column": ("data.csv", b"text,kind\nx,y\n", "no column 'label'.*--label-column"),
    "empty label": ("data.csv", b"text,label\nx,y\nz,\n", "row 2: column 'label' is empty"),
    "latin1": ("data.csv", b"text,label\nx,y\ncaf\xe9,y\n", "line 3: byte 0xe9 is not UTF-8"),
    "ragged csv": ("data.csv", b"text,label\nx,y\na,b,c,d\n", "line 3: 4 fields where the header has 2; quote"),
    "unquoted comma": ("data.csv", b"text,label\ngood, film,pos\n", "line 2: 3 fields where the header has 2"),
    "short row": ("data.csv", b"text,label\nx,y\nz\n", "line 3: 1 fields"),
    "open quote": ("data.csv", b'text,label\n"x,y\n', "line 2: not a readable CSV file"),
    "truncated zst": ("data.csv.zst", zstandard.ZstdCompressor().compress(GOOD_CSV)[:-9], "damaged or truncated"),
    "corrupt gz": ("data.csv.gz", gzip.compress(GOOD_CSV)[:40] + b"\xff" * 40, "damaged or truncated"),
    "list in a cell": ("data.jsonl", b'{"text": ["x"], "label": 1}\n', "row 1: column 'text' holds a list"),
    "bad json": ("data.jsonl", b'{"text": "x", "label": 1}\n{"text": \n', "line 2: not JSON"),
    "json list": ("data.jsonl", b"[1]\n", "line 1: expected a JSON object, got list"),
    "bad parquet": ("data.parquet", b"PAR1 nothing", "not a readable parquet file"),
    "truncated xz": ("data.csv.xz", lzma.compress(b"text,label\nx,y\n" * 99)[:-20], "damaged or truncated"),
    "truncated gz": ("data.csv.gz", gzip.compress(b"text,label\nx,y\n" * 99)[:-20], "damaged or truncated"),
    "not xz": ("data.csv.xz", b"text,label\n", "no .xz data at its beginning; if it is not damaged, its name"),
    "gz in the name of bz2": ("a.csv.bz2", gzip.compress(b"text\n"), "no .bz2 data .* gzip data; its name .* .gz"),
    "not gz": ("data.csv.gz", b"text,label\n", "no .gz data at its beginning"),
    "not zst": ("data.csv.zst", b"text,label\n", "no .zst data at its beginning"),
    "txt has no labels": ("data.txt", b"x\n", "plain text has no labels"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, tmp_path: Path) -> None:
    filename, content, message = BAD[name]
    if content is not None:
        (tmp_path / filename).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_documents(tmp_path / filename, None, "label" if "txt" not in name or "has" in name else None)
    assert str(tmp_path / filename) in str(error.value)


def test_compressed_frames_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(b"".join(zstandard.ZstdCompressor().compress(line) for line in (b"one\n", b"two\n")))
    assert read_documents(path).texts == ["one", "two"]


def test_zstandard_is_asked_for_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "texts.txt.zst").write_bytes(b"")
    with pytest.raises(InputError, match="pip install zstandard"):
        read_documents(tmp_path / "texts.txt.zst")


def test_line_ends_are_newlines_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a\u2028b"}\r\n{"text": "c\u0085d"}\n', newline="")
    assert read_documents(tmp_path / "a.jsonl").texts == ["a\u2028b", "c\u0085d"]
    (tmp_path / "a.txt").write_bytes("a\u2028b\r\nc\r\n".encode())
    assert read_documents(tmp_path / "a.txt").texts == ["a\u2028b", "c"]


def test_an_empty_line_of_a_one_column_table_is_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\ngood\n\nbad\n")
    assert read_documents(tmp_path / "a.csv").texts == ["good", "", "bad"]


def test_half_a_surrogate_pair_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "cut \\ud83d"}\n')
    assert read_documents(tmp_path / "a.jsonl").texts == ["cut ?"]


def test_a_very_long_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "word " * 100_000 + "\n")
    assert len(read_documents(tmp_path / "a.csv").texts[0]) == 500_000


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the folder holds no .txt files"):
        read_documents(tmp_path)


def test_texts_as_bytes(tmp_path: Path) -> None:
    """Writers that know no text type leave parquet columns as bytes."""
    pd.DataFrame({"text": [b"caf\xc3\xa9"]}).to_parquet(tmp_path / "a.parquet")
    assert read_documents(tmp_path / "a.parquet").texts == ["café"]
    pd.DataFrame({"text": [b"ok", b"caf\xe9"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="row 2: column 'text' holds bytes that are not UTF-8"):
        read_documents(tmp_path / "b.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.txt", "folder"])
def test_pieces_are_the_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    texts = [f"text {i}" * (i % 3 + 1) for i in range(11)]
    table = pd.DataFrame({"text": texts, "label": [str(i % 2) for i in range(11)]})
    if name == "a.txt":
        path.write_text("\n".join(texts))
    elif name == "folder":
        path.mkdir()
        for i, text in enumerate(texts):
            (path / f"{i:02}.txt").write_text(text)
    else:
        write_table(table, path)
    for module in (files, tables):
        monkeypatch.setattr(module, "ROWS", 4)
    monkeypatch.setattr(tables, "BATCH", 2)
    label = "label" if name[2:] in ("csv", "jsonl", "parquet") else None
    pieces = list(iterate_documents(path, label_column=label))
    assert [len(piece) for piece in pieces] == [4, 4, 3]
    assert [text for piece in pieces for text in piece.texts] == texts
    assert [row for piece in pieces for row in piece.rows] == list(range(1, 12))
    if label is not None:
        assert [label for piece in pieces for label in piece.labels or []] == table["label"].tolist()


def test_chosen_documents_come_in_full_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third row of a file read four at a time, again four at a time; nothing is read behind the last."""
    for module in (files, tables):
        monkeypatch.setattr(module, "ROWS", 4)
    path = tmp_path / "a.csv"
    path.write_text("text,n\n" + "".join(f"text {i},{i}\n" for i in range(40)) + "one field too many,,\n")
    pieces = list(files.take_documents(iterate_documents(path), np.arange(0, 36, 3)))
    assert [len(piece) for piece in pieces] == [4, 4, 4]
    assert [row for piece in pieces for row in piece.rows] == list(range(1, 37, 3))
    assert [n for piece in pieces for n in piece.table["n"]] == [str(i) for i in range(0, 36, 3)]
