"""Model folders that version 0.1.0 wrote still load, and say what they said then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model

FOLDERS = Path(__file__).parents[1] / "data" / "folders_0_1_0"


@pytest.mark.parametrize("name", ["word", "subword", "backward"])
def test_classifier(name: str) -> None:
    expected = json.loads((FOLDERS / name / "expected.json").read_text(encoding="utf-8"))
    model, tokenizer, task = load_classifier(FOLDERS / name)
    assert task.labels == json.loads((FOLDERS / name / "labels.json").read_text(encoding="utf-8"))
    ids = [document.tolist() for document in tokenizer.encode(expected["texts"])]
    assert ids == expected["ids"]
    probabilities = predict_probabilities(model, tokenizer, task, expected["texts"])
    np.testing.assert_allclose(probabilities, expected["probabilities"], rtol=0, atol=1e-6)


def test_language_model() -> None:
    """Its ids have a loss that is finite, its weights are tied as they were."""
    model, tokenizer = load_language_model(FOLDERS / "language_model")
    ids = torch.tensor([int(token) for document in tokenizer.encode(["great film"]) for token in document])
    with torch.no_grad():
        output = model.eval()(ids.unsqueeze(1))
        logits = model.logits(output)
    assert logits.shape == (len(ids), 1, len(tokenizer))
    assert logits.isfinite().all()
