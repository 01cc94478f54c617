"""SentencePiece models as tokenizers, and fastai 1's text rules before them."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import fastai_1
from tests.tiny import make_task
from ulmfit_fast import Tokenizer
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.fastai_rules import prepare
from ulmfit_fast.text.sentencepiece_tokenizer import SentencePieceTokenizer
from ulmfit_fast.text.token_stream import TokenStream

sentencepiece = pytest.importorskip("sentencepiece")

FASTAI_ORDER = ("xxunk", "xxpad", "xxbos", "xxeos", "xxfld", "xxmaj", "xxup", "xxrep", "xxwrep")


def train(folder: Path, texts: list[str], **options: Any) -> list[str]:
    """``spm.model`` in the folder; returns its pieces."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(folder / "spm"), minloglevel=2, hard_vocab_limit=False,
        **options,
    )  # fmt: skip
    return [line.split("\t")[0] for line in (folder / "spm.vocab").read_text(encoding="utf-8").splitlines()]


def train_like_fastai(folder: Path, texts: list[str], vocab_size: int = 90) -> list[str]:
    """As fastai 1 has its models trained: its special tokens first, each as a word."""
    special = ["\u2581" + token for token in FASTAI_ORDER]
    prepared = [prepare(text, mark_field=True) for text in texts]
    return train(
        folder, prepared, vocab_size=vocab_size, unk_id=len(special), pad_id=-1, bos_id=-1, eos_id=-1,
        user_defined_symbols=special,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fastai_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fastai")
    train_like_fastai(folder, make_task(120)[0])
    return folder / "spm.model"


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    train(folder, make_task(120)[0], vocab_size=60)
    return folder / "spm.model"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The film WAS fine", "xxmaj the film xxup was fine"),
        ("so gooooood!!!!! a", "so g xxrep 6 o d xxrep 5 ! a"),
        ("no no no no no end", "xxwrep 5 no end"),
        ("a/b #1\nnew", "a / b # 1 new"),
        ("x<br />y &amp; z &lt;", "x y && z <"),
        ("1 @,@ 000 @.@ 5 <unk>", "1,000.5 xxunk"),
        ("I am McX A", "i am mcx a"),
        ("  spaced   out  ", "spaced out"),
    ],
)
def test_rules_of_fastai_1(text: str, expected: str) -> None:
    assert prepare(text, mark_field=False) == f"xxbos {expected}"
    assert prepare(text, mark_field=True) == f"xxbos xxfld 1 {expected}"


@fastai_1.needs_fastai_1
def test_rules_are_those_of_fastai_1_itself() -> None:
    names: dict[str, Any] = {"defaults": types.SimpleNamespace(), "ORTH": None, "spacy": None}
    exec("import re, html\nfrom typing import *\nListRules = Any\n" + fastai_1.source("transform.py"), names)
    defaults = names["defaults"]

    def theirs(text: str) -> str:
        text = f"xxbos {text}".strip(" ")
        for rule in defaults.text_pre_rules:
            text = rule(text)
        words = text.split()
        for rule in defaults.text_post_rules:
            words = rule(words)
        return " ".join(words)

    pieces = st.sampled_from([*'aAbB.!/#\\"\n 1', "no ", "No ", "&amp;", "quot;", "<br />", " @-@ ", "<unk>", "Ünï "])

    @settings(max_examples=2000, deadline=None)
    @given(st.lists(pieces, max_size=30).map("".join))
    def compare(text: str) -> None:
        assert prepare(text, mark_field=False) == theirs(text)

    compare()


def test_a_model_of_fastai(fastai_model: Path) -> None:
    tokenizer = SentencePieceTokenizer.read(fastai_model, "fastai", mark_field=True)
    own = sentencepiece.SentencePieceProcessor(model_file=str(fastai_model))
    assert tokenizer.vocabulary[:9] == list(FASTAI_ORDER)
    assert (tokenizer.unk_id, tokenizer.pad_id, tokenizer.bos_id, len(tokenizer)) == (9, 1, 2, own.get_piece_size())
    (ids,) = tokenizer.encode(["The FILM was fine ☃"])
    assert ids.tolist() == own.encode("xxbos xxfld 1 xxmaj the xxup film was fine ☃")
    assert ids.dtype == np.int32
    assert ids[0] == tokenizer.bos_id
    assert ids[-1] == tokenizer.unk_id
    assert 0 < tokenizer.unknown_share([ids]) < 1
    tokens = tokenizer.tokens("The FILM")
    assert tokens[0] == "xxfld"
    assert {"xxmaj", "xxup"} <= set(tokens)
    assert tokenizer.decode(ids).strip() == "1 the film was fine"


def test_a_plain_model_gets_the_special_tokens_before_it(plain_model: Path) -> None:
    tokenizer = SentencePieceTokenizer.read(plain_model)
    own = sentencepiece.SentencePieceProcessor(model_file=str(plain_model))
    assert tokenizer.vocabulary[:3] == ["xxunk", "xxpad", "xxbos"]
    assert len(tokenizer) == 9 + own.get_piece_size()
    (ids,) = tokenizer.encode(["the Film"])
    assert ids.tolist() == [2, *(9 + i for i in own.encode("the Film"))]
    assert tokenizer.decode(ids) == "the ilm"  # what is unknown is left out
    assert next(tokenizer.encode([""])).tolist() == [2]


def test_saved_and_loaded_and_turned_round(fastai_model: Path, tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer.read(fastai_model, "fastai", mark_field=True)
    texts = [*make_task(5)[0], "half a pair \ud800 of surrogates"]
    for one in (tokenizer, tokenizer.reading("backward")):
        (tmp_path / "tokenizer.json").write_text(one.to_json(), encoding="utf-8")
        for again in (Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(one))):
            assert isinstance(again, SentencePieceTokenizer)
            assert (again.to_json(), again.kind) == (one.to_json(), "sentencepiece")
            for mine, theirs in zip(again.encode(texts), one.encode(texts), strict=True):
                assert np.array_equal(mine, theirs)
    (ids,), (turned,) = tokenizer.encode(texts[:1]), tokenizer.reading("backward").encode(texts[:1])
    assert ids.tolist() == turned[::-1].tolist()


def test_what_it_refuses(fastai_model: Path, plain_model: Path, tmp_path: Path) -> None:
    tokenizer = SentencePieceTokenizer.read(fastai_model, "fastai")
    with pytest.raises(InputError, match="a SentencePiece model reads whole texts"):
        TokenStream(tokenizer)
    with pytest.raises(InputError, match="vocabulary of a SentencePiece model is settled"):
        tokenizer.over({}, 10, 1)
    with pytest.raises(InputError, match=r"spm\.model: this SentencePiece model lacks fastai's special tokens"):
        SentencePieceTokenizer.read(plain_model, "fastai")
    with pytest.raises(InputError, match="mark_field goes with rules 'fastai'"):
        SentencePieceTokenizer.read(fastai_model, mark_field=True)
    for options, message in (({"rules": "other"}, "rules must be one of"), ({"direction": "up"}, "direction must be")):
        with pytest.raises(InputError, match=message):
            SentencePieceTokenizer.read(plain_model, **options)
    (tmp_path / "broken.model").write_bytes(fastai_model.read_bytes()[:50])
    for name, message in (("broken.model", "not a SentencePiece model"), ("none.model", "no such file")):
        with pytest.raises(InputError, match=message):
            SentencePieceTokenizer.read(tmp_path / name)
    contents = json.loads(tokenizer.to_json())
    for damage in ({"model": "?"}, {"model": None}, {"rules": 3}):
        (tmp_path / "tokenizer.json").write_text(json.dumps(contents | damage), encoding="utf-8")
        with pytest.raises(InputError, match=r"tokenizer\.json: "):
            Tokenizer.load(tmp_path / "tokenizer.json")


def test_without_the_package(fastai_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text(SentencePieceTokenizer.read(fastai_model).to_json(), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"pip install --no-build-isolation '\.\[sentencepiece\]'"):
        Tokenizer.load(tmp_path / "tokenizer.json")
