"""Tables read and written in pieces, so that memory does not grow with them: .csv, .jsonl and .parquet.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeVar

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.lines import COMPRESSED, read_bytes, read_csv_rows, read_json_rows
from ulmfit_fast.text.rules import encodable

if TYPE_CHECKING:
    import pandas as pd  # imported on first use: plain text needs none
    import pyarrow

KINDS = (".csv", ".jsonl", ".parquet")
ROWS, CHARACTERS = 4096, 1 << 24  # of a piece, which may hold one row more than so many characters
BATCH = 64  # rows of a parquet file that are decoded together

_INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__")  # a column for an index without a name

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
    """Writes a table in pieces, under a temporary name until all is written.

    ``expect`` every piece, then ``write`` them within a ``with``: what cannot be written is found before the first is.

    Args:
        path: the file to write; its suffix tells the kind.

    Raises:
        InputError: it cannot be written there, or holds what this kind of file cannot.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_writable_table(self.path)
        self._kind = self.path.suffix.lower()
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._columns: list[Any] = []
        self._types: dict[str, pyarrow.DataType] = {}  # of a parquet file's columns
        self._file: Any = None  # a text file or a parquet writer
        self._rows = 0

    def expect(self, table: pd.DataFrame) -> None:
        """Take note of the columns and types of a piece."""
        columns = list(table.columns)
        if self._kind != ".csv" and len(set(columns)) < len(columns):
            name = next(column for column in columns if columns.count(column) > 1)
            raise InputError(f"{self.path}: column {name!r} occurs twice; name it otherwise, or write a .csv file")
        self._columns += [column for column in columns if column not in self._columns]
        table = _encodable(table)
        if self._kind == ".parquet":
            for key, column in table.items():
                self._types[str(key)] = self._common_type(str(key), column)
        else:
            try:
                self._write_text(table, io.StringIO(), header=True)
            except (OSError, ValueError, TypeError) as error:
                raise self._failed(error) from None

    def write(self, table: pd.DataFrame) -> None:
        """Append a piece; a column that it lacks is empty."""
        table = _encodable(table)
        try:
            if self._kind == ".parquet":
                self._file.write_table(self._arrow_table(table))
            else:
                if list(table.columns) != self._columns:
                    table = table.astype(object).reindex(columns=self._columns, fill_value=None)
                self._write_text(table, self._file, header=self._rows == 0)
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise self._failed(error) from None
        self._rows += len(table)

    def __enter__(self) -> TableWriter:
        try:
            if self._kind == ".parquet":
                import pyarrow.parquet

                self._file = pyarrow.parquet.ParquetWriter(self._temporary, pyarrow.schema(self._types))
            else:
                self._file = self._temporary.open("w", encoding="utf-8", newline="")
        except Exception as error:  # pyarrow's errors have no common base
            self._temporary.unlink(missing_ok=True)
            raise self._failed(error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._file.close()
            if kind is None:
                self._temporary.replace(self.path)
        except (OSError, ValueError) as error:
            raise self._failed(error) from None
        finally:
            self._temporary.unlink(missing_ok=True)

    def _write_text(self, table: pd.DataFrame, to: IO[str], header: bool) -> None:
        if self._kind == ".jsonl":
            table.to_json(
                to, orient="records", lines=True, force_ascii=False, date_format="iso", double_precision=15
            )  # fmt: skip
            return
        # A carriage return alone is not quoted by itself, and ends a line for readers.
        returns = any("\r" in value for _, column in table.items() for value in column if isinstance(value, str))
        quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
        table.to_csv(to, index=False, header=header, quoting=quoting)

    def _common_type(self, name: str, column: pd.Series) -> pyarrow.DataType:
        """The type that holds this piece of a column and the pieces before it."""
        import pyarrow

        try:
            found = pyarrow.array(column, from_pandas=True).type
            schemas = [pyarrow.schema({name: kind}) for kind in (self._types.get(name, found), found)]
            return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
        except Exception as error:  # pyarrow's errors have no common base
            raise InputError(
                f"{self.path}: column {name!r} does not fit into a parquet file ({error}); write a .csv or .jsonl file"
            ) from None

    def _arrow_table(self, table: pd.DataFrame) -> pyarrow.Table:
        import pyarrow

        return pyarrow.table({
            name: pyarrow.array(table[name], type=kind, from_pandas=True) if name in table.columns
            else pyarrow.nulls(len(table), kind)
            for name, kind in self._types.items()
        })  # fmt: skip

    def _failed(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: cannot be written ({error})")


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a whole table, as ``TableWriter`` does."""
    writer = TableWriter(path)
    writer.expect(table)
    with writer:
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
        # A compressed file is held whole; of any other only what is read at the moment.
        source = path if path.suffix.lower() not in COMPRESSED else io.BytesIO(read_bytes(path))
        with pyarrow.parquet.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20) as file:
            names = [name for name in file.schema_arrow.names if not _INDEX_OF_PANDAS.fullmatch(name)]
            _check_columns(path, names, needed)
            if len(set(names)) < len(names):
                _check_columns(path, names, dict.fromkeys(names, ""))
            batches = file.iter_batches(BATCH, columns=names if others else list(needed))
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
