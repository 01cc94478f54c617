"""Ours: a linear classifier on a language model's states, as ``train-linear`` makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch

from benchmarks.accuracy.label_words import template_of, words_of
from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.models.ours_features import cache_of, pooled_states
from ulmfit_fast import LinearConfig, train_linear


class OursLinear:
    """Settings: any field of LinearConfig; words (1: words for the labels teach it).

    The encoder is the language model's to the bit, so what it reads of test texts is read once for all draws.
    """

    def __init__(self, options: Options) -> None:
        known = {f.name: f.default for f in fields(LinearConfig) if f.name != "seed"}
        given = options.given(**known, words=0)
        self.words = bool(given.pop("words"))
        self.config, self.data_set = given, options.data_set
        if len(options.lm) != 1:
            raise ValueError(f"ours-linear takes one --lm, got {len(options.lm)}")
        self.folder = options.lm[0]
        self._read = cache_of(options.cache / "embeddings", self.folder, "pooled", pooled_states)

    @property
    def waived_seconds(self) -> float:
        return self._read.waived_seconds

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        by_words: dict[str, Any] = {}
        if self.words:
            by_words = {"label_words": words_of(self.data_set, labels), "templates": template_of(self.data_set)}
        config = LinearConfig(**self.config, seed=seed)
        self.trained = train_linear(
            texts, labels, self.folder, config, unlabeled=unlabeled(), progress=False, **by_words
        )
        self.classes = [str(label) for label in self.trained.labels]

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        trained = self.trained
        with torch.inference_mode():
            logits = trained.model.classify(torch.from_numpy(self._read.vectors(texts)))
        found: Probabilities = trained.task.activate(logits).numpy()
        return found
