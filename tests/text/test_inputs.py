"""What is read once only, folders, archives: everything is read, or said; nothing hangs."""

from __future__ import annotations

import gzip
import os
import threading
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from tests.without_rights import message_without_rights
from ulmfit_fast import InputError
from ulmfit_fast.text.files import iterate_documents, iterate_texts, read_documents, sample_texts
from ulmfit_fast.text.inputs import read_once
from ulmfit_fast.text.reading import ReadingNotice, ReadOptions


def fill(path: Path, content: bytes) -> None:
    """Write once into a pipe, from a thread, as another program would."""
    threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", b"text\na\nb\nc\n"), ("p.txt", b"a\nb\nc\n"), ("p.txt.gz", gzip.compress(b"a\nb\nc\n")),
        ("p.jsonl", b'{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n'),
        ("p.parquet", pd.DataFrame({"text": ["a", "b", "c"]}).to_parquet()),
    ],
)  # fmt: skip
def test_pipes(name: str, content: bytes, tmp_path: Path) -> None:
    """Read once, though a .txt file is looked through twice and a sample is drawn in two passes."""
    path = tmp_path / name
    os.mkfifo(path)
    for read in (lambda: read_documents(path).texts, lambda: sample_texts(path, 3, 0)):
        fill(path, content)
        assert read() == ["a", "b", "c"]
    with read_once():
        fill(path, content)
        assert list(iterate_texts(path)) == list(iterate_texts(path)) == ["a", "b", "c"]
        other: list[str] = []
        thread = threading.Thread(target=lambda: other.extend(iterate_texts(path)))
        thread.start()
        thread.join(20)
        assert other == ["a", "b", "c"]


def test_a_pipe_without_a_name(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"text;n\na;1\n")
    os.close(writing)
    path = Path(f"/dev/fd/{reading}")
    try:
        with pytest.raises(InputError, match=rf"{path}: unknown kind of file.* say --format"):
            read_documents(path)
        assert read_documents(path, ReadOptions(format="csv", delimiter=";")).texts == ["a"]
    finally:
        os.close(reading)


def test_devices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="/dev/zero: is a device"):
        read_documents("/dev/zero", ReadOptions(format="txt"))
    with pytest.raises(InputError, match="/dev/null: the file is empty"):
        read_documents("/dev/null", ReadOptions(format="txt"))


def test_linked_folders_are_read(tmp_path: Path) -> None:
    for name in ("t/a/1.txt", "other/deep/2.txt", "t/3.TXT"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "t" / "linked").symlink_to("../other")
    (tmp_path / "t" / "4.txt").symlink_to("../other/deep/2.txt")
    assert sorted(read_documents(tmp_path / "t").texts) == ["other/deep/2.txt"] * 2 + ["t/3.TXT", "t/a/1.txt"]
    (tmp_path / "other" / "round").symlink_to("..")
    with pytest.raises(InputError, match="a link to a folder that it lies in"):
        read_documents(tmp_path / "t")


def test_what_a_folder_holds_beside_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\n")
    (tmp_path / "b.csv").write_text("text\n")
    with pytest.raises(InputError, match=r"the folder holds no .txt files \(2 of .csv\); give one of them"):
        read_documents(tmp_path)
    (tmp_path / "1.txt").write_text("one")
    with pytest.warns(ReadingNotice, match=r"left out, as they are not .txt: 'a.csv', 'b.csv'"):
        read_documents(tmp_path)
    (tmp_path / "2.txt").symlink_to("gone")
    with pytest.raises(InputError, match=r"2.txt: a link to what does not exist"):
        read_documents(tmp_path)
    (tmp_path / "2.txt").unlink()
    os.mkfifo(tmp_path / "2.txt")
    with pytest.raises(InputError, match=r"2.txt: is neither a file nor a folder"):
        read_documents(tmp_path)


def test_no_permission_is_said(tmp_path: Path) -> None:
    """Of a file, a folder, one below it; none is called missing, empty or damaged."""
    for name in ("t/open/1.txt", "t/closed/2.txt", "a.csv", "a.csv.gz", "u/1.txt", "z.zip", "a.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\n")
    for name in ("t/closed", "a.csv", "a.csv.gz", "u/1.txt", "z.zip", "a.parquet"):
        (tmp_path / name).chmod(0)
    try:
        where = {"t": "t/closed", "u": "u/1.txt"}
        for given in ("t", "u", "a.csv", "a.csv.gz", "z.zip", "a.parquet", "t/closed/2.txt"):
            message = message_without_rights(tmp_path, lambda given=given: read_documents(given))
            assert message == f"InputError: {where.get(given, given)}: cannot be read (Permission denied)"
    finally:
        (tmp_path / "t" / "closed").chmod(0o755)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"\xe9.txt")).write_text("one")
    [documents] = iterate_documents(folder)
    assert documents.table is not None
    assert documents.table["file"].tolist() == ["?.txt"]
    pd.DataFrame({"text": ["two"]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(folder / os.fsdecode(b"\xe9.parquet"))
    assert read_documents(folder / os.fsdecode(b"\xe9.parquet")).texts == ["two"]


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_", ".").replace("SLASH", "/"), content)
    return path


def test_archives(tmp_path: Path) -> None:
    one = zipped(tmp_path / "one.zip", a_csv=b"text\nx\ny\n")
    assert read_documents(one).texts == ["x", "y"]
    two = zipped(tmp_path / "two.zip", dSLASHb_csv_gz=gzip.compress(b"text\nz\n"), dSLASHa_csv=b"n,text\n1,x\n2,y\n")
    assert read_documents(two).texts == ["x", "y", "z"]
    lines = zipped(tmp_path / "lines.zip", a_txt=b"one\ntwo\n")
    assert read_documents(lines).texts == ["one", "two"]
    many = zipped(tmp_path / "many.zip", b_txt=b"three\nlines\n", a_txt=b"one")
    assert read_documents(many).texts == ["one", "three\nlines\n"]
    [documents] = iterate_documents(many)
    assert documents.table is not None
    assert documents.table["file"].tolist() == ["a.txt", "b.txt"]
    parquet = zipped(tmp_path / "parquet.zip", a_parquet=pd.DataFrame({"text": ["p"]}).to_parquet())
    assert read_documents(parquet).texts == ["p"]


def test_archives_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"several kinds \(.csv, .txt\); unpack it"):
        read_documents(zipped(tmp_path / "a.zip", a_csv=b"text\n", b_txt=b"x"))
    with pytest.raises(InputError, match="no file that can be read"):
        read_documents(zipped(tmp_path / "b.zip", a_doc=b"text\n"))
    with pytest.warns(ReadingNotice, match=r"left out, as of no known kind: 'b.md'"):
        assert read_documents(zipped(tmp_path / "c.zip", a_csv=b"text\nx\n", b_md=b"x")).texts == ["x"]
    path = zipped(tmp_path / "d.zip", a_csv=b"text\n" + b"".join(b"text %d\n" % (i * i) for i in range(999)))
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + b"\xff\xff\xff" + whole[203:])
    with pytest.raises(InputError, match=r"d.zip: a.csv: damaged or truncated"):
        read_documents(path)
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match=r"d.zip: damaged or truncated"):
        read_documents(path)
    with pytest.raises(InputError, match=r"e.zip: b.csv: row 1: column 'label' is empty"):
        read_documents(zipped(tmp_path / "e.zip", a_csv=b"text,label\nx,y\n", b_csv=b"text,label\nx,\n"), None, "label")
