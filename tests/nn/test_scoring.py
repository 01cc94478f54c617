"""Scores of continuations against a pass over each whole text alone."""

from __future__ import annotations

import pytest
import torch

from tests.nn.test_generation import model_of
from ulmfit_fast import InputError
from ulmfit_fast.nn.scoring import score_continuations


@pytest.mark.parametrize("encoder", ["awd_lstm", "qrnn"])
def test_scores_are_those_of_whole_texts(encoder: str) -> None:
    model = model_of(encoder)
    texts = [[2], [2, 5, 9, 1, 7], [2, 3]]
    continuations = [[[4], [4, 5, 6]], [[8, 8], []], [[1], [2], [3]]]
    found = score_continuations(model.train(), texts, continuations)
    assert model.training
    model.eval()
    for text, own, scores in zip(texts, continuations, found, strict=True):
        assert scores.dtype == torch.float64
        for each, score in zip(own, scores.tolist(), strict=True):
            with torch.inference_mode():
                logits = model.logits(model(torch.tensor([*text, *each]).unsqueeze(1)))[:, 0].double()
            expected = sum(
                float(logits[len(text) - 1 + i].log_softmax(0)[token]) for i, token in enumerate(each)
            )  # fmt: skip
            assert score == pytest.approx(expected, abs=1e-4)
    assert model.score([2, 5], [[4], [6]]).tolist() == pytest.approx(
        score_continuations(model, [[2, 5]], [[[4], [6]]])[0].tolist()
    )


def test_all_next_tokens_have_the_probability_one() -> None:
    scores = model_of().score([2, 7, 7], [[token] for token in range(30)])
    assert float(scores.exp().sum()) == pytest.approx(1, abs=1e-5)


def test_bad_tokens() -> None:
    with pytest.raises(InputError, match="a text has no tokens"):
        model_of().score([], [[1]])
    with pytest.raises(InputError, match=r"must be in \[0, 30\), got 30"):
        model_of().score([2], [[30]])
