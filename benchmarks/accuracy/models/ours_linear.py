"""Ours: a linear classifier on a language model's states, as ``train-linear`` makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from benchmarks.accuracy.label_words import template_of, words_of
from benchmarks.accuracy.models import Options, Probabilities
from ulmfit_fast import LinearConfig, train_linear
from ulmfit_fast.inference.prediction import predict_probabilities


class OursLinear:
    """Settings: any field of LinearConfig; words (1: words for the labels teach it); int8 (1: predict by the quantized
    model, which takes a third of the time).
    """

    def __init__(self, options: Options) -> None:
        known = {f.name: f.default for f in fields(LinearConfig) if f.name != "seed"}
        given = options.given(**known, words=0, int8=0)
        self.words, self.int8 = bool(given.pop("words")), bool(given.pop("int8"))
        self.config, self.data_set = given, options.data_set
        (self.folder,) = options.lm
        self.waived_seconds = 0.0

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        by_words: dict[str, Any] = {}
        if self.words:
            by_words = {"label_words": words_of(self.data_set, labels), "templates": template_of(self.data_set)}
        known = set(texts)
        more = [text for text in unlabeled() if text not in known]
        config = LinearConfig(**self.config, seed=seed)
        self.trained = train_linear(texts, labels, self.folder, config, unlabeled=more, progress=False, **by_words)
        self.classes = [str(label) for label in self.trained.labels]

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        trained = self.trained
        model = trained.model.quantize() if self.int8 else trained.model
        found: Probabilities = predict_probabilities(model, trained.tokenizer, trained.task, list(texts))
        return found
