"""Reading texts and labels from .txt, .csv, .jsonl and .parquet, compressed or not, and folders of .txt.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_fast.errors import InputError
from ulmfit_fast.text.lines import read_bytes, read_csv_rows, read_json_rows, read_text, suffixes_of

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
            documents = _documents(_split_text(read_text(path)), None, None, path)
        else:
            readers: dict[str, Callable[[Path], pd.DataFrame]] = {
                ".csv": _read_csv, ".parquet": _read_parquet,
                ".jsonl": lambda path: pd.DataFrame(list(read_json_rows(path)), dtype=object),
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
    kind = (suffixes_of(path) or [""])[-1]
    kind = {".tokens": ".txt", ".text": ".txt", ".pq": ".parquet", ".json": ".jsonl"}.get(kind, kind)
    if kind not in (".txt", ".csv", ".jsonl", ".parquet"):
        raise InputError(f"{path}: unknown kind of file; expected {_FORMATS}")
    return kind


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
    return _documents([read_text(file) for file in files], None, table, path)


def _is_text(path: Path) -> bool:
    return path.is_file() and suffixes_of(path)[-1:] == [".txt"]


def _read_csv(path: Path) -> pd.DataFrame:
    header, *rows = read_csv_rows(path)
    return pd.DataFrame(rows, columns=header, dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    data = read_bytes(path)
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
