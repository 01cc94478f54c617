"""fastai's own tokens, beside fastai."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import FINETUNE, PRETRAIN, make_task
from ulmfit_fast import Tokenizer, finetune_lm, pretrain_lm
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.fastai_2_rules import prepare
from ulmfit_fast.text.rules import SPECIAL_TOKENS
from ulmfit_fast.text.spacy_tokenizer import SpacyTokenizer
from ulmfit_fast.text.token_stream import TokenStream

pytest.importorskip("spacy", reason="spaCy is not installed: pip install 'spacy>=3.7'")

TEXTS = [
    "The U.S. film WASN'T good... don't, she'd said!!! I'd give it 8/10.<br /><br />Really.",
    "so soooo good good good good film, no No no; A B c D.E. NASA's McDonald Mc-X iPhone",
    "tabs\tand  double   spaces\n\nand lines\n \n  #hashtag C:\\path and/or <unk> &amp; &lt;b&gt; #39;s quot;x",
    "1,000.50 $5 5pm e-mail a@b.co http://x.org/y?z=1 :) :-( well-known 10km \u2014 caf\u00e9 \u4f60\u597d \u00a0 end",
    "xxbos xxmaj literally XXUP \u00c9TAT ABC1 A1 I a",
    "", "   ", "\n", "the the", "the the the", "ha ha ha ha\nha", "aaa bbb", "----- ===== ....",
]  # fmt: skip


def of_fastai(texts: list[str]) -> tuple[list[str], list[list[int]]]:
    """fastai's vocabulary of the texts and their ids by its own pipeline."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = pytest.importorskip("fastai.text.core", reason="fastai is not installed")
        from fastai.text.data import Numericalize, make_vocab
    import pandas as pd

    table, counts = core.tokenize_df(pd.DataFrame({"text": texts}), "text", n_workers=0)
    vocab = make_vocab(counts, min_freq=2)
    number = Numericalize(vocab)
    number.o2i = defaultdict(int, {word: i for i, word in enumerate(vocab) if word != "xxfake"})  # as of data sets
    return vocab, [number.encodes(tokens).tolist() for tokens in table["text"]]


def test_the_ids_of_fastai() -> None:
    vocab, expected = of_fastai(TEXTS)
    tokenizer = SpacyTokenizer(vocab)
    assert [ids.tolist() for ids in tokenizer.encode(TEXTS)] == expected
    assert sum(map(len, expected)) > 150
    assert len({i for ids in expected for i in ids}) > 20
    # The vocabulary that is made here is its own, but for what it fills it up with.
    made = Tokenizer.train("spacy", TEXTS, 60_000, 2)
    assert made.vocabulary == [word for word in vocab if word != "xxfake"]
    assert [ids.tolist() for ids in made.encode(TEXTS)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The film WAS fine", "xxmaj the film xxup was fine"),
        ("soooo", "s xxrep 4 o"),
        ("no no no, end", "xxwrep 3 no , end"),
        ("A I b", "a i b"),
        ("and/or a\\b", "and / or a \\ b"),
        ("x<br />y&lt;z...", "x\ny<z \u2026"),
    ],
)
def test_rules(text: str, expected: str) -> None:
    assert prepare(text).split() == ["xxbos", *expected.split()]


def test_kept_in_a_folder_backward_and_pickled(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train("spacy", TEXTS, 60, 1)
    expected = [ids.tolist() for ids in tokenizer.encode(TEXTS)]
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json())
    for other in (Tokenizer.load(tmp_path / "tokenizer.json"), pickle.loads(pickle.dumps(tokenizer))):
        assert isinstance(other, SpacyTokenizer)
        assert [ids.tolist() for ids in other.encode(TEXTS)] == expected
    backward = Tokenizer.from_json(tokenizer.reading("backward").to_json())
    assert [ids.tolist()[::-1] for ids in backward.encode(TEXTS)] == expected
    assert backward.tokens(TEXTS[0]) == tokenizer.tokens(TEXTS[0])
    assert len(tokenizer) == 60
    assert tokenizer.kind == "spacy"
    assert tokenizer.decode(next(tokenizer.encode(["xxmaj the"]))) == "the"
    assert tokenizer.can_be_token("film")
    assert not tokenizer.can_be_token("two words")
    assert next(SpacyTokenizer(["xxfake", "xxfake"]).encode(["xxfake"])).tolist() == [2, 0]


def test_models_of_it(tmp_path: Path) -> None:
    """Trained, gone on with over other texts' words, from a corpus on disk, too."""
    from dataclasses import replace

    texts, _ = make_task(40)
    lm = pretrain_lm(texts, replace(PRETRAIN, tokenizer="spacy"), output=tmp_path / "lm", progress=False)
    new = ["A wholly new vocabulary, isn't it?"] * 30
    tuned = finetune_lm(new, tmp_path / "lm", FINETUNE, progress=False)
    assert tuned.tokenizer.kind == "spacy"
    words = tuned.tokenizer.vocabulary
    assert "wholly" in words
    assert set(lm.tokenizer.vocabulary) <= set(words)
    assert words[: len(SPECIAL_TOKENS)] == list(SPECIAL_TOKENS)
    (tmp_path / "new.txt").write_text("\n\n".join(new))
    source = Source(tmp_path / "new.txt", tokenizer="spacy", min_frequency=1, base=lm.tokenizer)
    corpus, _ = tokenize_corpus(source, tmp_path / "corpus")
    assert corpus.tokenizer.vocabulary == words
    assert Corpus.load(tmp_path / "corpus").tokenizer.kind == "spacy"
    again = finetune_lm(corpus, tmp_path / "lm", FINETUNE, progress=False)
    assert again.tokenizer.vocabulary == words


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"type": "spacy"}, "lacks 'vocabulary'"),
        ({"type": "spacy", "language": "en", "vocabulary": [1]}, "no list of words"),
        ({"type": "spacy", "language": "xyz", "vocabulary": []}, "no tokenizer of the language 'xyz'"),
        ({"type": "spacy", "language": "en", "vocabulary": [], "direction": "up"}, "direction must be one of"),
    ],
)
def test_damaged_contents(contents: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Tokenizer.from_json(json.dumps(contents))


def test_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the tokenizer spacy reads whole texts"):
        TokenStream(SpacyTokenizer([]))
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ImportError, match=r"needs spaCy, which is not installed.*'\.\[spacy\]'"):
        SpacyTokenizer([])


def test_exports_are_refused(tmp_path: Path) -> None:
    """Another program could not split texts so."""
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    from dataclasses import replace

    from tests.tiny import CLASSIFY
    from ulmfit_fast import finetune_classifier
    from ulmfit_fast.interop.deployment_folder import save_onnx

    texts, labels = make_task(20)
    trained = finetune_classifier(texts, labels, None, replace(CLASSIFY, tokenizer="spacy", epochs=1), progress=False)
    with pytest.raises(InputError, match="the tokenizer spacy has no form that other programs read"):
        save_onnx(tmp_path / "out", [trained])
    assert not list((tmp_path / "out").glob("*"))
