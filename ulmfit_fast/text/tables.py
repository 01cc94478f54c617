"""Tables read in pieces, so that memory does not grow with them: .csv, .tsv, .jsonl and .parquet.

Every problem is an InputError that names the file and, where there is one, the row and the column.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.delimited import read_delimited_rows
from ulmfit_fast.text.inputs import Input, opened, read_bytes
from ulmfit_fast.text.lines import read_json_rows
from ulmfit_fast.text.reading import DELIMITED, ReadOptions, shown, shown_names
from ulmfit_fast.text.rules import encodable

if TYPE_CHECKING:
    import pandas as pd  # imported on first use: plain text needs none

ROWS, CHARACTERS = 4096, 1 << 24  # of a piece, which may hold one row more than so many characters
_READ_AT_ONCE = 32 << 20  # bytes of a parquet file
_BUFFERED = 1 << 20  # bytes at a time of a column of a larger one
BATCH = 64  # rows of a parquet file that are decoded together

_INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__")  # a column for an index without a name
_OF_NO_HEADER = ", or name them all with --columns if the first line is a row"

T = TypeVar("T")


def read_tables(
    source: Input, needed: Mapping[str, str], reading: ReadOptions | None = None, others: bool = True
) -> Iterator[pd.DataFrame]:
    """The rows of a file in order, as tables of at most ``ROWS`` rows.

    Args:
        source: a file whose kind is one of ``TABLES``.
        needed: names of columns that it must have -> the option that names another.
        reading: how its text is read.
        others: keep the other columns, too.

    Raises:
        InputError: the file is damaged, of another encoding, or lacks a column; when the place is reached.
    """
    readers = {".csv": _read_delimited, ".tsv": _read_delimited, ".jsonl": _read_json, ".parquet": _read_parquet}
    return readers[source.kind](source, needed, reading or ReadOptions(), others)


def _read_delimited(source: Input, needed: Mapping[str, str], reading: ReadOptions, others: bool) -> Iterator[Any]:
    import pandas as pd

    rows = read_delimited_rows(source, reading, list(needed))
    header = next(rows)
    _check_columns(source, header, needed)
    places = [header.index(name) for name in needed]
    for piece in _in_pieces(rows, lambda fields: sum(map(len, fields)), ROWS):
        chosen = piece if others else [[fields[place] for place in places] for fields in piece]
        yield pd.DataFrame(chosen, columns=header if others else list(needed), dtype=object)


def _read_json(source: Input, needed: Mapping[str, str], reading: ReadOptions, others: bool) -> Iterator[Any]:
    import pandas as pd

    def characters(row: Mapping[str, Any]) -> int:
        return sum(len(value) for value in row.values() if isinstance(value, str))

    rows = map(_with_encodable_names, read_json_rows(source, reading.encoding))
    for number, piece in enumerate(_in_pieces(rows, characters, ROWS)):
        columns = list(dict.fromkeys(key for row in piece for key in row))
        if number == 0:
            _check_columns(source, columns, needed)
        columns += [column for column in needed if column not in columns]
        yield pd.DataFrame(piece, columns=columns if others else list(needed), dtype=object)


def _with_encodable_names(row: dict[str, Any]) -> dict[str, Any]:
    """JSON may escape half of a character, which a table's column cannot be called by."""
    return row if all(map(str.isascii, row)) else {encodable(name): value for name, value in row.items()}


def _read_parquet(source: Input, needed: Mapping[str, str], reading: ReadOptions, others: bool) -> Iterator[Any]:
    import pandas as pd
    import pyarrow
    import pyarrow.parquet

    try:
        with contextlib.ExitStack() as stack:
            # A compressed file is held whole; of any other only what is read at the moment. It is opened here, as
            # pyarrow takes no names that are not UTF-8.
            is_plain = not source.compression and source.member is None
            file: Any = stack.enter_context(opened(source)) if is_plain else io.BytesIO(read_bytes(source))
            if not file.read(1):
                raise InputError(f"{source.name}: the file is empty")
            # A buffer makes room for what a page says it has, which in a damaged file may be anything; without one a
            # column's part of a row group is read at once.
            buffered = _BUFFERED if file.seek(0, io.SEEK_END) > _READ_AT_ONCE else 0
            file.seek(0)
            table = stack.enter_context(pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=buffered))
            names = [name for name in table.schema_arrow.names if not _INDEX_OF_PANDAS.fullmatch(name)]
            _check_columns(source, names, needed)
            if len(set(names)) < len(names):
                _check_columns(source, names, dict.fromkeys(names, ""))
            batches = table.iter_batches(BATCH, columns=names if others else list(needed))
            for piece in _in_pieces(batches, lambda batch: batch.nbytes, ROWS // BATCH):
                # Arrow's own types: integers with gaps stay integers, and all can be written as they were.
                yield pyarrow.Table.from_batches(piece).to_pandas(types_mapper=pd.ArrowDtype, ignore_metadata=True)
    except InputError:
        raise
    except Exception as error:  # pyarrow's errors have no common base
        raise InputError(f"{source.name}: not a readable parquet file ({_reason(error)})") from None


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


def _check_columns(source: Input, columns: list[str], needed: Mapping[str, str]) -> None:
    for name, option in needed.items():
        if name not in columns:
            remedy = _OF_NO_HEADER if source.kind in DELIMITED else ""
            if remedy and len(columns) == 1:
                remedy += ", or say what stands between fields with --delimiter"
            raise InputError(
                f"{source.name}: no column {shown(name)}; its columns are {shown_names(columns)}; choose one with "
                f"{option}{remedy}"
            )
        if columns.count(name) > 1:
            raise InputError(f"{source.name}: column {shown(name)} occurs twice")


def _reason(error: Exception) -> str:
    """What another library says, on one line of bounded length."""
    return " ".join(str(error).split())[:300]
