"""Compressed files, read to their very end: what is damaged, cut off or foreign anywhere is an error."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ulmfit_fast import InputError
from ulmfit_fast.text.decompression import compressing
from ulmfit_fast.text.files import read_documents

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}  # fmt: skip
FIRST, SECOND = (b"".join(b"%s %d\n" % (name, i * i) for i in range(3000)) for name in (b"first", b"second"))


def texts(folder: Path, suffix: str, content: bytes) -> list[str]:
    path = folder / f"a.txt{suffix}"
    path.write_bytes(content)
    return read_documents(path).texts


@pytest.mark.parametrize("suffix", COMPRESS)
def test_streams_one_after_the_other(suffix: str, tmp_path: Path) -> None:
    compress = COMPRESS[suffix]
    expected = (FIRST + SECOND).decode().splitlines()
    assert texts(tmp_path, suffix, compress(FIRST) + compress(SECOND)) == expected
    assert texts(tmp_path, suffix, compress(FIRST) + compress(b"") + compress(SECOND)) == expected


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("stream", [0, 1])
def test_damage_and_cuts(suffix: str, stream: int, tmp_path: Path) -> None:
    """A byte changed at the beginning, in the middle, near the end; an end that is missing, wherever it is cut."""
    streams = [COMPRESS[suffix](FIRST), COMPRESS[suffix](SECOND)]
    whole = streams[stream]
    changed = [_changed(whole, place) for place in (1, len(whole) // 2, len(whole) - 3)]
    for damaged in [*changed, *(whole[:n] for n in (3, 9, len(whole) // 2, -1))]:
        streams[stream] = damaged
        with pytest.raises(InputError, match=r"damaged or truncated|no \.\w+ data") as error:
            texts(tmp_path, suffix, b"".join(streams))
        assert str(error.value).startswith(str(tmp_path / f"a.txt{suffix}: "))


def _changed(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("garbage", [b"x", b"not compressed at all\n" * 9])
def test_garbage_at_the_end(suffix: str, garbage: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="damaged or truncated"):
        texts(tmp_path, suffix, COMPRESS[suffix](FIRST) + garbage)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_padding_of_zeros_is_no_damage(suffix: str, tmp_path: Path) -> None:
    """The .xz format has it between streams; tapes fill up .gz files with it."""
    compress = COMPRESS[suffix]
    content = compress(FIRST) + bytes(8) + compress(SECOND) + bytes(100_000)
    assert len(texts(tmp_path, suffix, content)) == 6000


def test_frames_of_zst_that_are_to_be_skipped(tmp_path: Path) -> None:
    """Some programs begin a file with one."""
    skipped = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    assert texts(tmp_path, ".zst", skipped + zstandard.compress(b"one\n") + skipped) == ["one"]


@pytest.mark.parametrize("suffix", COMPRESS)
def test_an_empty_file(suffix: str, tmp_path: Path) -> None:
    for content in (b"", COMPRESS[suffix](b"")):
        with pytest.raises(InputError, match="the file is empty"):
            texts(tmp_path, suffix, content)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_what_is_compressed_here_other_programs_read(suffix: str) -> None:
    decompress = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}
    decompress[".zst"] = lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)
    file = io.BytesIO()
    with compressing(file, suffix) as packed:
        packed.write(FIRST)
        packed.write(SECOND)
    assert decompress[suffix](file.getvalue()) == FIRST + SECOND
