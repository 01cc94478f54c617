"""Reading texts and labels from .txt, .csv, .jsonl and .parquet, compressed or not, and folders of .txt.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zstandard

from ulmfit_fast.errors import InputError

_COMPRESSED: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_FORMATS = ".txt, .csv, .jsonl, .parquet (each also .xz, .gz, .bz2 or .zst), or a folder of .txt"


@dataclass(frozen=True)
class Documents:
    """Texts as read, in the file's order."""

    texts: list[str]
    labels: list[str] | None
    table: pd.DataFrame | None  # all columns, where the format has columns
    source: str
    rows: Sequence[int]  # each text's row in the file, from 1

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, count: int | None, seed: int) -> Documents:
        """``count`` of the texts drawn at random, in their order; all where ``count`` is None or not smaller."""
        if count is None or count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return Documents(
            [self.texts[i] for i in chosen],
            None if self.labels is None else [self.labels[i] for i in chosen],
            None if self.table is None else self.table.iloc[chosen].reset_index(drop=True),
            self.source,
            [self.rows[i] for i in chosen],
        )


def read_documents(path: str | Path, text_column: str = "text", label_column: str | None = None) -> Documents:
    """Read all texts of a file or folder.

    A .txt file holds documents separated by blank lines, or one document a line if it has no blank lines. A folder's
    .txt files are one document each, by name. Tables have a text column and, if asked for, a label column. An empty
    text is a text.

    Args:
        path: the file or folder.
        text_column: name of the column with the texts.
        label_column: name of the column with the labels; labels are not read where None.

    Raises:
        InputError: the file is missing, empty, damaged, not UTF-8, of an unknown kind, or lacks a column or a label.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        documents = _read_folder(path)
    else:
        kind = _kind(path)
        if kind == ".txt":
            documents = _documents(_split_text(_read_text(path)), None, None, path)
        else:
            readers: dict[str, Callable[[Path], pd.DataFrame]] = {
                ".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet,
            }  # fmt: skip
            return _from_table(path, readers[kind](path), text_column, label_column)
    if label_column is not None:
        raise InputError(f"{path}: plain text has no labels; give a .csv, .jsonl or .parquet file")
    if not documents.texts:
        raise InputError(f"{path}: the file is empty")
    return documents


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write .csv, .jsonl or .parquet, under a temporary name first."""
    path = Path(path)
    writers: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda to: table.to_csv(to, index=False),
        ".jsonl": lambda to: table.to_json(to, orient="records", lines=True, force_ascii=False),
        ".parquet": lambda to: table.to_parquet(to, index=False),
    }
    check_writable_table(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        writers[path.suffix.lower()](temporary)
        temporary.replace(path)
    except (OSError, ValueError, TypeError) as error:  # pyarrow's errors are ValueErrors and TypeErrors
        raise InputError(f"{path}: cannot be written ({error})") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_writable_table(path: str | Path) -> None:
    """Raise InputError where ``write_table`` could not write, before any work is done."""
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".jsonl", ".parquet"):
        raise InputError(f"{path}: cannot write this kind of file; expected .csv, .jsonl or .parquet")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path}: not a file in an existing folder")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{path}: no permission to write there")


def _documents(texts: list[str], labels: list[str] | None, table: pd.DataFrame | None, path: Path) -> Documents:
    return Documents(texts, labels, table, str(path), range(1, len(texts) + 1))


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (*_COMPRESSED, ".zst"):
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    kind = {".tokens": ".txt", ".text": ".txt", ".pq": ".parquet", ".json": ".jsonl"}.get(kind, kind)
    if kind not in (".txt", ".csv", ".jsonl", ".parquet"):
        raise InputError(f"{path}: unknown kind of file; expected {_FORMATS}")
    return kind


def _read_bytes(path: Path) -> bytes:
    suffix = path.suffix.lower()
    try:
        if suffix == ".zst":
            return _decompress_zst(path.read_bytes())
        with _COMPRESSED.get(suffix, open)(path, "rb") as file:
            return file.read()
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise InputError(f"{path}: damaged or truncated ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _decompress_zst(data: bytes) -> bytes:
    parts = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(data))
        if not frame.eof:
            raise EOFError("the last frame is incomplete")
        data = frame.unused_data
    return b"".join(parts)


def _read_text(path: Path) -> str:
    data = _read_bytes(path)
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: line {line}: byte 0x{data[error.start]:02x} is not UTF-8; convert the file "
            "(iconv -f latin1 -t utf-8)"
        ) from None


def _split_text(text: str) -> list[str]:
    lines = text.split("\n")  # not splitlines: it also breaks at U+2028, form feeds and others
    while lines and not lines[-1].strip():
        lines.pop()
    if all(line.strip() for line in lines):
        return lines
    documents: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            documents[-1].append(line)
        elif documents[-1]:
            documents.append([])
    return ["\n".join(document) for document in documents if document]


def _read_folder(path: Path) -> Documents:
    files = sorted(file for file in path.rglob("*") if _is_text(file))
    if not files:
        raise InputError(f"{path}: the folder holds no .txt files")
    table = pd.DataFrame({"file": [str(file.relative_to(path)) for file in files]})
    return _documents([_read_text(file) for file in files], None, table, path)


def _is_text(path: Path) -> bool:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in (*_COMPRESSED, ".zst"):
        suffixes.pop()
    return path.is_file() and suffixes[-1:] == [".txt"]


def _read_csv(path: Path) -> pd.DataFrame:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError(f"{path}: the file is empty")
        rows = []
        for fields in reader:
            if not fields and len(header) > 1:
                continue  # a blank line; in a table of one column it is an empty text
            fields = fields or [""]
            if len(fields) != len(header):
                raise InputError(
                    f"{path}: line {reader.line_num}: {len(fields)} fields where the header has {len(header)}; quote "
                    "texts that hold commas"
                )
            rows.append(fields)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not a readable CSV file ({error})") from None
    return pd.DataFrame(rows, columns=header, dtype=object)


def _read_jsonl(path: Path) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: line {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: expected a JSON object, got {type(row).__name__}")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    data = _read_bytes(path)
    if not data:
        raise InputError(f"{path}: the file is empty")
    try:
        return pd.read_parquet(io.BytesIO(data))
    except Exception as error:  # pyarrow's errors have no common base
        raise InputError(f"{path}: not a readable parquet file ({error})") from None


def _from_table(path: Path, table: pd.DataFrame, text_column: str, label_column: str | None) -> Documents:
    if table.empty:
        raise InputError(f"{path}: the file has no rows")
    texts = _column(path, table, text_column, "--text-column")
    labels = None
    if label_column is not None:
        labels = _column(path, table, label_column, "--label-column")
        for row, label in enumerate(labels, start=1):
            if not label:
                raise InputError(f"{path}: row {row}: column {label_column!r} is empty; every row needs a label")
    return _documents(texts, labels, table, path)


def _column(path: Path, table: pd.DataFrame, name: str, option: str) -> list[str]:
    if name not in table.columns:
        columns = ", ".join(repr(str(column)) for column in table.columns)
        raise InputError(f"{path}: no column {name!r}; its columns are {columns}; choose one with {option}")
    column = table[name]
    if isinstance(column, pd.DataFrame):
        raise InputError(f"{path}: column {name!r} occurs twice")
    values = []
    for row, value in enumerate(column, start=1):
        if isinstance(value, list | dict | tuple | np.ndarray):
            raise InputError(f"{path}: row {row}: column {name!r} holds a {type(value).__name__}; expected text")
        text = "" if pd.isna(value) else str(value)
        values.append(text if text.isascii() else text.encode("utf-8", "replace").decode())  # halves of surrogate pairs
    return values
