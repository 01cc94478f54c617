"""Reading texts and labels from .txt, .csv, .jsonl and .parquet, compressed or not, and folders of .txt.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ulmfit_fast.errors import InputError
from ulmfit_fast.text.lines import (
    COMPRESSED,
    read_bytes,
    read_csv_rows,
    read_json_rows,
    read_lines,
    read_text,
    suffixes_of,
)
from ulmfit_fast.text.rules import encodable

if TYPE_CHECKING:
    import pandas as pd  # imported on first use: plain text needs none

SPLITS = ("auto", "blank", "line", "file")
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
            documents = _documents(list(_split(path, "auto")), None, None, path)
        else:
            readers: dict[str, Callable[[Path], pd.DataFrame]] = {
                ".csv": _read_csv, ".parquet": _read_parquet,
                ".jsonl": _read_jsonl,
            }  # fmt: skip
            return _from_table(path, readers[kind](path), text_column, label_column)
    if label_column is not None:
        raise InputError(f"{path}: plain text has no labels; give a .csv, .jsonl or .parquet file")
    if not documents.texts:
        raise InputError(f"{path}: the file is empty")
    return documents


def iterate_texts(path: str | Path, text_column: str = "text", split: str = "auto") -> Iterator[str]:
    """The texts of ``read_documents``, one after the other; memory does not grow with the file.

    Args:
        path, text_column: as ``read_documents``.
        split: documents of a .txt file: between "blank" lines, one a "line", the whole "file", or "auto": blank lines
            if there are any, else lines.

    Raises:
        InputError: as ``read_documents``, when the place is reached.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        yield from map(read_text, text_files(path))
        return
    kind = _kind(path)
    if kind == ".txt":
        yield from _split(path, split)
        return
    readers = {".csv": _csv_texts, ".jsonl": _json_texts, ".parquet": _parquet_texts}
    for row, value in enumerate(readers[kind](path, text_column), start=1):
        yield _as_text(path, row, text_column, value)


def _csv_texts(path: Path, text_column: str) -> Iterator[Any]:
    rows = read_csv_rows(path)
    header = next(rows)
    _check_column(path, header, text_column, "--text-column")
    place = header.index(text_column)
    return (row[place] for row in rows)


def _json_texts(path: Path, text_column: str) -> Iterator[Any]:
    for number, row in enumerate(read_json_rows(path)):
        if number == 0:
            _check_column(path, list(row), text_column, "--text-column")
        yield row.get(text_column)


def _parquet_texts(path: Path, text_column: str) -> Iterator[Any]:
    import pyarrow.parquet

    try:
        source = path if path.suffix.lower() not in COMPRESSED else io.BytesIO(read_bytes(path))
        with pyarrow.parquet.ParquetFile(source) as file:
            _check_column(path, file.schema_arrow.names, text_column, "--text-column")
            for batch in file.iter_batches(1024, columns=[text_column]):
                yield from batch.column(0).to_pylist()
    except InputError:
        raise
    except Exception as error:  # pyarrow's errors have no common base
        raise InputError(f"{path}: not a readable parquet file ({error})") from None


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write .csv, .jsonl or .parquet, under a temporary name first."""
    import pandas as pd

    path = Path(path)
    returns = False
    table = table.copy(deep=False)
    for place, (_, column) in enumerate(list(table.items())):
        if pd.api.types.is_numeric_dtype(column):
            continue
        values = [encodable(value) if isinstance(value, str) else value for value in column]
        table.isetitem(place, pd.Series(values, dtype=column.dtype).array)
        # A carriage return alone is not quoted by itself, and ends a line for readers.
        returns = returns or any(isinstance(value, str) and "\r" in value for value in values)
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
    writers: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda to: table.to_csv(to, index=False, quoting=quoting),
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


def _split(path: Path, split: str) -> Iterator[str]:
    """The documents of a .txt file."""
    if split == "auto":
        split = "blank" if _has_paragraphs(path) else "line"
    lines = read_lines(path)
    if split == "file":
        yield "".join(lines)
        return
    document: list[str] = []
    for line in lines:
        text = line.removesuffix("\n")
        if text.strip():
            document.append(text)
        if document and (split == "line" or not text.strip()):
            yield "\n".join(document)
            document = []
    if document:
        yield "\n".join(document)


def _has_paragraphs(path: Path) -> bool:
    """Whether a blank line stands before one that is not."""
    blank = False
    for line in read_lines(path):
        if blank and line.strip():
            return True
        blank = blank or not line.strip()
    return False


def _read_folder(path: Path) -> Documents:
    import pandas as pd

    files = text_files(path)
    table = pd.DataFrame({"file": [str(file.relative_to(path)) for file in files]})
    return _documents([read_text(file) for file in files], None, table, path)


def text_files(path: Path) -> list[Path]:
    files = sorted(file for file in path.rglob("*") if _is_text(file))
    if not files:
        raise InputError(f"{path}: the folder holds no .txt files")
    return files


def _is_text(path: Path) -> bool:
    return path.is_file() and suffixes_of(path)[-1:] == [".txt"]


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    header, *rows = read_csv_rows(path)
    return pd.DataFrame(rows, columns=header, dtype=object)


def _read_jsonl(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(read_json_rows(path)), dtype=object)


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

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
    _check_column(path, list(table.columns), name, option)
    return [_as_text(path, row, name, value) for row, value in enumerate(table[name], start=1)]


def _check_column(path: Path, columns: list[Any], name: str, option: str) -> None:
    if name not in columns:
        known = ", ".join(repr(str(column)) for column in columns)
        raise InputError(f"{path}: no column {name!r}; its columns are {known}; choose one with {option}")
    if columns.count(name) > 1:
        raise InputError(f"{path}: column {name!r} occurs twice")


def _as_text(path: Path, row: int, name: str, value: Any) -> str:
    import pandas as pd

    if isinstance(value, list | dict | tuple | np.ndarray):
        raise InputError(f"{path}: row {row}: column {name!r} holds a {type(value).__name__}; expected text")
    return "" if pd.isna(value) else encodable(str(value))
