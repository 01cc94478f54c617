"""Reading texts and labels from .txt, .csv, .jsonl and .parquet, compressed or not, and folders of .txt.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.lines import read_lines, read_text, suffixes_of
from ulmfit_fast.text.rules import encodable
from ulmfit_fast.text.tables import CHARACTERS, KINDS, ROWS, read_tables

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
        return self.take(draw(len(self), count, seed))

    def take(self, chosen: np.ndarray) -> Documents:
        """The texts at these places, int64, ascending."""
        return Documents(
            [self.texts[i] for i in chosen],
            None if self.labels is None else [self.labels[i] for i in chosen],
            None if self.table is None else self.table.iloc[chosen].reset_index(drop=True),
            self.source,
            [self.rows[i] for i in chosen],
        )


def draw(total: int, count: int | None, seed: int) -> np.ndarray:
    """Places of ``count`` of so many drawn at random, ascending; of all where ``count`` is None or not smaller."""
    if count is None or count >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).permutation(total)[:count])


def read_documents(path: str | Path, text_column: str = "text", label_column: str | None = None) -> Documents:
    """All texts of a file or folder at once, without its other columns; else as ``iterate_documents``."""
    return _joined(list(iterate_documents(path, text_column, label_column, others=False)))


def sample_texts(path: str | Path, count: int, seed: int, text_column: str = "text", split: str = "auto") -> list[str]:
    """``count`` texts drawn at random, in their order; the file is read twice, and only they are held in memory."""

    def pieces() -> Iterator[Documents]:
        return iterate_documents(path, text_column, split=split, others=False)

    places = draw(sum(map(len, pieces())), count, seed)
    return [text for piece in take_documents(pieces(), places) for text in piece.texts]


def iterate_texts(path: str | Path, text_column: str = "text", split: str = "auto") -> Iterator[str]:
    """The texts alone, one after the other; memory does not grow with the file."""
    for piece in iterate_documents(path, text_column, split=split, others=False):
        yield from piece.texts


def iterate_documents(
    path: str | Path,
    text_column: str = "text",
    label_column: str | None = None,
    split: str = "auto",
    others: bool = True,
) -> Iterator[Documents]:
    """The texts of a file or folder in order, in pieces of at most 4,096; memory does not grow with the file.

    A folder's .txt files are one document each, by name. Tables have a text column and, if asked for, a label column.
    An empty text is a text.

    Args:
        path: the file or folder.
        text_column: name of the column with the texts.
        label_column: name of the column with the labels; labels are not read where None.
        split: documents of a .txt file: between "blank" lines, one a "line", the whole "file", or "auto": blank lines
            if there are any, else lines.
        others: keep all columns of a table, in ``Documents.table``.

    Raises:
        InputError: the file is missing, empty, damaged, not UTF-8, of an unknown kind, or lacks a column or a label;
            when the place is reached.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    kind = "" if path.is_dir() else _kind(path)
    if label_column is not None and kind not in KINDS:
        raise InputError(f"{path}: plain text has no labels; give a .csv, .jsonl or .parquet file")
    if kind in KINDS:
        pieces = _documents_of_table(path, kind, text_column, label_column, others)
    else:
        pieces = _plain_documents(path, split, others)
    row = 1
    for texts, labels, table in pieces:
        rows = range(row, row + len(texts))
        row += len(texts)
        yield Documents(texts, labels, table, str(path), rows)
    if row == 1:
        raise InputError(f"{path}: the file {'has no rows' if kind in KINDS else 'is empty'}")


def take_documents(pieces: Iterable[Documents], places: np.ndarray) -> Iterator[Documents]:
    """Those at these places of a file, int64 from 0, ascending, again in pieces."""
    taken: list[Documents] = []
    for piece in pieces:
        first, after = piece.rows[0] - 1, piece.rows[-1]
        begin, end = np.searchsorted(places, (first, after))
        if begin < end:
            taken.append(piece.take(places[begin:end] - first))
        held = sum(len(text) for part in taken for text in part.texts)
        if sum(map(len, taken)) >= ROWS or held >= CHARACTERS or (taken and end == len(places)):
            yield _joined(taken)
            taken = []
        if end == len(places):
            return


def _joined(pieces: list[Documents]) -> Documents:
    if len(pieces) == 1:
        return pieces[0]
    tables = [piece.table for piece in pieces if piece.table is not None]
    if tables:
        import pandas as pd

        table = pd.concat(tables, ignore_index=True)
    return Documents(
        [text for piece in pieces for text in piece.texts],
        None if pieces[0].labels is None else [label for piece in pieces for label in piece.labels or []],
        table if tables else None,
        pieces[0].source,
        [row for piece in pieces for row in piece.rows],
    )


_Piece = tuple[list[str], list[str] | None, "pd.DataFrame | None"]


def _documents_of_table(
    path: Path, kind: str, text_column: str, label_column: str | None, others: bool
) -> Iterator[_Piece]:
    needed = {text_column: "--text-column"}
    if label_column is not None:
        needed[label_column] = "--label-column"
    row = 1
    for table in read_tables(path, kind, needed, others):
        texts = _column(path, table, text_column, row)
        labels = None if label_column is None else _column(path, table, label_column, row)
        for number, label in enumerate(labels or [], start=row):
            if not label:
                raise InputError(f"{path}: row {number}: column {label_column!r} is empty; every row needs a label")
        yield texts, labels, table if others else None
        row += len(texts)


def _plain_documents(path: Path, split: str, others: bool) -> Iterator[_Piece]:
    """The documents of a .txt file, or of a folder of them; a folder's table names the file of each text."""
    is_folder = path.is_dir()
    files = text_files(path) if is_folder else [path]
    texts: list[str] = []
    names: list[str] = []
    held = 0

    def piece() -> _Piece:
        if not is_folder or not others:
            return texts, None, None
        import pandas as pd

        return texts, None, pd.DataFrame({"file": names})

    for file in files:
        for text in [read_text(file)] if is_folder else _split(path, split):
            texts.append(text)
            if is_folder and others:
                names.append(str(file.relative_to(path)))
            held += len(text)
            if len(texts) == ROWS or held >= CHARACTERS:
                yield piece()
                texts, names, held = [], [], 0
    if texts:
        yield piece()


def _kind(path: Path) -> str:
    kind = (suffixes_of(path) or [""])[-1]
    kind = {".tokens": ".txt", ".text": ".txt", ".pq": ".parquet", ".json": ".jsonl"}.get(kind, kind)
    if kind != ".txt" and kind not in KINDS:
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


def is_plain_text(path: Path) -> bool:
    """Whether it is a .txt file, which ``split`` cuts into documents."""
    return not path.is_dir() and _kind(path) == ".txt"


def text_files(path: Path) -> list[Path]:
    files = sorted(file for file in path.rglob("*") if _is_text(file))
    if not files:
        raise InputError(f"{path}: the folder holds no .txt files")
    return files


def _is_text(path: Path) -> bool:
    return path.is_file() and suffixes_of(path)[-1:] == [".txt"]


def _column(path: Path, table: pd.DataFrame, name: str, first_row: int) -> list[str]:
    return [_as_text(path, row, name, value) for row, value in enumerate(table[name], start=first_row)]


def _as_text(path: Path, row: int, name: str, value: Any) -> str:
    import pandas as pd

    if isinstance(value, list | dict | tuple | np.ndarray):
        raise InputError(f"{path}: row {row}: column {name!r} holds a {type(value).__name__}; expected text")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InputError(f"{path}: row {row}: column {name!r} holds bytes that are not UTF-8") from None
    return "" if pd.isna(value) else encodable(str(value))
