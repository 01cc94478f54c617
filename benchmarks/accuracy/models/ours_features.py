"""What a language model knows before any label: its pooled states of a text, and a logistic regression on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

from benchmarks.accuracy.embeddings import EmbeddingCache, Vectors
from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.models.logistic import fit_logistic
from benchmarks.accuracy.runs import weights_checksum
from ulmfit_fast.inference.pooled_vectors import language_model_vectors
from ulmfit_fast.training.trained import TrainedLanguageModel


class OursFeatures:
    """Last state, maximum and mean of the top layer's states [3 E] of each language model, side by side.

    Settings: like (unlabelled texts that say by how much each feature varies, beside the labelled ones); c (of the
    regression; 0: the best in a cross-validation).
    """

    def __init__(self, options: Options) -> None:
        settings = options.given(like=3_000, c=0.0)
        self.like, self.c = settings["like"], settings["c"] or None
        self._caches = [self._cache(options.cache, folder) for folder in options.lm]
        self.waived_seconds = 0.0

    def _cache(self, cache: Path, folder: Path) -> EmbeddingCache:
        loaded: list[TrainedLanguageModel] = []

        def encode(texts: list[str]) -> Vectors:
            if not loaded:
                loaded.append(TrainedLanguageModel.load(folder))
            return pooled_states(loaded[0], texts)

        return EmbeddingCache(cache / "embeddings" / f"pooled-{weights_checksum(folder)}", encode)

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        vectors = np.concatenate([cache.vectors(texts) for cache in self._caches], axis=1)
        self.waived_seconds = sum(cache.waived_seconds for cache in self._caches)
        return vectors

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        vectors = self._vectors(texts)
        like = vectors
        if self.like:
            others = unlabeled()
            drawn = np.random.default_rng(seed).permutation(len(others))[: self.like]
            like = np.concatenate([vectors, self._vectors([others[i] for i in drawn.tolist()])])
        self.scaler = StandardScaler().fit(like)
        self.regression, _ = fit_logistic(self.scaler.transform(vectors), labels, seed, self.c)
        self.classes = list(self.regression.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        found: Probabilities = self.regression.predict_proba(self.scaler.transform(self._vectors(texts)))
        return found


def pooled_states(trained: TrainedLanguageModel, texts: list[str]) -> Vectors:
    """[len(texts), 3 E]; a text's row does not depend on the others."""
    found: Vectors = language_model_vectors(trained.model, trained.tokenizer, texts)
    return found
