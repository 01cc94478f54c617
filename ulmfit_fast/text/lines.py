"""Text files read line by line, whatever their encoding and line ends, and what JSON lines hold; memory does not grow.

Every problem is an InputError that names the file and the line.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.inputs import Input, opened
from ulmfit_fast.text.reading import ReadingNotice, shown
from ulmfit_fast.text.signatures import encoding_advice, what_else, wrong_encoding

_HEAD = 1 << 20  # bytes that settle what the line ends are
# No text has these (but U+0085, a line end); Windows-1252 has quotes and dashes in their places.
_CONTROLS = re.compile("[\x80-\x84\x86-\x9f]")
_MISREAD = "control characters beyond ASCII, as of Windows-1252 converted as if it were Latin-1; convert it anew"


def read_lines(source: Input, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a text file, decompressed, each with its line break: ``\\n``, whatever the file has."""
    with opened(source) as file:
        were_others = is_said = False
        for number, line in enumerate(_as_utf8(source, file, encoding), start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                place = f"{source.name}: line {number}: byte 0x{line[error.start]:02x} is not UTF-8"
                raise InputError(f"{place}; {encoding_advice(line, error.start, were_others)}") from None
            if "\0" in text:
                raise InputError(
                    f"{source.name}: line {number}: a NUL character, which no text holds; the file is damaged, or of "
                    "another encoding (--encoding)"
                )
            if not text.isascii():
                were_others = True
                if not is_said and _CONTROLS.search(text):
                    is_said = True
                    warnings.warn(f"{source.name}: line {number}: {_MISREAD}", ReadingNotice, stacklevel=1)
            yield text[:-2] + "\n" if text.endswith("\r\n") else text


def read_text(source: Input, encoding: str = "utf-8") -> str:
    """A whole text file, decompressed."""
    return "".join(read_lines(source, encoding))


def read_json_rows(source: Input, encoding: str = "utf-8") -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line."""
    for number, line in enumerate(read_lines(source, encoding), start=1):
        if not line.strip():
            continue
        place = f"{source.name}: line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if line.strip() in ("[", "{"):
                raise InputError(f"{place}: JSON over several lines; write one object a line (.jsonl)") from None
            raise InputError(f"{place}: not JSON ({error.msg})") from None
        except (ValueError, RecursionError):  # numbers of more digits than Python reads, deep nesting
            raise InputError(f"{place}: JSON that cannot be read (a very long number, or deep nesting)") from None
        if not isinstance(row, dict):
            hint = "; write one object a line, without a list around them" if isinstance(row, list) else ""
            raise InputError(f"{place}: expected a JSON object, got {type(row).__name__}{hint}")
        yield row


def _as_utf8(source: Input, file: BinaryIO, encoding: str) -> BinaryIO:
    """The file in UTF-8, with ``\\n`` at least at the end of every line. Raises InputError where it is no such text."""
    head = file.read(_HEAD)
    reason = what_else(head) or wrong_encoding(head, encoding)
    if reason is not None:
        raise InputError(f"{source.name}: {reason}")
    text = _buffered(_Rejoined(head, file))
    if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        text = _buffered(_Decoded(source.name, text, encoding))
        head = text.read(_HEAD)
        text = _buffered(_Rejoined(head, text))
    return _buffered(_CarriageReturns(source.name, text)) if b"\r" in head and b"\n" not in head else text


def _buffered(raw: io.RawIOBase) -> BinaryIO:
    return io.BufferedReader(raw, 1 << 18)


class _Read(io.RawIOBase):
    """A stream made of pieces of bytes."""

    def __init__(self) -> None:
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def piece(self) -> bytes | None:
        """What comes next; None at the end."""
        raise NotImplementedError

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece = self.piece()
            if piece is None:
                return 0
            self._ready = memoryview(piece)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


class _Rejoined(_Read):
    """The beginning of a file, which has been read, and its rest."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._ready = memoryview(head)
        self._rest = rest

    def piece(self) -> bytes | None:
        return self._rest.read(1 << 18) or None


class _Decoded(_Read):
    """A text of another encoding in UTF-8."""

    def __init__(self, name: str, file: BinaryIO, encoding: str) -> None:
        super().__init__()
        self._name = name
        self._file = file
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._lines = 1

    def piece(self) -> bytes | None:
        data = self._file.read(1 << 18)
        try:
            text = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            before = 0
            with contextlib.suppress(UnicodeError):  # some encodings pass nothing over
                before = error.object[: error.start].decode(self._encoding, "ignore").count("\n")
            found = f"byte 0x{error.object[error.start]:02x}" if error.start < len(error.object) else "the file's end"
            raise InputError(
                f"{self._name}: line {self._lines + before}: {found} is not {shown(self._encoding)} "
                f"({error.reason}); --encoding names another"
            ) from None
        except UnicodeError as error:  # a UTF-16 file without its mark
            raise InputError(f"{self._name}: not {shown(self._encoding)} ({error}); --encoding names another") from None
        self._lines += text.count("\n")
        return text.encode("utf-8", "replace") if data or text else None


class _CarriageReturns(_Read):
    """A text whose lines all end with a carriage return alone, as old Macs wrote them."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        super().__init__()
        self._name = name
        self._file = file

    def piece(self) -> bytes | None:
        data = self._file.read(1 << 18)
        if b"\n" in data:
            raise InputError(
                f"{self._name}: lines end with carriage returns at its beginning, and with newlines further on; make "
                "them alike (tr '\\r' '\\n')"
            )
        return data.replace(b"\r", b"\n") or None
