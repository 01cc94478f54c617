"""Tables written in pieces, so that memory does not grow with them: .csv, .tsv, .jsonl and .parquet.

Every problem is an InputError that names the file and, where there is one, the column.
"""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.inputs import STANDARD
from ulmfit_fast.text.outputs import OutputFile
from ulmfit_fast.text.reading import DELIMITED, TABLES, kind_of_name, shown
from ulmfit_fast.text.rules import encodable

if TYPE_CHECKING:
    import pandas as pd  # imported on first use: plain text needs none
    import pyarrow


class TableWriter:
    """Writes a table in pieces, under a temporary name until all is written.

    ``expect`` every piece, then ``write`` them within a ``with``: what cannot be written is found before the first is.

    Args:
        path: the file to write; its suffixes tell the kind and the compression. "-" is standard output.
        format: kind and compression of a file whose name does not tell them ("csv", "jsonl.gz"); None: "csv".

    Raises:
        InputError: it cannot be written there, or holds what this kind of file cannot.
    """

    def __init__(self, path: str | Path, format: str | None = None) -> None:
        self.path = Path(path)
        self._kind, compression = _kind_to_write(self.path, format)
        self.output = OutputFile(self.path, compression)
        self._columns: list[Any] = []
        self._types: dict[str, pyarrow.DataType] = {}  # of a parquet file's columns
        self._opened = contextlib.ExitStack()
        self._file: Any = None  # a text file or a parquet writer
        self._rows = 0

    def expect(self, table: pd.DataFrame) -> None:
        """Take note of the columns and types of a piece."""
        columns = list(table.columns)
        if self._kind not in DELIMITED and len(set(columns)) < len(columns):
            name = next(column for column in columns if columns.count(column) > 1)
            raise InputError(f"{self.path}: column {shown(name)} occurs twice; name it otherwise, or write a .csv file")
        self._columns += [column for column in columns if column not in self._columns]
        table = _encodable(table, self._kind in DELIMITED)
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
        table = _encodable(table, self._kind in DELIMITED)
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
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(self.output)
                if self._kind == ".parquet":
                    import pyarrow.parquet

                    writer = pyarrow.parquet.ParquetWriter(file, pyarrow.schema(self._types))
                    self._file = stack.enter_context(writer)
                else:
                    self._file = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
                    stack.callback(self._file.detach)  # the output closes what is below
                self._opened = stack.pop_all()
        except Exception as error:  # pyarrow's errors have no common base
            raise self._failed(error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        try:
            self._opened.__exit__(kind, *rest)
        except (OSError, ValueError) as error:
            if kind is None:
                raise self._failed(error) from None

    def _write_text(self, table: pd.DataFrame, to: IO[str], header: bool) -> None:
        if self._kind == ".jsonl":
            table.to_json(
                to, orient="records", lines=True, force_ascii=False, date_format="iso", double_precision=15
            )  # fmt: skip
            return
        # A carriage return alone is not quoted by itself, and ends a line for readers.
        returns = any("\r" in value for _, column in table.items() for value in column if isinstance(value, str))
        quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
        table.to_csv(to, index=False, header=header, quoting=quoting, sep="\t" if self._kind == ".tsv" else ",")

    def _common_type(self, name: str, column: pd.Series) -> pyarrow.DataType:
        """Of this column and what came before of it."""
        import pyarrow

        try:
            found = pyarrow.array(column, from_pandas=True).type
            schemas = [pyarrow.schema({name: kind}) for kind in (self._types.get(name, found), found)]
            return pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
        except Exception as error:  # pyarrow's errors have no common base
            raise InputError(
                f"{self.path}: column {shown(name)} does not fit into a parquet file ({_reason(error)}); "
                "write a .csv or .jsonl file"
            ) from None

    def _arrow_table(self, table: pd.DataFrame) -> pyarrow.Table:
        import pyarrow

        return pyarrow.table({
            name: pyarrow.array(table[name], type=kind, from_pandas=True) if name in table.columns
            else pyarrow.nulls(len(table), kind)
            for name, kind in self._types.items()
        })  # fmt: skip

    def _failed(self, error: Exception) -> Exception:
        if isinstance(error, BrokenPipeError):  # whoever reads has what they wanted: no fault of the input
            return error
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return InputError(f"{self.path}: cannot be written ({' '.join(reason.split())[:300]})")


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a whole table, as ``TableWriter`` does."""
    writer = TableWriter(path)
    writer.expect(table)
    with writer:
        writer.write(table)


def _kind_to_write(path: Path, format: str | None) -> tuple[str, str]:
    """The kind of table that a file's name tells, else what ``format`` says, and the compression."""
    is_file = path.is_file() or not (path.exists() or str(path) == STANDARD)
    for name in (path.name, format and f"x.{format.lstrip('.')}", None if is_file else "x.csv"):
        with contextlib.suppress(InputError):
            kind, compression = kind_of_name(name or "", str(path))
            if kind in TABLES and (name or "").lower().removesuffix(compression).endswith(kind):
                return kind, compression
    raise InputError(
        f"{path}: cannot write this kind of file; expected .csv, .tsv, .jsonl or .parquet, plain or with .gz, .xz, "
        ".bz2 or .zst"
    )


def _encodable(table: pd.DataFrame, is_delimited: bool) -> pd.DataFrame:
    """Half a surrogate pair becomes ``?``; a NUL character becomes U+FFFD where readers would refuse it."""
    import pandas as pd

    def clean(text: str) -> str:
        return encodable(text).replace("\0", "\ufffd") if is_delimited else encodable(text)

    table = table.copy(deep=False)
    for place, (_, column) in enumerate(list(table.items())):
        if column.dtype == object or pd.api.types.is_string_dtype(column):
            values = [clean(value) if isinstance(value, str) else value for value in column]
            table.isetitem(place, pd.Series(values, dtype=column.dtype).array)
    return table


def _reason(error: Exception) -> str:
    """What another library says, on one line of bounded length."""
    return " ".join(str(error).split())[:300]
