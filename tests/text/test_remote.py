"""Texts and corpora at addresses are those of files here; what is wrong there is one line that gives nothing away."""

from __future__ import annotations

import functools
import gzip
import http.server
import io
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line
from tests.text.test_corpus import make_texts, write_text
from ulmfit_fast import InputError
from ulmfit_fast.cli.main import main
from ulmfit_fast.text import remote_corpus
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.files import iterate_texts, read_documents
from ulmfit_fast.text.inputs import read_once
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.remote import is_address, shown_path

fsspec = pytest.importorskip("fsspec")

TABLE = "text,label\none two,a\nthree,b\n"


@pytest.fixture
def store() -> Iterator[Any]:
    """An empty object storage, in memory."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ULMFIT_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_an_address() -> None:
    assert all(map(is_address, ("s3://b/a.csv", Path("s3://b/a.csv"), Path("file:///tmp/a.txt"), Path("memory://a"))))
    assert not any(map(is_address, ("a.csv", "/s3:/b", "C:/a.csv", "-", Path("./a:b/c"), "s3:b", "a::b")))
    assert shown_path(Path("s3://b/a.csv")) == "s3://b/a.csv"
    assert shown_path(Path("file:///tmp/a.txt")) == "file:///tmp/a.txt"
    assert shown_path(Path("https://me:secret@h/a.csv?key=secret")) == "https://me:...@h/a.csv"


def test_every_kind_of_file(store: Any) -> None:
    import pandas as pd

    table = pd.DataFrame({"text": ["one two", "three"], "label": ["a", "b"]})
    parquet, archive = io.BytesIO(), io.BytesIO()
    table.to_parquet(parquet)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/one.csv", TABLE)
    for name, data in {
        "t.csv": TABLE.encode(), "t.csv.gz": gzip.compress(TABLE.encode()), "t.parquet": parquet.getvalue(),
        "t.jsonl": table.to_json(orient="records", lines=True).encode(), "t.zip": archive.getvalue(),
    }.items():  # fmt: skip
        store.pipe(f"/b/{name}", data)
        found = read_documents(f"memory://b/{name}", label_column="label")
        assert (found.texts, found.labels, found.source) == (["one two", "three"], ["a", "b"], f"memory://b/{name}")
    store.pipe("/b/noname", TABLE.encode())
    assert read_documents("memory://b/noname", ReadOptions(format="csv")).texts == ["one two", "three"]


def test_a_folder_is_its_text_files(store: Any) -> None:
    store.pipe("/b/f/2.txt", b"second")
    store.pipe("/b/f/deep/3.txt.gz", gzip.compress(b"third"))
    store.pipe("/b/f/1.txt", b"first")
    store.pipe("/b/f/notes.pdf", b"%PDF")
    (piece,) = _pieces("memory://b/f")
    assert piece.texts == ["first", "second", "third"]
    assert list(piece.table["file"]) == ["1.txt", "2.txt", "deep/3.txt.gz"]
    store.pipe("/b/g/notes.pdf", b"%PDF")
    with pytest.raises(InputError, match=r"memory://b/g: the folder holds no \.txt files"):
        list(iterate_texts("memory://b/g"))
    store.pipe("/b/f/4.txt", b"\xff\xfe\xfd")
    with pytest.raises(InputError, match=r"memory://b/f/4\.txt: "):
        list(iterate_texts("memory://b/f"))


def _pieces(path: str) -> list[Any]:
    from ulmfit_fast.text.files import iterate_documents

    return list(iterate_documents(path))


def test_one_copy_for_all_readers(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("/b/a.txt", b"one\ntwo\n")
    opened, real = [], type(store).open

    def counting(self: Any, path: str, *arguments: Any, **named: Any) -> Any:
        opened.append(path)
        return real(self, path, *arguments, **named)

    monkeypatch.setattr(type(store), "open", counting)
    with read_once():
        assert [list(iterate_texts("memory://b/a.txt")) for _ in range(3)] == [["one", "two"]] * 3
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("memory://b/none.csv", r"memory://b/none\.csv: no such file or folder"),
        ("nothing://b/a.csv", r"nothing://b/a\.csv: cannot be read \(ValueError: Protocol not known"),
        ("memory://b/a", r"memory://b/a: unknown kind of file"),
        ("zip://a.csv::memory://b/a.zip", "addresses within addresses"),
        ("https://me:secret@localhost/a.csv", r"https://me:\.\.\.@localhost/a\.csv: an address must hold no password"),
    ],
)
def test_faults_are_named(store: Any, address: str, message: str) -> None:
    store.pipe("/b/a", b"x")
    with pytest.raises(InputError, match=message) as raised:
        list(iterate_texts(address))
    assert "secret" not in str(raised.value)


def test_a_file_that_is_cut_off_is_refused(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe("/b/a.txt", b"one\ntwo\n")
    info = type(store).info
    monkeypatch.setattr(type(store), "info", lambda self, path, **named: info(self, path) | {"size": 99})
    with pytest.raises(InputError, match=r"memory://b/a\.txt: has 99 bytes, of which 8 came"):
        list(iterate_texts("memory://b/a.txt"))


@pytest.mark.parametrize("missing", ["fsspec", "s3fs"])
def test_what_is_not_installed_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"s3://b/a\.csv: .*{missing}"):
        list(iterate_texts("s3://b/a.csv"))


def test_a_web_server(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    (tmp_path / "a.csv").write_text(TABLE * 1)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}"
        assert read_documents(f"{place}/a.csv?key=secret").texts == ["one two", "three"]
        with pytest.raises(InputError, match=r"none\.csv: no such file or folder") as raised:
            read_documents(f"{place}/none.csv?key=secret")
        assert "secret" not in str(raised.value)
        server.shutdown()
    with pytest.raises(InputError, match=r"a\.csv: cannot be read \(Client") as raised:
        read_documents(f"{place}/a.csv?key=secret")
    assert "secret" not in str(raised.value)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


def test_a_corpus_of_texts_there_is_that_of_the_file(store: Any, tmp_path: Path) -> None:
    here = write_text(tmp_path / "a.txt", make_texts(60))
    store.pipe("/b/a.txt", here.read_bytes())
    there = Path("memory://b/a.txt")
    corpora = [tokenize_corpus(Source(p, min_frequency=1), tmp_path / n)[0] for p, n in ((here, "h"), (there, "t"))]
    ids = [corpus.train.read(0, int(corpus.train.offsets[-1])) for corpus in corpora]
    assert np.array_equal(*ids)
    _, figures = tokenize_corpus(Source(there, min_frequency=1), tmp_path / "t")
    assert figures == {}  # it was there
    store.pipe("/b/a.txt", here.read_bytes() + b"more\n")
    with pytest.raises(InputError, match="holds a corpus of other texts or options"):
        tokenize_corpus(Source(there, min_frequency=1), tmp_path / "t")


def test_a_corpus_folder_there_is_copied_once(
    store: Any, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source(write_text(tmp_path / "a.txt", make_texts(100)), min_frequency=1)
    here, _ = tokenize_corpus(source, tmp_path / "c", shard_bytes=3000)
    store.put(f"{tmp_path}/c/", "/b/c/", recursive=True)
    copied, real = [], remote_corpus.copy_file

    def counting(folder: Path, name: str, target: Path) -> None:
        copied.append(name)
        real(folder, name, target)

    monkeypatch.setattr(remote_corpus, "copy_file", counting)
    for expected in (len(list((tmp_path / "c").iterdir())) - len(list((tmp_path / "c").glob(".*"))), 2):
        copied.clear()
        found = Corpus.load("memory://b/c")
        assert found.checksum() == here.checksum()
        assert len(copied) == expected, copied  # the second time the manifest and the tokenizer
    shard = next(cache.rglob("train.00001.tokens"))
    shard.unlink()  # as where a run was interrupted
    copied.clear()
    assert Corpus.load("memory://b/c").checksum() == here.checksum()
    assert "train.00001.tokens" in copied
    rest = [*SIZES[:-2], *SMALL, "--batch-size", "2"]
    assert main(["pretrain-lm", "memory://b/c", "--output", str(tmp_path / "lm"), *rest]) == 0
    capsys.readouterr()
    assert main(["pretrain-lm", "memory://b/none", "--output", str(tmp_path / "none"), *rest]) == 2
    assert_one_line(capsys, "memory://b/none: no such file or folder")
