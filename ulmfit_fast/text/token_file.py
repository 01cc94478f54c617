"""Token ids of a corpus: in memory, or in a file that is read as it is needed.

A token file is ``magic | header length, header CRC-32 | header (JSON, in 4,096 bytes) | token ids, uint16 or uint32 |
document offsets, int64 | a CRC-32 for each block of token ids``. Opening it checks all but the ids, whose blocks are
checked when they are first read: the time it takes depends on the number of documents, not on their length.
"""

from __future__ import annotations

import json
import os
import struct
import weakref
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ulmfit_fast.core.atomic_write import errors_name
from ulmfit_fast.core.errors import InputError, shortened

MAGIC = b"ULMFITTK"
_VERSION = 1
HEADER_BYTES = 4096  # magic, lengths and JSON
_PREFIX = struct.Struct("<8sII")
_BLOCK_BYTES = 4 << 20
_HEADER: dict[str, Callable[[Any], bool]] = {  # what each entry must be; the checksum is no secret
    "dtype": lambda value: value in ("uint16", "uint32"),
    "source": lambda value: isinstance(value, dict),
    **dict.fromkeys(
        ("tokens", "documents", "vocabulary", "index_crc"), lambda value: type(value) is int and 0 <= value < 1 << 62
    ),
}
_AGAIN = "delete it and make it again: ulmfit-fast tokenize"


class TokenCorpus(Protocol):
    """Documents of token ids, one after the other."""

    offsets: np.ndarray  # int64 [documents + 1], where each begins and the last ends
    checksum: int  # of all ids and offsets

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start .. stop of all documents' ids."""


def token_counts(corpus: TokenCorpus, vocab_size: int, most_tokens: int = 20_000_000) -> np.ndarray:
    """How often each id occurs in ``corpus``, int64 [vocab_size]; of a large corpus in pieces spread evenly over it."""
    tokens, piece = int(corpus.offsets[-1]), 1_000_000
    counts = np.zeros(vocab_size, np.int64)
    pieces = max(1, -(-min(tokens, most_tokens) // piece))
    for i in range(pieces):
        start = tokens * i // pieces
        ids = corpus.read(start, min(start + piece, tokens * (i + 1) // pieces))
        counts += np.bincount(ids, minlength=vocab_size)
    return counts


class TokenArray:
    """A corpus in memory.

    Args:
        ids: each document's.
    """

    def __init__(self, ids: Sequence[np.ndarray]) -> None:
        self.offsets = np.concatenate([[0], np.cumsum([len(document) for document in ids], dtype=np.int64)])
        self._ids = np.concatenate([*ids, np.empty(0, np.int32)])
        self.checksum = zlib.crc32(self._ids.tobytes(), zlib.crc32(self.offsets.tobytes()))

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._ids[start:stop]


class TokenFile:
    """A token file, open. Its offsets are in memory, 8 bytes a document; ids are read when they are asked for.

    It is not mapped: the system ends a process that reads a mapped file which something else cuts. Here that is an
    error like others. A file that takes its name does not matter.

    Args:
        path: written by ``write_token_file``.

    Raises:
        InputError: missing, foreign, truncated or altered; on reading, too.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            weakref.finalize(self, os.close, self._file)
            head = os.pread(self._file, HEADER_BYTES, 0)
            size = os.fstat(self._file).st_size
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
        header = self._parse(head)
        dtype = np.dtype(header["dtype"])
        tokens, documents = header["tokens"], header["documents"]
        blocks = -(-tokens * dtype.itemsize // _BLOCK_BYTES)
        offsets_at = _align(HEADER_BYTES + tokens * dtype.itemsize)
        checks_at = offsets_at + 8 * (documents + 1)
        if size != checks_at + 4 * blocks:
            raise InputError(f"{path}: truncated: {size} bytes, expected {checks_at + 4 * blocks}; {_AGAIN}")
        self.vocabulary: int = header["vocabulary"]
        self.source: dict[str, Any] = header["source"]
        self._dtype = dtype
        self.offsets: np.ndarray = self._array(np.dtype(np.int64), offsets_at, documents + 1)
        self._checks = self._array(np.dtype(np.uint32), checks_at, blocks)
        if zlib.crc32(self._checks.tobytes(), zlib.crc32(self.offsets.tobytes())) != header["index_crc"]:
            raise InputError(f"{path}: altered: its index does not fit its checksum; {_AGAIN}")
        if self.offsets[0] != 0 or self.offsets[-1] != tokens or (self.offsets[1:] < self.offsets[:-1]).any():
            raise InputError(f"{path}: damaged: its documents do not lie one after the other; {_AGAIN}")
        self.checksum: int = header["index_crc"]
        self._read_before = np.zeros(blocks, dtype=bool)

    def read(self, start: int, stop: int) -> np.ndarray:
        start, stop, _ = slice(start, stop).indices(int(self.offsets[-1]))
        per_block = _BLOCK_BYTES // self._dtype.itemsize
        for block in range(start // per_block, -(-stop // per_block)):
            if not self._read_before[block]:
                self._check(block, self._ids(block * per_block, min((block + 1) * per_block, int(self.offsets[-1]))))
        return self._ids(start, stop).astype(np.int32)

    def _ids(self, start: int, stop: int) -> np.ndarray:
        return self._array(self._dtype, HEADER_BYTES + start * self._dtype.itemsize, max(stop - start, 0))

    def _array(self, dtype: np.dtype[Any], at: int, count: int) -> np.ndarray:
        """Elements of the file from a byte on. InputError where it has been cut since it was opened."""
        data = bytearray(count * dtype.itemsize)
        view = memoryview(data)
        while view:
            try:
                read = os.preadv(self._file, [view], at)
            except OSError as error:
                raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from None
            if read == 0:
                raise InputError(f"{self.path}: was cut while it was in use; {_AGAIN}")
            view, at = view[read:], at + read
        return np.frombuffer(data, dtype)

    def _check(self, block: int, ids: np.ndarray) -> None:
        if zlib.crc32(ids.tobytes()) != self._checks[block]:
            raise InputError(f"{self.path}: altered: block {block} does not fit its checksum; {_AGAIN}")
        if int(ids.max()) >= self.vocabulary:
            raise InputError(f"{self.path}: damaged: it has the id {ids.max()} of {self.vocabulary}; {_AGAIN}")
        self._read_before[block] = True

    def _parse(self, head: bytes) -> dict[str, Any]:
        if len(head) < HEADER_BYTES or not head.startswith(MAGIC):
            raise InputError(f"{self.path}: not a token file of ulmfit_fast, or a truncated one; {_AGAIN}")
        _, length, crc = _PREFIX.unpack_from(head)
        text = head[_PREFIX.size : _PREFIX.size + length]
        if zlib.crc32(text) != crc:
            raise InputError(f"{self.path}: altered: its header does not fit its checksum; {_AGAIN}")
        try:
            header: dict[str, Any] = json.loads(text)
            version = header["version"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(f"{self.path}: damaged: its header is none of a token file; {_AGAIN}") from None
        if version != _VERSION:
            raise InputError(f"{self.path}: of another version ({shortened(version)}, this is {_VERSION}); {_AGAIN}")
        if wrong := [name for name, is_right in _HEADER.items() if not is_right(header.get(name))]:
            raise InputError(f"{self.path}: damaged: its header has a wrong {wrong[0]}; {_AGAIN}")
        return header


def write_token_file(
    path: str | Path, ids: Iterable[np.ndarray], vocabulary: int, source: dict[str, Any] | None = None
) -> TokenFile:
    """Write each document's ids as they come, under a temporary name first.

    Args:
        path: file to write.
        ids: int [length] of each document, each in [0, vocabulary).
        vocabulary: number of ids; up to 65,536 an id takes two bytes, else four.
        source: what the ids were made from, to be recognised later; JSON of at most some 3,900 bytes.
    """
    path = Path(path)
    dtype = np.dtype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)
    temporary = path.with_name(f".{path.name}.partial")
    offsets, crcs, filled, crc = array("q", [0]), array("L"), 0, 0
    try:
        with errors_name(path), temporary.open("wb") as file:
            file.write(bytes(HEADER_BYTES))
            for document in ids:
                data = memoryview(np.asarray(document, dtype=dtype).tobytes())
                file.write(data)
                offsets.append(offsets[-1] + len(document))
                while len(data):
                    piece = data[: _BLOCK_BYTES - filled]
                    crc, filled, data = zlib.crc32(piece, crc), filled + len(piece), data[len(piece) :]
                    if filled == _BLOCK_BYTES:
                        crcs.append(crc)
                        crc, filled = 0, 0
            if filled:
                crcs.append(crc)
            at = HEADER_BYTES + offsets[-1] * dtype.itemsize
            file.write(bytes(_align(at) - at))
            offset_bytes, crc_bytes = np.array(offsets, np.int64).tobytes(), np.array(crcs, np.uint32).tobytes()
            file.write(offset_bytes + crc_bytes)
            header = json.dumps({
                "version": _VERSION, "dtype": dtype.name, "tokens": offsets[-1], "documents": len(offsets) - 1,
                "vocabulary": vocabulary, "index_crc": zlib.crc32(crc_bytes, zlib.crc32(offset_bytes)),
                "source": source or {},
            }).encode()  # fmt: skip
            if _PREFIX.size + len(header) > HEADER_BYTES:
                raise ValueError(f"write_token_file: source takes {len(header)} bytes of JSON, at most 3,900 fit")
            file.seek(0)
            file.write(_PREFIX.pack(MAGIC, len(header), zlib.crc32(header)) + header)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return TokenFile(path)


def _align(position: int) -> int:
    return -(-position // 8) * 8
