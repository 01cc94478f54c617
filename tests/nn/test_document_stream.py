"""Predictions on a document that is still coming."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import AWDLSTM, AWDLSTMConfig, TextClassifier, ULMFiTClassifier
from ulmfit_fast.text.batching import pack_documents


def make_model(**settings: object) -> TextClassifier:
    return TextClassifier(AWDLSTM(AWDLSTMConfig(40, 12, 20, 2)), 3, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_whole_document_at_any_moment(dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    tokens = torch.randint(0, 40, (700,))
    stream, begin = model.stream(), 0
    for length in (1, 2, 255, 256, 257, 600, 700):
        stream.feed(tokens[begin:length])
        begin = length
        with torch.no_grad():
            expected = model.eval()(pack_documents([tokens[:length]]))[0]
        model.train()  # the stream does not care
        assert torch.equal(stream.logits(), expected)
        assert stream.tokens_read == length
    assert model.training


def test_a_wrong_token_leaves_the_stream_usable_and_modes_stay() -> None:
    model = make_model().train()
    model.head[0].eval()
    stream = model.stream()
    stream.feed([3] * 256)
    with pytest.raises(ValueError, match=r"token ids must be in \[0, 40\), got 40"):
        stream.feed([40])
    stream.feed([3] * 300)
    assert len(stream._waiting) <= 256
    stream.logits()
    assert model.training
    assert not model.head[0].training
    with torch.no_grad():
        assert torch.equal(stream.logits(), model.eval()(pack_documents([torch.full((556,), 3)]))[0])


def test_and_then_changes_nothing() -> None:
    model = make_model().eval()
    stream = model.stream()
    stream.feed(range(10))
    before = stream.logits()
    with torch.no_grad():
        expected = model(pack_documents([torch.arange(15)]))[0]
    assert torch.equal(stream.logits(and_then=range(10, 15)), expected)
    assert torch.equal(stream.logits(), before)


def test_what_is_held_does_not_grow() -> None:
    stream = make_model().stream()
    stream.feed([3] * 5000)
    assert len(stream._waiting) <= 256
    held = [*stream._pooled, *(x for pair in stream._state for x in pair)]
    assert sum(x.numel() for x in held) < 1000


def test_a_window_at_the_beginning_is_kept_and_one_at_the_end_refused() -> None:
    model = make_model(pool_window=300, keep="first").eval()
    tokens = torch.randint(0, 40, (500,))
    with torch.no_grad():
        expected = model(pack_documents([tokens]))[0]
    stream = model.stream()
    stream.feed(tokens[:290])
    assert torch.equal(stream.logits(and_then=tokens[290:].tolist()), expected)
    stream.feed(tokens[290:])
    assert torch.equal(stream.logits(), expected)
    with pytest.raises(ValueError, match="needs the end"):
        make_model(pool_window=300).stream()


def test_nothing_read() -> None:
    with pytest.raises(ValueError, match="nothing has been read"):
        make_model().stream().logits()


def test_text_in_pieces_equals_the_estimators_prediction() -> None:
    texts, labels = make_task(60)
    estimator = ULMFiTClassifier(pretrain_config=PRETRAIN, classifier_config=CLASSIFY).fit(texts, labels)
    text = " ".join(texts[:9]) + "\n The END end end end"
    stream = estimator.stream()
    for begin in range(0, len(text), 7):
        stream.feed(text[begin : begin + 7])
        if begin % 70 == 0:
            expected = estimator.predict_proba([text[: begin + 7]])[0]
            assert np.array_equal(stream.predict_proba(), expected)
    assert stream.predict() == estimator.predict([text])[0]
