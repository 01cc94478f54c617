"""The benchmark of explanations still runs, and words that explain a prediction count more than others."""

from __future__ import annotations

from pathlib import Path

from benchmarks.deletion_curves import SHARES, curves
from tests.tiny import make_task
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.explain import METHODS


def test_deleting_what_explains_lowers_the_probability_faster(models: Path) -> None:
    texts = [text for text in make_task(30, seed=5)[0] if len(text.split()) > 12][:8]
    found = curves(Classifiers.load([models / "clf"], "cpu"), texts, METHODS[:1])
    assert found["random"].shape == (8, len(SHARES))
    for method in METHODS[:1]:
        assert found[method].mean() < found["random"].mean()
