"""Tables read and written in pieces, so that memory does not grow with them: .csv, .jsonl and .parquet.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from ulmfit_fast.errors import InputError
from ulmfit_fast.text.lines import COMPRESSED, read_bytes, read_csv_rows, read_json_rows
from ulmfit_fast.text.rules import encodable

if TYPE_CHECKING:
    import pandas as pd  # imported on first use: plain text needs none
    import pyarrow

KINDS = (".csv", ".jsonl", ".parquet")
ROWS, CHARACTERS = 4096, 1 << 24  # of a piece, which may hold one row more than so many characters
BATCH = 64  # rows of a parquet file that are decoded together

T = TypeVar("T")


def read_tables(path: Path, kind: str, needed: Mapping[str, str], others: bool = True) -> Iterator[pd.DataFrame]:
    """The rows of a file in order, as tables of at most ``ROWS`` rows.

    Args:
        path: the file, compressed or not.
        kind: of ``KINDS``.
        needed: names of columns that it must have -> the option that names another.
        others: keep the other columns, too.

    Raises:
        InputError: the file is damaged, not UTF-8, or lacks a column; when the place is reached.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_json, ".parquet": _read_parquet}
    return readers[kind](path, needed, others)


class TableWriter:
    """Writes a table in pieces, under a temporary name until all is written; a context manager.

    Args:
        path: the file to write; its suffix tells the kind.

    Raises:
        InputError: it cannot be written there, or holds what this kind of file cannot.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_writable_table(self.path)
        self._kind = self.path.suffix.lower()
        self._temporary = self.path.with_name(f".{self.path.name}.partial")
        self._columns: list[Any] = []
        self._schema: pyarrow.Schema | None = None
        self._file: Any = None  # text file, or a parquet writer

    def expect(self, table: pd.DataFrame) -> None:
        """Take note of columns and types to come; before the first piece is written, for every piece."""
        columns = list(table.columns)
        if columns != self._columns:
            self._columns += [column for column in columns if column not in self._columns] if self._columns else columns
        if self._kind == ".parquet":
            import pyarrow

            try:
                schema = pyarrow.Schema.from_pandas(_encodable(table), preserve_index=False).remove_metadata()
                known = schema if self._schema is None else self._schema
                self._schema = pyarrow.unify_schemas([known, schema], promote_options="permissive")
            except (ValueError, TypeError) as error:  # pyarrow's are of these
                raise InputError(f"{self.path}: {error}; a .csv or .jsonl file takes such columns") from None

    def write(self, table: pd.DataFrame) -> None:
        """Append a piece; a column that it lacks is empty."""
        if list(table.columns) != self._columns:
            table = table.reindex(columns=self._columns)
        try:
            getattr(self, f"_write_{self._kind[1:]}")(_encodable(table))
        except (OSError, ValueError, TypeError) as error:
            raise self._failed(error) from None

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._file is not None:
                self._file.close()
            if kind is None:
                self._temporary.replace(self.path)
        except (OSError, ValueError) as error:
            raise self._failed(error) from None
        finally:
            self._temporary.unlink(missing_ok=True)

    def _write_csv(self, table: pd.DataFrame) -> None:
        # A carriage return alone is not quoted by itself, and ends a line for readers.
        returns = any("\r" in value for _, column in table.items() for value in column if isinstance(value, str))
        quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
        first = self._file is None
        table.to_csv(self._text_file(), index=False, header=first, quoting=quoting)

    def _write_jsonl(self, table: pd.DataFrame) -> None:
        table.to_json(self._text_file(), orient="records", lines=True, force_ascii=False, date_format="iso")

    def _write_parquet(self, table: pd.DataFrame) -> None:
        import pyarrow
        import pyarrow.parquet

        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(self._temporary, self._schema)
        self._file.write_table(pyarrow.Table.from_pandas(table, schema=self._schema, preserve_index=False))

    def _text_file(self) -> IO[str]:
        if self._file is None:
            self._file = self._temporary.open("w", encoding="utf-8", newline="")
        return self._file

    def _failed(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: cannot be written ({error})")


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a whole table, as ``TableWriter`` does."""
    with TableWriter(path) as writer:
        writer.expect(table)
        writer.write(table)


def check_writable_table(path: str | Path) -> None:
    """Raise InputError where no table could be written, before any work is done."""
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{path}: cannot write this kind of file; expected .csv, .jsonl or .parquet")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"{path}: not a file in an existing folder")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"{path}: no permission to write there")


def _read_csv(path: Path, needed: Mapping[str, str], others: bool) -> Iterator[pd.DataFrame]:
    import pandas as pd

    rows = read_csv_rows(path)
    header = next(rows)
    _check_columns(path, header, needed)
    for piece in _in_pieces(rows, lambda fields: sum(map(len, fields)), ROWS):
        table = pd.DataFrame(piece, columns=header, dtype=object)
        yield table if others else table[list(needed)]


def _read_json(path: Path, needed: Mapping[str, str], others: bool) -> Iterator[pd.DataFrame]:
    import pandas as pd

    def characters(row: Mapping[str, Any]) -> int:
        return sum(len(value) for value in row.values() if isinstance(value, str))

    for number, piece in enumerate(_in_pieces(read_json_rows(path), characters, ROWS)):
        columns = list(dict.fromkeys(key for row in piece for key in row))
        if number == 0:
            _check_columns(path, columns, needed)
        columns += [column for column in needed if column not in columns]
        yield pd.DataFrame(piece, columns=columns if others else list(needed), dtype=object)


def _read_parquet(path: Path, needed: Mapping[str, str], others: bool) -> Iterator[pd.DataFrame]:
    import pandas as pd
    import pyarrow
    import pyarrow.parquet

    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    try:
        source = path if path.suffix.lower() not in COMPRESSED else io.BytesIO(read_bytes(path))
        with pyarrow.parquet.ParquetFile(source) as file:
            _check_columns(path, file.schema_arrow.names, needed)
            batches = file.iter_batches(BATCH, columns=None if others else list(needed))
            for piece in _in_pieces(batches, lambda batch: batch.nbytes, ROWS // BATCH):
                # Arrow's own types: integers with gaps stay integers, and all can be written as they were.
                yield pyarrow.Table.from_batches(piece).to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    except InputError:
        raise
    except Exception as error:  # pyarrow's errors have no common base
        raise InputError(f"{path}: not a readable parquet file ({error})") from None


def _in_pieces(items: Iterable[T], characters: Callable[[T], int], count: int) -> Iterator[list[T]]:
    piece: list[T] = []
    held = 0
    for item in items:
        piece.append(item)
        held += characters(item)
        if len(piece) == count or held >= CHARACTERS:
            yield piece
            piece, held = [], 0
    if piece:
        yield piece


def _check_columns(path: Path, columns: list[str], needed: Mapping[str, str]) -> None:
    for name, option in needed.items():
        if name not in columns:
            known = ", ".join(repr(str(column)) for column in columns)
            raise InputError(f"{path}: no column {name!r}; its columns are {known}; choose one with {option}")
        if columns.count(name) > 1:
            raise InputError(f"{path}: column {name!r} occurs twice")


def _encodable(table: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    table = table.copy(deep=False)
    for place, (_, column) in enumerate(list(table.items())):
        if column.dtype == object or pd.api.types.is_string_dtype(column):
            values = [encodable(value) if isinstance(value, str) else value for value in column]
            table.isetitem(place, pd.Series(values, dtype=column.dtype).array)
    return table
