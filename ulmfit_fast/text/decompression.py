"""Compressed streams, read to their very end: Python's own readers of .bz2 and .xz stop at what they cannot read.

A file holds one stream or several, one after the other. Whatever else it holds, or lacks, is an error.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import IO, Any, BinaryIO, cast

_AT_A_TIME = 1 << 15  # compressed bytes; a thousand times as many may come of them


class DamagedError(Exception):
    """The compressed data is damaged, or ends too early."""


def decompressed(file: BinaryIO, suffix: str) -> BinaryIO:
    """The bytes of a file of one of ``COMPRESSED``. Raises ModuleNotFoundError where a .zst file has no zstandard."""
    return io.BufferedReader(_Streams(file, suffix), 1 << 20)


def compressing(file: BinaryIO, suffix: str) -> IO[bytes]:
    """A file to write to, which compresses what is written; closing it leaves ``file`` open."""
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile("", "wb", 6, file, mtime=0))  # the same bytes whenever it is written
    if suffix == ".bz2":
        return bz2.BZ2File(file, "wb")
    if suffix == ".xz":
        return lzma.LZMAFile(file, "wb")
    import zstandard  # here: most users have no such file

    return cast(IO[bytes], zstandard.ZstdCompressor(write_checksum=True).stream_writer(file, closefd=False))


def _decompressor(suffix: str) -> Any:
    if suffix == ".gz":
        return zlib.decompressobj(wbits=31)  # 16 for gzip's header and checksum, 15 for the largest window
    if suffix == ".bz2":
        return bz2.BZ2Decompressor()
    if suffix == ".xz":
        return lzma.LZMADecompressor()
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()  # zstd --long=31


class _Streams(io.RawIOBase):
    """All streams of a file, one after the other."""

    def __init__(self, file: BinaryIO, suffix: str) -> None:
        self._file = file
        self._suffix = suffix
        self._stream: Any = None
        self._failures: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError)
        if suffix == ".zst":
            import zstandard

            self._failures += (zstandard.ZstdError,)
        self._left = b""  # compressed bytes behind the end of a stream
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._advance():
                return 0
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _advance(self) -> bool:
        """Decompress a little more; False at the end."""
        data = self._left or self._file.read(_AT_A_TIME)
        self._left = b""
        if self._stream is None and self._suffix in (".gz", ".xz"):
            stripped = data.lstrip(b"\0")  # what fills up a block of a tape, or an .xz file to four bytes
            if data and not stripped:
                return True
            data = stripped
        if not data:
            if self._stream is not None:
                raise DamagedError("it ends in the middle of its compressed data")
            return False
        if self._stream is None:
            self._stream = _decompressor(self._suffix)
        try:
            self._ready = memoryview(self._stream.decompress(data))
        except self._failures as error:
            raise DamagedError(str(error)) from None
        if self._stream.eof:
            self._left, self._stream = self._stream.unused_data, None
        return True
