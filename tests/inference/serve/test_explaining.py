"""``/explain``: the numbers of ``explain``; what is too long or too much is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.inference.serve.conftest import Client
from tests.tiny import CLASSIFY, make_task
from ulmfit_fast import finetune_classifier
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.explain import explain
from ulmfit_fast.inference.serve.limits import Limits


def test_explanations_are_those_of_explain(models: Path, serve: Callable[..., Client]) -> None:
    classifiers = Classifiers.load([models / "clf"], "cpu")
    client = serve({"clf": classifiers}, Limits(explained_characters=30))
    status, body, _ = client.ask("/explain", {"text": "a superb film", "label": "bad"})
    expected = explain(classifiers.members, "a superb film", label="bad").to_dict()
    assert (status, body) == (200, {"model": "clf", **expected})
    status, body, _ = client.ask("/explain", {"text": "a superb film", "method": "chunks"})
    assert status == 200
    assert body["parts"][0]["share_of_maximum"] == pytest.approx(1)
    for wrong, status, reason in (
        ({"text": "a", "method": "magic"}, 422, "method must be one of integrated_gradients"),
        ({"text": "a", "label": "neutral"}, 422, "no label 'neutral'; there are bad, good"),
        ({"text": "a" * 31}, 413, "31 characters, at most 30 are explained here"),
        ({"text": "a", "model": "other"}, 404, "no model 'other'"),
        ({}, 422, "the field 'text' is missing"),
    ):
        found = client.ask("/explain", wrong)
        assert found[0] == status
        assert reason in found[1]["detail"]
    assert client.ask("/predict", {"texts": "a superb film"})[0] == 200


def test_attention_is_shown_where_a_model_has_it(serve: Callable[..., Client]) -> None:
    texts, labels = make_task(16)
    trained = finetune_classifier(texts, labels, None, replace(CLASSIFY, pooling="attention", attention_heads=2))
    members = [(trained.model, trained.tokenizer, trained.task)]
    client = serve({"clf": Classifiers(members)})
    status, body, _ = client.ask("/explain", {"text": "a superb film", "method": "attention"})
    expected = json.loads(json.dumps(explain(members, "a superb film", "attention").to_dict()))
    assert (status, body) == (200, {"model": "clf", **expected})
    assert "attention" in client.ask("/models")[1][0]["explains"]
