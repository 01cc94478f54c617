"""Text files of any encoding and line ends; what a file is, where it is no text, and advice that is right."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.feather
import pytest
import torch

from ulmfit_fast import InputError
from ulmfit_fast.text.files import read_documents
from ulmfit_fast.text.reading import ReadingNotice, ReadOptions

TEXTS = ["it\u2019s a caf\xe9", "great\u2026"]


def of(folder: Path, name: str, content: bytes, **options: object) -> list[str]:
    (folder / name).write_bytes(content)
    return read_documents(folder / name, ReadOptions(**options)).texts  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "encoding",
    ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "windows-1252", "utf-8-sig", "UTF8", "gb18030", "mac-roman"],
)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.txt.gz"])
def test_encodings(encoding: str, name: str, tmp_path: Path) -> None:
    if name == "a.jsonl":
        text = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\r\n" for text in TEXTS)
    else:
        text = ("text\r\n" if name == "a.csv" else "") + "".join(text + "\r\n" for text in TEXTS)
    content = text.encode(encoding)
    assert of(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content, encoding=encoding) == TEXTS


def test_a_long_file_of_another_encoding(tmp_path: Path) -> None:
    """Characters are cut anywhere where it is read in pieces."""
    texts = [f"\u4f60\u597d {i} \U0001f600" for i in range(60_000)]
    assert of(tmp_path, "a.txt", "\n".join(texts).encode("utf-16"), encoding="utf-16", split="line") == texts


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ("great film\nawful\n".encode("utf-16"), "by its first bytes it is UTF-16; pass --encoding utf-16"),
        ("great film\n".encode("utf-32"), "by its first bytes it is UTF-32; pass --encoding utf-32"),
        ("great film\n".encode("utf-16-le"), "it is UTF-16 without a mark; pass --encoding utf-16-le"),
        ("great film\n".encode("utf-16-be"), "it is UTF-16 without a mark; pass --encoding utf-16-be"),
        ("great film\n".encode("utf-32-le"), "it is UTF-32 without a mark; pass --encoding utf-32-le"),
        ("great film\n".encode("utf-16").decode("latin1").encode(), "it was UTF-16 .* as if it were Latin-1; convert"),
        ("it\u2019s great\u2026\n".encode("cp1252"), "line 1: byte 0x92 is not UTF-8; Western .* windows-1252"),
        ("caf\xe9\n".encode("latin1"), "line 1: byte 0xe9 is not UTF-8; Western .* windows-1252"),
        ("\u043e\u0447\u0435\u043d\u044c \u043f\u043b\u043e\u0445".encode("cp1251"), "not UTF-8; name its encoding"),
        ("\u5f88\u597d\u7684\u7535\u5f71".encode("gb18030"), "not UTF-8; name its encoding .* gb18030"),
        ("caf\xe9\n".encode() + b"caf\xe9\n", "line 2: byte 0xe9 is not UTF-8; what is before it is UTF-8"),
        ("ok\ncaf\xe9".encode()[:-1], "line 2: byte 0xc3 is not UTF-8"),
        (b"a\nb\0c\n", "line 2: a NUL character"),
    ],
)  # fmt: skip
def test_advice(content: bytes, advice: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=advice):
        of(tmp_path, "a.txt", content)
    with pytest.raises(InputError, match=advice.replace("line 1", "line 2").replace("line 2", "line [23]")):
        of(
            tmp_path,
            "a.csv",
            content if advice.startswith(("by its", "it is UTF", "it was UTF")) else b"text\n" + content,
        )


def test_an_encoding_that_is_not_the_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is UTF-8; leave --encoding out"):
        of(tmp_path, "a.txt", b"\xef\xbb\xbfcaf\xc3\xa9", encoding="windows-1252")
    with pytest.raises(InputError, match="it is UTF-16; pass --encoding utf-16"):
        of(tmp_path, "a.txt", "x".encode("utf-16"), encoding="latin1")
    with pytest.raises(InputError, match=r"line 3: byte 0x81 is not 'windows-1252' .*; --encoding names another"):
        of(tmp_path, "a.txt", b"a\nb\n\x81\n", encoding="windows-1252")
    with pytest.raises(InputError, match=r"a.txt: (line 1: .* is )?not 'utf-16'"):
        of(tmp_path, "a.txt", b"odd", encoding="utf-16")
    for encoding in ("klingon", "rot13", "hex", ""):
        with pytest.raises(InputError, match=r"--encoding: '.*' is no encoding of text"):
            ReadOptions(encoding=encoding)


def test_a_wrong_conversion_is_said(tmp_path: Path) -> None:
    """What iconv -f latin1 makes of a file in Windows-1252 is UTF-8, with controls in the place of apostrophes."""
    converted = "it\u2019s great\u2026\nfine\n".encode("cp1252").decode("latin1")
    with pytest.warns(ReadingNotice, match=r"a.txt: line 1: control characters beyond ASCII, as of Windows-1252"):
        assert of(tmp_path, "a.txt", converted.encode()) == converted.split("\n")[:2]


def binary_files(folder: Path) -> dict[str, bytes]:
    table = pd.DataFrame({"text": ["great"] * 99})
    sheet, arrow, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(sheet, "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
        file.writestr("xl/workbook.xml", "<workbook/>")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.csv", "text\n")
    pyarrow.feather.write_feather(table, arrow)
    saved, array = io.BytesIO(), io.BytesIO()
    torch.save({"x": torch.ones(2)}, saved)
    np.save(array, np.ones(2))
    with sqlite3.connect(folder / "database") as database:
        database.execute("create table t (x)")
    database.close()
    return {
        "gzip data; its name should end in .gz": gzip.compress(b"text\n"), "an Excel workbook; save": sheet.getvalue(),
        "a zip; its name should end in .zip": archive.getvalue(), "a parquet file; its name": table.to_parquet(),
        "an Arrow file": arrow.getvalue(), "a pickle": pickle.dumps([1]), "a file of torch.save": saved.getvalue(),
        "a NumPy array": array.getvalue(), "an SQLite database": (folder / "database").read_bytes(),
        "a PDF": b"%PDF-1.7\n%\xe2\xe3\x00", "an old Office document": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.tsv"])
def test_what_is_no_text_is_named(name: str, tmp_path: Path) -> None:
    for what, content in binary_files(tmp_path).items():
        with pytest.raises(InputError, match=f"a.*: by its first bytes it is {what}"):
            of(tmp_path, name, content)


@pytest.mark.parametrize("text", ["PAR1 is what parquet files begin with", "BZh", "ORC", "%PDF- files", "Obj"])
def test_letters_that_a_text_may_begin_with(text: str, tmp_path: Path) -> None:
    assert of(tmp_path, "a.txt", text.encode()) == [text]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_carriage_returns_alone(encoding: str, tmp_path: Path) -> None:
    assert of(tmp_path, "a.txt", "one\rtwo\r".encode(encoding), encoding=encoding) == ["one", "two"]
    assert of(tmp_path, "a.txt", "one\r\rtwo\rmore".encode(encoding), encoding=encoding) == ["one", "two\nmore"]
    assert of(tmp_path, "a.csv", 'text,n\r"a, b",1\rc,2\r'.encode(encoding), encoding=encoding) == ["a, b", "c"]
    assert of(tmp_path, "a.jsonl", '{"text": "a"}\r{"text": "b"}'.encode(encoding), encoding=encoding) == ["a", "b"]


def test_a_carriage_return_within_a_line_is_kept(tmp_path: Path) -> None:
    assert of(tmp_path, "a.txt", b"a\rb\nc\n") == ["a\rb", "c"]
    long = b"x" * 2_000_000
    with pytest.raises(InputError, match="lines end with carriage returns at its beginning, and with newlines"):
        of(tmp_path, "a.txt", b"a\r" + long + b"\nc\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": ' + "1" * 5000 + "}", "JSON that cannot be read"),
        ('{"text": ' + "[" * 100_000, "JSON that cannot be read"),
        ('[{"text": "x"}]', "expected a JSON object, got list; write one object a line"),
        ("[", "JSON over several lines"),
        ('{"text": "x"} {"text": "y"}', "not JSON"),
    ],
)  # fmt: skip
def test_json_that_cannot_be_read(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"a.jsonl: line 2: {message}") as error:
        of(tmp_path, "a.jsonl", f'{{"text": "fine"}}\n{line}\n'.encode())
    assert len(str(error.value)) < 400
