"""Corpora tokenized into files: the same ids as in memory, reused when nothing changed, on one core or several."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ulmfit_fast import InputError, Tokenizer
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.text import corpus as corpus_module
from ulmfit_fast.text import parallel
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.files import iterate_texts, read_documents
from ulmfit_fast.text.reading import ReadOptions

WORDS = ("the", "NASA", "probe Landed", "<br />", "asteroid", "sent", "3.5", "home home home", "wooooow")


def make_texts(count: int, words: int = 30) -> list[str]:
    random = np.random.default_rng(count)
    return [" ".join(random.choice(WORDS, words)) for _ in range(count)]


def write_text(path: Path, texts: list[str]) -> Path:
    path.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return path


def all_ids(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    assert corpus.valid is not None
    return tuple(part.read(0, int(part.offsets[-1])) for part in (corpus.train, corpus.valid))  # type: ignore[return-value]


def test_ids_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    texts = make_texts(100)
    corpus, figures = tokenize_corpus(Source(write_text(tmp_path / "a.txt", texts), min_frequency=1), tmp_path / "c")
    expected = Tokenizer.train_words(texts, min_frequency=1)
    assert corpus.tokenizer.vocabulary == expected.vocabulary
    encoded = {document.tobytes() for document in expected.encode(texts)}
    train, valid = ([
        part.read(part.offsets[i], part.offsets[i + 1]).tobytes() for i in range(len(part.offsets) - 1)
    ] for part in (corpus.train, corpus.valid) if part is not None)  # fmt: skip
    assert set(train) | set(valid) == encoded
    assert len(train) + len(valid) == 100
    assert 1 <= len(valid) <= 15
    assert figures["documents"] == 100
    assert figures["megabytes"] == pytest.approx(sum(map(len, texts)) / 1e6)


def test_opened_again_until_something_changes(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", make_texts(40))
    first, _ = tokenize_corpus(Source(path), tmp_path / "c")
    again, figures = tokenize_corpus(Source(path), tmp_path / "c")
    assert figures == {}
    assert all(np.array_equal(a, b) for a, b in zip(all_ids(first), all_ids(again), strict=True))
    with pytest.raises(InputError, match="holds a corpus of other texts or options; choose another folder or pass"):
        tokenize_corpus(Source(path, seed=1), tmp_path / "c")
    assert tokenize_corpus(Source(path), tmp_path / "c")[1] == {}
    assert tokenize_corpus(Source(path, seed=1), tmp_path / "c", overwrite=True)[1]
    write_text(path, make_texts(41))
    os.utime(path, ns=(1, 1))
    assert tokenize_corpus(Source(path, seed=1), tmp_path / "c", overwrite=True)[1]["documents"] == 41


def test_a_model_and_a_corpus_keep_out_of_each_others_folder(tmp_path: Path) -> None:
    """Both have a tokenizer.json."""
    path = write_text(tmp_path / "a.txt", make_texts(40))
    tokenize_corpus(Source(path), tmp_path / "c")
    with pytest.raises(InputError, match="holds a corpus; choose another folder for the model"):
        check_output_folder(tmp_path / "c", overwrite=True)
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds a model; choose another folder for the corpus"):
        tokenize_corpus(Source(path), tmp_path / "lm", overwrite=True)


def test_a_document_of_each_twenty_is_held_out(tmp_path: Path) -> None:
    for count in (20, 39, 200):
        path = write_text(tmp_path / "a.txt", make_texts(count))
        for seed in range(4):
            corpus, _ = tokenize_corpus(Source(path, seed=seed, min_frequency=1), tmp_path / "c", overwrite=True)
            assert corpus.valid is not None
            assert count // 20 <= len(corpus.valid.offsets) - 1 <= -(-count // 20)


def test_stopped_half_way_is_no_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "a.txt", make_texts(60))
    tokenize_corpus(Source(path), tmp_path / "c")
    real = corpus_module.write_token_file

    def stop_before_train(name: Path, *rest: Any) -> Any:
        if name.name == "train.tokens":
            raise KeyboardInterrupt
        return real(name, *rest)

    monkeypatch.setattr(corpus_module, "write_token_file", stop_before_train)
    with pytest.raises(KeyboardInterrupt):
        tokenize_corpus(Source(path, seed=1), tmp_path / "c", overwrite=True)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"train\.tokens is missing"):
        Corpus.load(tmp_path / "c")
    assert tokenize_corpus(Source(path), tmp_path / "c")[1]


def test_several_processes_give_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_CHARACTERS", 2000)
    path = write_text(tmp_path / "a.txt", make_texts(400))
    for processes in (1, 2):
        tokenize_corpus(Source(path), tmp_path / f"c{processes}", processes)
    for name in ("tokenizer.json", "train.tokens", "valid.tokens"):
        assert (tmp_path / "c1" / name).read_bytes() == (tmp_path / "c2" / name).read_bytes(), name


def test_own_validation_file_and_few_documents(tmp_path: Path) -> None:
    few = write_text(tmp_path / "few.txt", make_texts(5))
    corpus, _ = tokenize_corpus(Source(few), tmp_path / "c")
    assert corpus.valid is None
    valid = write_text(tmp_path / "valid.txt", make_texts(7))
    corpus, _ = tokenize_corpus(Source(few, valid), tmp_path / "c", overwrite=True)
    assert corpus.valid is not None
    assert (len(corpus.train.offsets), len(corpus.valid.offsets)) == (6, 8)


def test_text_that_is_tokenized_already(tmp_path: Path) -> None:
    path = tmp_path / "wiki.train.tokens"
    path.write_text(" \n = A Title = \n \n The <unk> cat sat .\n", encoding="utf-8")
    source = Source(path, reading=ReadOptions(split="file"), tokenizer="whitespace", min_frequency=1)
    corpus, _ = tokenize_corpus(source, tmp_path / "c")
    names = corpus.tokenizer.vocabulary
    assert [names[i] for i in corpus.train.read(0, int(corpus.train.offsets[-1]))] == (
        ["xxbos", "<eos>", "=", "A", "Title", "=", "<eos>", "<eos>", "The", "<unk>", "cat", "sat", ".", "<eos>"]
    )


def test_mixed_truncated_and_missing_folders(tmp_path: Path) -> None:
    tokenize_corpus(Source(write_text(tmp_path / "a.txt", make_texts(40))), tmp_path / "a")
    tokenize_corpus(Source(write_text(tmp_path / "b.txt", make_texts(40, 7)), min_frequency=9), tmp_path / "b")
    (tmp_path / "a" / "tokenizer.json").write_bytes((tmp_path / "b" / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match="of another run than the folder's other files"):
        Corpus.load(tmp_path / "a")
    (tmp_path / "b" / "train.tokens").unlink()
    with pytest.raises(InputError, match=r"train\.tokens is missing; make one: ulmfit-fast tokenize"):
        Corpus.load(tmp_path / "b")
    (tmp_path / "empty.csv").write_text("text\n\n")
    with pytest.raises(InputError, match="texts for validation are empty"):
        tokenize_corpus(Source(tmp_path / "a.txt", tmp_path / "empty.csv"), tmp_path / "c")
    with pytest.raises(InputError, match=r"gone\.txt: no such file"):
        tokenize_corpus(Source(tmp_path / "a.txt", tmp_path / "gone.txt"), tmp_path / "c")
    with pytest.raises(InputError, match="holds no text"):
        tokenize_corpus(Source(tmp_path / "empty.csv"), tmp_path / "c")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet", "txt", "folder", "jsonl.zst", "txt.xz"])
def test_texts_one_by_one_are_those_read_at_once(tmp_path: Path, kind: str) -> None:
    texts = ['one, "two"\nthree', "vier fünf", "", "six\u2028seven", "eight"]
    table = pd.DataFrame({"id": range(5), "text": texts})
    path = tmp_path / f"a.{kind}"
    if kind.startswith("csv"):
        table.to_csv(path, index=False)
    elif kind.startswith("jsonl"):
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    elif kind == "parquet":
        table.to_parquet(path)
    elif kind == "folder":
        path.mkdir()
        for i, text in enumerate(texts):
            (path / f"{i}.txt").write_text(text, encoding="utf-8")
    else:
        import lzma

        data = "\n\n".join(texts).encode()
        path.write_bytes(lzma.compress(data) if kind.endswith("xz") else data)
    assert list(iterate_texts(path)) == read_documents(path).texts


def test_bad_files_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,x\n2\n")
    with pytest.raises(InputError, match="line 3: 1 fields where the header has 2"):
        list(iterate_texts(tmp_path / "a.csv"))
    with pytest.raises(InputError, match=r"no column 'body'.*--text-column"):
        list(iterate_texts(tmp_path / "a.csv", ReadOptions(text_columns=("body",))))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text " * 9000)[:-20])
    with pytest.raises(InputError, match="damaged or truncated"):
        list(iterate_texts(tmp_path / "a.txt.gz"))
    with pytest.raises(InputError, match="no such file"):
        list(iterate_texts(tmp_path / "none.txt"))
