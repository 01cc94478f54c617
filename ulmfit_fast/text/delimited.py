"""The rows of .csv and .tsv files: the delimiter, the names of the columns, and rows that have as many fields.

pandas reads such files, too, but fills up rows that are too short, and names no line.
"""

from __future__ import annotations

import csv
import re
import sys
import warnings
from collections.abc import Collection, Iterator

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.inputs import Input
from ulmfit_fast.text.lines import read_lines
from ulmfit_fast.text.reading import ReadingNotice, ReadOptions, shown, shown_names

_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEP = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)  # Excel writes and reads it as the first line of a .csv file


def read_delimited_rows(source: Input, reading: ReadOptions, needed: Collection[str]) -> Iterator[list[str]]:
    """The names of the columns, then the rows, each with as many fields.

    ``needed`` columns help to find the delimiter, where none is given and the first line has them with one alone.
    """
    csv.field_size_limit(sys.maxsize)
    lines = _Counted(read_lines(source, reading.encoding))
    first = next(lines, None)
    delimiter = reading.delimiter
    told = None if first is None else _SEP.fullmatch(first)
    if told is not None:
        if delimiter not in (None, told[1]):
            raise InputError(
                f"{source.name}: its first line says sep={told[1]}, --delimiter {shown(delimiter)}; leave it out"
            )
        delimiter, first = told[1], next(lines, None)
    while first is not None and not reading.columns and not first.strip(',;|\t\r\n "'):
        first = next(lines, None)  # a blank line, or one of blank fields, before the names
    if first is None:
        raise InputError(f"{source.name}: the file is empty")
    if delimiter is None:
        delimiter = _delimiter(source, first, reading, needed)
    lines.put_back(first)
    rows = csv.reader(
        lines, strict=True, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if reading.quotes else csv.QUOTE_NONE
    )
    yield from _rows(source, rows, lines, reading, delimiter)


class _Counted:
    """Lines, how many of them were taken, and one that can be put back."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._back: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._back.pop() if self._back else next(self._lines)
        self.number += 1
        return line

    def put_back(self, line: str) -> None:
        self._back.append(line)
        self.number -= 1


def _rows(
    source: Input, rows: Iterator[list[str]], lines: _Counted, reading: ReadOptions, delimiter: str
) -> Iterator[list[str]]:
    names = list(reading.columns)
    try:
        if not names:
            names = next(rows)
        yield names
        for number, fields in enumerate(rows):
            if not fields and len(names) > 1:
                continue  # a blank line; in a table of one column it is an empty text
            fields = fields or [""]
            if number == 0 and fields == list(reading.columns):
                raise InputError(
                    f"{source.name}: line {lines.number} has the names of the columns; leave --columns out"
                )
            if len(fields) != len(names):
                where = f"--columns has {len(names)}" if reading.columns else f"the header has {len(names)}"
                what = _NAMES.get(delimiter, f"the delimiter {shown(delimiter)}")
                raise InputError(
                    f"{source.name}: line {lines.number}: {len(fields)} fields where {where}; quote texts that hold "
                    f"{what}, or choose another --delimiter"
                )
            yield fields
    except csv.Error as error:
        raise InputError(f"{source.name}: line {lines.number}: not a readable CSV file ({_reason(error)})") from None


def _reason(error: csv.Error) -> str:
    """The library's words, but for one that speaks of Python's files."""
    if "new-line character" in str(error):
        return "a carriage return alone in a field without quotes"
    if "expected after" in str(error) or "unexpected end" in str(error):
        return f"{error}; pass --no-quotes if quotation marks are characters like others"
    return str(error)


def _delimiter(source: Input, first: str, reading: ReadOptions, needed: Collection[str]) -> str:
    """What stands between the fields, by the kind of file and its first line; says so where that is not the usual."""
    usual = "\t" if source.kind == ".tsv" else ","
    fields = {delimiter: _fields(first, delimiter, reading.quotes) for delimiter in {usual, *_NAMES}}
    if reading.columns:
        fitting = [each for each in _NAMES if len(fields[each]) == len(reading.columns)]
        if len(reading.columns) > 1 and usual not in fitting and len(fitting) == 1:
            raise InputError(
                f"{source.name}: its first line has {len(reading.columns)} fields, as --columns has, with "
                f"{_NAMES[fitting[0]]} alone; pass --delimiter {_typed(fitting[0])}"
            )
        return usual
    fitting = [each for each in _NAMES if set(needed) <= set(fields[each]) and len(fields[each]) > 1]
    if not needed or set(needed) <= set(fields[usual]) or len(fitting) != 1:
        return usual
    warnings.warn(
        f"{source.name}: read with {_NAMES[fitting[0]]} between the fields, as its first line has "
        f"{shown_names([*needed], 3)} so alone (--delimiter {_typed(fitting[0])})",
        ReadingNotice,
        stacklevel=1,
    )
    return fitting[0]


def _fields(line: str, delimiter: str, quotes: bool) -> list[str]:
    try:
        return next(
            csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE), []
        )
    except csv.Error:
        return []


def _typed(delimiter: str) -> str:
    """How it is given on the command line."""
    return "tab" if delimiter == "\t" else f"'{delimiter}'"
