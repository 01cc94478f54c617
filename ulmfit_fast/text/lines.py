"""Text files read line by line, compressed or not, and what CSV and JSON lines hold; memory does not grow with them.

Every problem is an InputError that names the file and the line.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ulmfit_fast.core.errors import InputError

COMPRESSED = (".xz", ".gz", ".bz2", ".zst")


def suffixes_of(path: Path) -> list[str]:
    """A file's suffixes in lower case, without that of its compression."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[:-1] if suffixes and suffixes[-1] in COMPRESSED else suffixes


def read_bytes(path: Path) -> bytes:
    """A whole file, decompressed."""
    return b"".join(_pieces(path, lambda file: iter(lambda: file.read(1 << 20), b"")))


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, decompressed, each with its line break (``\\n`` for ``\\r\\n``)."""
    for number, line in enumerate(_pieces(path, iter), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: line {number}: byte 0x{line[error.start]:02x} is not UTF-8; convert the file "
                "(iconv -f latin1 -t utf-8)"
            ) from None
        yield text[:-2] + "\n" if text.endswith("\r\n") else text


def read_text(path: Path) -> str:
    """A whole UTF-8 file, decompressed."""
    return "".join(read_lines(path))


def read_csv_rows(path: Path) -> Iterator[list[str]]:
    """The header of a CSV file, then its rows, each with as many fields."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(read_lines(path), strict=True)
    try:
        header = next(reader, None)
        if header is None:
            raise InputError(f"{path}: the file is empty")
        yield header
        for fields in reader:
            if not fields and len(header) > 1:
                continue  # a blank line; in a table of one column it is an empty text
            fields = fields or [""]
            if len(fields) != len(header):
                raise InputError(
                    f"{path}: line {reader.line_num}: {len(fields)} fields where the header has {len(header)}; quote "
                    "texts that hold commas"
                )
            yield fields
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not a readable CSV file ({error})") from None


def read_json_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line."""
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: not JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number}: expected a JSON object, got {type(row).__name__}")
        yield row


def _pieces(path: Path, cut: Callable[[BinaryIO], Iterator[bytes]]) -> Iterator[bytes]:
    openers: dict[str, Callable[..., Any]] = {
        ".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open, ".zst": _open_zst,
    }  # fmt: skip
    try:
        with openers.get(path.suffix.lower(), open)(path, "rb") as file:
            yield from cut(file)
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: damaged or truncated ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def _open_zst(path: Path, mode: str) -> Any:
    try:
        import zstandard  # here: most users have no such file
    except ImportError:
        raise InputError(f"{path}: reading .zst files needs zstandard; pip install zstandard") from None
    return io.BufferedReader(_ZstFrames(path.open(mode), zstandard), 1 << 20)


class _ZstFrames(io.RawIOBase):
    """All frames of a .zst file; unlike the library's own reader it notices that the last one is incomplete."""

    def __init__(self, file: Any, zstandard: Any) -> None:
        self._file = file
        self._zstandard = zstandard
        self._frame: Any = None
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            data = self._file.read(1 << 17) if self._frame is None or not self._frame.unused_data else b""
            if self._frame is not None and self._frame.eof:
                data = self._frame.unused_data + data
                self._frame = None
            if not data:
                if self._frame is not None:
                    raise EOFError("the last frame is incomplete")
                return 0
            self._frame = self._frame or self._zstandard.ZstdDecompressor().decompressobj()
            try:
                self._rest = self._frame.decompress(data)
            except self._zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
