"""What a file is by its first bytes, whatever its name says; and what to do where bytes are not the text expected."""

from __future__ import annotations

import codecs
import itertools

from ulmfit_fast.text.reading import COMPRESSED

# Longest first where one begins another.
_BINARY: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip data"), (b"\xfd7zXZ\0", "xz data"), (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"PK\x03\x04", "a zip"), (b"PK\x05\x06", "a zip"), (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive"), (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89PNG", "a picture"), (b"\xff\xd8\xff", "a picture"),
    *((b"\x80" + bytes([version]), "a pickle") for version in range(2, 6)),
)  # fmt: skip
# These are letters alone, which a text may begin with: they count beside bytes that no text has.
_LETTERS: tuple[tuple[bytes, str], ...] = (
    (b"BZh", "bzip2 data"), (b"PAR1", "a parquet file"), (b"ARROW1", "an Arrow file"), (b"FEA1", "a feather file"),
    (b"SQLite format 3", "an SQLite database"), (b"%PDF-", "a PDF"), (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
)  # fmt: skip
_SUFFIX = {"gzip data": ".gz", "xz data": ".xz", "zstd data": ".zst", "bzip2 data": ".bz2"}
_ZIPPED = ((b"xl/", "an Excel workbook"), (b"word/", "a Word document"), (b"data.pkl", "a file of torch.save"))
_REMEDY = {
    "a zip": "its name should end in .zip (--format zip)",
    "an Excel workbook": "save it as CSV UTF-8",
    "an old Office document": "save it as CSV UTF-8, or as text",
    "a Word document": "save it as plain text",
    "a parquet file": "its name should end in .parquet (--format parquet)",
}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip


def what_else(head: bytes) -> str | None:
    """What binary kind of file begins with these bytes, with the remedy; None for text."""
    found = next((name for magic, name in _BINARY if head.startswith(magic)), None)
    if found is None and not _is_plain(head):
        found = next((name for magic, name in _LETTERS if head.startswith(magic)), None)
    if found is None:
        return None
    if found == "a zip":
        found = next((name for mark, name in _ZIPPED if mark in head[:4096]), found)
    suffix = _SUFFIX.get(found)
    remedy = f"its name should end in {suffix} (--format csv{suffix})" if suffix else _REMEDY.get(found)
    return f"by its first bytes it is {found}; {remedy or 'save its texts as .txt, .csv, .jsonl or .parquet'}"


def begins_compressed(head: bytes, suffix: str) -> bool:
    """Whether these bytes, or what there is of them, may begin a file of that one of ``COMPRESSED``."""
    assert suffix in COMPRESSED
    magic = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ\0", ".bz2": b"BZh", ".zst": b"\x28\xb5\x2f\xfd"}[suffix]
    skippable = suffix == ".zst" and head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5
    # Python's lzma also reads the older .lzma format, which has no such beginning; nobody names it .xz.
    return head[: len(magic)] == magic[: len(head)] or skippable


def wrong_encoding(head: bytes, encoding: str) -> str | None:
    """What the first bytes say about the encoding where that is another than ``encoding``, with the remedy."""
    name = codecs.lookup(encoding).name
    for mark, marked in _MARKS:
        if head.startswith(mark):
            if name.startswith((marked, marked.replace("-", "_"))):
                return None
            return f"by its first bytes it is {marked.upper()}; " + (
                "leave --encoding out" if marked == "utf-8" else f"pass --encoding {marked}"
            )
    if name.startswith(("utf-16", "utf-32")):
        return None
    if head.startswith(("\xff\xfe".encode(), "\xfe\xff".encode())) and b"\0" in head[:64]:
        return "by its first bytes it was UTF-16 and has been converted as if it were Latin-1; convert it anew"
    sample = head[:4096]
    nuls = [sample[place::4].count(0) * 4 / max(len(sample), 1) for place in range(4)]
    for guess, empty in (
        ("utf-32-le", (0, 1, 1, 1)), ("utf-32-be", (1, 1, 1, 0)),
        ("utf-16-le", (0, 1, 0, 1)), ("utf-16-be", (1, 0, 1, 0)),
    ):  # fmt: skip
        # Letters outside Latin fill both bytes, spaces and line ends never do.
        if all(share > 0.1 if is_empty else share < 0.02 for share, is_empty in zip(nuls, empty, strict=True)):
            return f"by its first bytes it is {guess[:6].upper()} without a mark; pass --encoding {guess}"
    return None


def encoding_advice(line: bytes, start: int, were_others: bool) -> str:
    """What to do about bytes that are not UTF-8.

    Args:
        line: that holds them.
        start: the first of them in the line.
        were_others: characters beyond ASCII came before, and were UTF-8.
    """
    if were_others or _is_other_utf8(line[:start]):
        return "what is before it is UTF-8: the file is damaged here, or put together of two encodings"
    high = [value for value in line if value >= 0x80]
    longest = max(
        (len(list(run)) for is_high, run in itertools.groupby(line, lambda v: v >= 0x80) if is_high), default=0
    )
    if longest <= 3 and not {0x81, 0x8D, 0x8F, 0x90, 0x9D}.intersection(high):
        return "Western texts from Windows or Excel: pass --encoding windows-1252"
    return (
        "name its encoding with --encoding (Windows, Cyrillic: windows-1251; Chinese: gb18030 or big5; Japanese: "
        "shift_jis; Korean: cp949)"
    )


def _is_other_utf8(line: bytes) -> bool:
    try:
        return not line.isascii() and bool(line.decode())
    except UnicodeDecodeError:
        return False


def _is_plain(head: bytes) -> bool:
    return not any(value < 0x20 and value not in b"\t\n\r\f\x1b" for value in head[:512])
