"""Tables and texts in every format, compressed or not, read in every way."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path
from random import Random

import pyarrow
import pyarrow.parquet
import zstandard

from tests.fuzz.mutations import any_text, damaged, damaged_json
from tests.fuzz.surface import Case, Surface
from tests.tiny import make_task
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.files import iterate_documents, read_documents, sample_texts, used_options
from ulmfit_fast.text.label_columns import LabelColumns
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.tokenizer import Tokenizer

_COMPRESS = {
    ".gz": lambda data: gzip.compress(data, 1), ".bz2": bz2.compress, ".xz": lambda data: lzma.compress(data, preset=0),
    ".zst": zstandard.ZstdCompressor(1).compress,
}  # fmt: skip


class Tables(Surface):
    name = "tables"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        texts, labels = make_task(40)
        texts = [*texts, 'with "quotes", commas; and\ttabs', "line\nbreaks", "", "\u00e9\u4e2d"]
        labels = [*labels, "good", "bad", "good", "bad"]
        rows = [
            {"text": text, "label": label, "number": i}
            for i, (text, label) in enumerate(zip(texts, labels, strict=True))
        ]
        self.rows = rows
        self.bases = {
            ".csv": _delimited(rows, ","), ".tsv": _delimited(rows, "\t"),
            ".txt": "\n\n".join(texts).encode(), ".jsonl": _json_lines(rows), ".parquet": _parquet(rows, "none"),
        }  # fmt: skip
        self.parquets = [_parquet(rows, codec) for codec in ("none", "snappy", "gzip", "zstd", "brotli", "lz4")]
        self.tokenizer = Tokenizer.train_words(texts, min_frequency=1)

    def case(self, random: Random) -> Case:
        kind = random.choice(tuple(self.bases))
        data = self.bases[kind]
        if kind == ".parquet":
            data = random.choice(self.parquets)
        elif kind == ".jsonl" and random.random() < 0.5:
            rows = damaged_json(random, self.rows[:8])
            data = _json_lines(rows if isinstance(rows, list) else [rows])
        if random.random() < 0.3 and kind != ".parquet":
            data = data.decode().encode(random.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32", "utf-7")), "replace")
        suffix = random.choice(("", "", "", *_COMPRESS, ".zip"))
        before = random.random() < 0.7
        if before:
            data = damaged(random, data)
        name = f"a{kind}{suffix}"
        if suffix == ".zip":
            data, name = _zipped(random, f"in/a{kind}", data), "a.zip"
        elif suffix:
            data = _COMPRESS[suffix](data)
        if not before or random.random() < 0.1:
            data = damaged(random, data)
        path = self.folder / name
        path.write_bytes(data)
        self.size = len(data)
        try:
            reading = _reading(random, kind)
        except InputError:
            reading = ReadOptions()
        labels = random.choice((None, "label", "number", any_text(random), LabelColumns(("label", "number"), ";")))
        if kind == ".txt" and random.random() < 0.9:
            labels = None
        way = random.randrange(4)
        return lambda: self._read(path, reading, labels, way)

    def _read(self, path: Path, reading: ReadOptions, labels: str | LabelColumns | None, way: int) -> None:
        try:
            if way == 0:
                texts = read_documents(path, reading, labels).texts
            elif way == 1:
                texts = sample_texts(path, 5, 0, reading)
            else:
                pieces = list(iterate_documents(path, reading, labels, others=way == 2))
                texts = [text for piece in pieces for text in piece.texts]
                assert [row for piece in pieces for row in piece.rows] == list(range(1, len(texts) + 1))
            used_options(path, reading.format)
        finally:
            path.unlink()
        assert all(isinstance(text, str) for text in texts)
        for ids in self.tokenizer.encode(texts[:20]):
            assert len(ids) >= 1


def _reading(random: Random, kind: str) -> ReadOptions:
    options: dict = {}
    if random.random() < 0.2:
        options["text_columns"] = random.choice((("text", "label"), ("number",), (any_text(random),)))
    if random.random() < 0.1:
        options["columns"] = random.choice((("text", "label", "number"), ("text",), (any_text(random), "text")))
    if random.random() < 0.1:
        options["delimiter"] = random.choice((",", ";", "\t", "|", any_text(random)))
    if random.random() < 0.2:
        options["quotes"] = False
    if random.random() < 0.3:
        options["encoding"] = random.choice(
            ("utf-8", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7", "shift_jis", "gb18030", "idna",
             "punycode", "base64", "rot13", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs",
             any_text(random))
        )  # fmt: skip
    if random.random() < 0.2:
        options["split"] = random.choice(("blank", "line", "file", "auto"))
    if random.random() < 0.1:
        options["format"] = random.choice(("csv", "txt.gz", "parquet", "zip", "jsonl.zst"))
    return ReadOptions(**options)


def _delimited(rows: list[dict], delimiter: str) -> bytes:
    import csv

    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return file.getvalue().encode()


def _json_lines(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict], codec: str) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression=codec, row_group_size=15)
    return file.getvalue()


def _zipped(random: Random, name: str, data: bytes) -> bytes:
    file = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, data)
        if random.random() < 0.3:
            archive.writestr(random.choice(("in/b.csv", "../../b.txt", "/etc/x.csv", "__MACOSX/._a", "b.pdf")), data)
    return file.getvalue()
