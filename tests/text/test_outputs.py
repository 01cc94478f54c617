"""Where tables are written: through links, into pipes, compressed; modes; full disks."""

from __future__ import annotations

import gzip
import os
import resource
import threading
from pathlib import Path

import pandas as pd
import pytest

from tests.without_rights import message_without_rights
from ulmfit_fast import InputError
from ulmfit_fast.text.files import read_documents
from ulmfit_fast.text.table_writer import TableWriter, write_table

TABLE = pd.DataFrame({"text": ["a, b", "c\td", "é"], "label": ["x", "1", "x"]})


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    target, link = tmp_path / "other" / "target", tmp_path / "link.csv"
    link.symlink_to("other/target")  # which is not there yet
    write_table(TABLE, link)
    assert (link.is_symlink(), target.is_symlink()) == (True, False)
    assert TableWriter(link).output.exists()
    write_table(TABLE.head(1), link)
    assert read_documents(link).texts == ["a, b"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link.csv", "other", "target"]
    link.unlink()
    link.symlink_to("gone/target")
    with pytest.raises(InputError, match=r"link.csv: not a file in an existing folder"):
        write_table(TABLE, link)


def test_modes(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_table(TABLE, tmp_path / "a.csv")
        assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o640
        (tmp_path / "a.csv").chmod(0o604)  # that of a file which is replaced stays
        write_table(TABLE, tmp_path / "a.csv")
        assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(before)


@pytest.mark.parametrize("compression", ["", ".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_compressed(kind: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{kind}{compression}"
    write_table(TABLE, path)
    documents = read_documents(path, label_column="label")
    assert (documents.texts, documents.labels) == (TABLE["text"].tolist(), TABLE["label"].tolist())
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_bytes_again(tmp_path: Path) -> None:
    write_table(TABLE, tmp_path / "a.csv.gz")
    write_table(TABLE, tmp_path / "b.csv.gz")
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert pd.read_csv(tmp_path / "a.csv.gz", dtype=str).equals(TABLE.astype(str))


@pytest.mark.parametrize("format", [None, "jsonl", "csv.gz"])
def test_pipes(format: str | None, tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", tmp_path / f"found.{format or 'csv'}"
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: found.write_bytes(pipe.read_bytes()))
    thread.start()
    writer = TableWriter(pipe, format)
    assert not writer.output.exists()
    writer.expect(TABLE)
    with writer:
        writer.write(TABLE)
    thread.join(20)
    assert read_documents(found).texts == TABLE["text"].tolist()
    assert pipe.is_fifo()


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    write_table(TABLE.head(1), "-")
    assert capfd.readouterr().out == 'text,label\n"a, b",x\n'


def test_a_name_that_does_not_tell_the_kind(tmp_path: Path) -> None:
    for name in ("out", "out.2024", "out.doc", "out.json", "out.zip", "out.csv.zip", "out.txt"):
        with pytest.raises(InputError, match="cannot write this kind of file"):
            TableWriter(tmp_path / name)
    assert TableWriter(tmp_path / "out.2024", "jsonl").output.path.name == "out.2024"


@pytest.mark.parametrize("kind", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_a_full_disk_is_named_with_its_file(kind: str, tmp_path: Path) -> None:
    """And the old file stays, with nothing beside it."""
    path = tmp_path / f"out{kind}"
    write_table(TABLE, path)
    before = path.read_bytes()
    large = pd.DataFrame({"text": [os.urandom(1000).hex() for _ in range(2000)]})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, limit[1]))  # a full disk fails at the same calls
    try:
        with pytest.raises(InputError, match=rf"out{kind}: cannot be written \(.*File too large"):
            write_table(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_device_that_is_full() -> None:
    writer = TableWriter("/dev/full")
    with pytest.raises(InputError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        write_table(TABLE, "/dev/full")
    assert not writer.output.exists()


def test_a_reader_that_has_what_it_wanted() -> None:
    """As in ``predict --output - | head``: the program above tells that from other failures."""
    reading, writing = os.pipe()
    before = os.dup(1)
    try:
        os.dup2(writing, 1)
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            write_table(TABLE, "-")
    finally:
        os.dup2(before, 1)
        os.close(writing)
        os.close(before)


def test_a_folder_without_permission(tmp_path: Path) -> None:
    message = message_without_rights(tmp_path, lambda: TableWriter("out.csv"))
    assert message == "InputError: out.csv: no permission to write there"


def test_nul_characters_are_not_written_to_lines(tmp_path: Path) -> None:
    """Readers refuse them there; the other kinds hold them."""
    table = pd.DataFrame({"text": ["a\0b"]})
    for name, expected in (("a.csv", "a\ufffdb"), ("a.tsv", "a\ufffdb"), ("a.jsonl", "a\0b"), ("a.parquet", "a\0b")):
        write_table(table, tmp_path / name)
        assert read_documents(tmp_path / name).texts == [expected]


def test_compressed_output_is_whole_only_at_the_end(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "a.csv.gz")
    writer.expect(TABLE)
    with writer:
        writer.write(TABLE)
        assert not (tmp_path / "a.csv.gz").exists()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).count(b"\n") == 4
