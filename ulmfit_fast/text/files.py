"""Reading texts and labels from files of every kind, compressed or not, and from folders and archives of them.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.inputs import Input, Inputs, borrowed_copies, find_inputs, read_once, tells_kind
from ulmfit_fast.text.label_columns import Cells, LabelColumns
from ulmfit_fast.text.lines import read_lines, read_text
from ulmfit_fast.text.reading import DELIMITED, TABLES, ReadOptions, shown
from ulmfit_fast.text.remote import shown_path
from ulmfit_fast.text.rules import FLD, encodable
from ulmfit_fast.text.tables import CHARACTERS, ROWS, read_tables

if TYPE_CHECKING:
    import pandas as pd  # imported on first use: plain text needs none


T = TypeVar("T")


@dataclass(frozen=True)
class Documents:
    """Texts as read, in the file's order."""

    texts: list[str]
    labels: list[Any] | None  # a text each; of LabelColumns a list of texts each
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


def read_documents(
    path: str | Path, reading: ReadOptions | None = None, label_column: str | LabelColumns | None = None
) -> Documents:
    """All texts of a file or folder at once, without its other columns; else as ``iterate_documents``.

    With ``LabelColumns`` each text has a list of labels, which may be empty.
    """
    documents = _joined(list(iterate_documents(path, reading, label_column, others=False)))
    if isinstance(label_column, LabelColumns):
        return replace(documents, labels=label_column.labels(documents.labels or []))
    return documents


def sample_texts(path: str | Path, count: int, seed: int, reading: ReadOptions | None = None) -> list[str]:
    """``count`` texts drawn at random, in their order; the file is read twice, and only they are held in memory."""

    def pieces() -> Iterator[Documents]:
        return iterate_documents(path, reading, others=False)

    with read_once():
        places = draw(sum(map(len, pieces())), count, seed)
        return [text for piece in take_documents(pieces(), places) for text in piece.texts]


def iterate_texts(path: str | Path, reading: ReadOptions | None = None) -> Iterator[str]:
    """The texts alone, one after the other; memory does not grow with the file."""
    for piece in iterate_documents(path, reading, others=False):
        yield from piece.texts


def iterate_documents(
    path: str | Path,
    reading: ReadOptions | None = None,
    label_column: str | LabelColumns | None = None,
    others: bool = True,
) -> Iterator[Documents]:
    """The texts of a file or folder in order, in pieces of at most 4,096; memory does not grow with the file.

    The .txt files of a folder or archive are one document each, by name; tables of an archive are one after the other.
    Tables have columns with texts and, if asked for, with labels. An empty text is a text.

    Args:
        path: the file or folder; "-": standard input; an address (``text.remote``). What is no file here is copied to
            a temporary one first.
        reading: where the texts are, and how the file is read; None: as by default.
        label_column: name of the column with the labels; labels are not read where None. Of ``LabelColumns`` the cells
            of each row are.
        others: keep all columns of a table, in ``Documents.table``.

    Raises:
        InputError: the file is missing, empty, damaged, of another encoding or kind than expected, or lacks a column
            or a label; when the place is reached.
    """
    path, reading = Path(path), reading or ReadOptions()
    with borrowed_copies() as copies:
        inputs = find_inputs(path, reading.format, copies)
        is_table = inputs.kind in TABLES
        if label_column is not None and not is_table:
            name = shown_path(path)
            raise InputError(f"{name}: plain text has no labels; give a .csv, .tsv, .jsonl or .parquet file")
        if is_table:
            pieces = _documents_of_tables(inputs, reading, label_column, others)
        else:
            pieces = _plain_documents(inputs, reading, others)
        row = 1
        for texts, labels, table in pieces:
            rows = range(row, row + len(texts))
            row += len(texts)
            yield Documents(texts, labels, table, shown_path(path), rows)
        if row == 1:
            raise InputError(f"{shown_path(path)}: the file {'has no rows' if is_table else 'is empty'}")


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


_Piece = tuple[list[str], list[Any] | None, "pd.DataFrame | None"]


def _documents_of_tables(
    inputs: Inputs, reading: ReadOptions, label_column: str | LabelColumns | None, others: bool
) -> Iterator[_Piece]:
    needed = dict.fromkeys(reading.text_columns, "--text-column")
    for name in (
        label_column.names if isinstance(label_column, LabelColumns) else () if label_column is None else [label_column]
    ):
        needed.setdefault(name, "--label-column")
    for source in inputs.files:
        row = 1
        for table in read_tables(source, needed, reading, others):
            texts = _texts(source, table, reading.text_columns, row)
            labels: list[Any] | None = None
            if isinstance(label_column, LabelColumns):
                labels = _cells(source, table, label_column.names, row)
            elif label_column is not None:
                labels = _labels(source, table, label_column, row)
            yield texts, labels, table if others else None
            row += len(texts)


def _labels(source: Input, table: pd.DataFrame, name: str, first_row: int) -> list[str]:
    labels = _column(source, table, name, first_row)
    for row, label in enumerate(labels, start=first_row):
        if not label or "\0" in label:
            fault = "holds a NUL character" if label else "is empty; every row needs a label"
            raise InputError(f"{source.name}: row {row}: column {shown(name)} {fault}")
    return labels


def _cells(source: Input, table: pd.DataFrame, names: Sequence[str], first_row: int) -> list[Cells]:
    """Each row's cells in these columns; of one that holds a list, its elements."""

    def cell(row: int, name: str, value: Any) -> str | list[str]:
        if isinstance(value, list | tuple | np.ndarray):
            return [_as_text(source, row, name, each) for each in value]
        return _as_text(source, row, name, value)

    columns = [_each(source, table, name, first_row, cell) for name in names]
    return [list(cells) for cells in zip(*columns, strict=True)]


def _texts(source: Input, table: pd.DataFrame, columns: Sequence[str], first_row: int) -> list[str]:
    """Each row's text: of several columns joined, each behind fastai's mark of a field and its number."""
    fields = [_column(source, table, column, first_row) for column in columns]
    if len(fields) == 1:
        return fields[0]
    return [
        " ".join(f"{FLD} {number} {text}" for number, text in enumerate(texts, start=1)) if any(texts) else ""
        for texts in zip(*fields, strict=True)
    ]


def _plain_documents(inputs: Inputs, reading: ReadOptions, others: bool) -> Iterator[_Piece]:
    """The documents of a .txt file, or of several; of several a table names the file of each text."""
    texts: list[str] = []
    names: list[str] = []
    held = 0

    def piece() -> _Piece:
        if not inputs.is_collection or not others:
            return texts, None, None
        import pandas as pd

        return texts, None, pd.DataFrame({"file": names})

    for source, name in zip(inputs.files, inputs.short_names, strict=True):
        for text in [read_text(source, reading.encoding)] if inputs.is_collection else _split(source, reading):
            texts.append(text)
            names.append(encodable(name))
            held += len(text)
            if len(texts) == ROWS or held >= CHARACTERS:
                yield piece()
                texts, names, held = [], [], 0
    if texts:
        yield piece()


def _split(source: Input, reading: ReadOptions) -> Iterator[str]:
    """The documents of a .txt file."""
    split = reading.split
    if split == "auto":
        split = "blank" if _has_paragraphs(source, reading.encoding) else "line"
    lines = read_lines(source, reading.encoding)
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


def _has_paragraphs(source: Input, encoding: str) -> bool:
    """Whether a blank line stands before one that is not."""
    blank = False
    for line in read_lines(source, encoding):
        if blank and line.strip():
            return True
        blank = blank or not line.strip()
    return False


def used_options(path: str | Path, format: str | None = None) -> set[str]:
    """The fields of ``ReadOptions`` that mean something for a file or folder. Raises InputError as reading would."""
    path = Path(path)
    with borrowed_copies() as copies:
        inputs = find_inputs(path, format, copies)
        is_folder = copies.regular(path).is_dir()
    used = set() if inputs.kind == ".parquet" else {"encoding"}
    if inputs.kind in TABLES:
        used.add("text_columns")
    elif not inputs.is_collection:
        used.add("split")
    if inputs.kind in DELIMITED:
        used |= {"columns", "delimiter", "quotes"}
    if not is_folder and not tells_kind(path):
        used.add("format")
    return used


def _column(source: Input, table: pd.DataFrame, name: str, first_row: int) -> list[str]:
    return _each(source, table, name, first_row, lambda row, name, value: _as_text(source, row, name, value))


def _each(
    source: Input, table: pd.DataFrame, name: str, first_row: int, convert: Callable[[int, str, Any], T]
) -> list[T]:
    """What ``convert`` makes of each value of a column, told its row and the column."""
    found: list[T] = []
    try:
        for value in table[name]:
            found.append(convert(first_row + len(found), name, value))
    except UnicodeDecodeError:  # of Arrow, whose texts nobody has looked at before
        place = f"{source.name}: row {first_row + len(found)}: column {shown(name)}"
        raise InputError(f"{place} holds bytes that are not UTF-8") from None
    return found


def _as_text(source: Input, row: int, name: str, value: Any) -> str:
    import pandas as pd

    if isinstance(value, str):
        return encodable(value)
    place = f"{source.name}: row {row}: column {shown(name)}"
    if isinstance(value, list | dict | tuple | np.ndarray):
        raise InputError(f"{place} holds a {type(value).__name__}; expected text")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InputError(f"{place} holds bytes that are not UTF-8") from None
    return "" if pd.isna(value) else encodable(str(value))
