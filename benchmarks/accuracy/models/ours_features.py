"""What a language model knows before any label: its pooled states of a text, and a logistic regression on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sklearn.preprocessing import StandardScaler

from benchmarks.accuracy.embeddings import EmbeddingCache, Vectors
from benchmarks.accuracy.label_words import template_of, words_of
from benchmarks.accuracy.models import Options, Probabilities
from benchmarks.accuracy.models.logistic import fit_logistic
from benchmarks.accuracy.runs import weights_checksum
from ulmfit_fast.few_labels.features import EMPHASIS
from ulmfit_fast.few_labels.label_scores import label_evidence
from ulmfit_fast.few_labels.label_words import check_label_words, known_words
from ulmfit_fast.inference.pooled_vectors import language_model_vectors
from ulmfit_fast.training.trained import TrainedLanguageModel


class OursFeatures:
    """Last state, maximum and mean of the top layer's states [3 E] of each language model, side by side.

    Settings: like (unlabelled texts that say by how much each feature varies, beside the labelled ones); c (of the
    regression; 0: the best in a cross-validation); words (1: a feature more for each label, how much the first language
    model expects its words after the text).
    """

    def __init__(self, options: Options) -> None:
        settings = options.given(like=3_000, c=0.0, words=0)
        self.like, self.c, self.words = settings["like"], settings["c"] or None, bool(settings["words"])
        self.data_set, self.folders, self.cache = options.data_set, options.lm, options.cache / "embeddings"
        self._caches = [cache_of(self.cache, folder, "pooled", pooled_states) for folder in options.lm]
        self._of_words: EmbeddingCache | None = None
        self._labels = 0  # columns of words
        self.waived_seconds = 0.0

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        caches = [*self._caches, *([] if self._of_words is None else [self._of_words])]
        vectors = np.concatenate([cache.vectors(texts) for cache in caches], axis=1)
        self.waived_seconds = sum(cache.waived_seconds for cache in caches)
        return vectors

    def _read_words(self, labels: Sequence[str]) -> None:
        """From here on vectors end with the evidence for each label."""
        words, template = words_of(self.data_set, labels), template_of(self.data_set)
        self._labels = len(words)
        content = json.dumps([{label: list(own) for label, own in words.items()}, template], sort_keys=True)

        def evidence(trained: TrainedLanguageModel, texts: list[str]) -> Vectors:
            known = known_words("ours-features", check_label_words("ours-features", "words", words), trained.tokenizer)
            return label_evidence(trained, known, template, texts).astype(np.float32)

        name = f"words-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
        self._of_words = cache_of(self.cache, self.folders[0], name, evidence)

    def fit(self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int) -> None:
        if self.words:
            self._read_words(labels)
        vectors = self._vectors(texts)
        like = vectors
        if self.like:
            others = unlabeled()
            drawn = np.random.default_rng(seed).permutation(len(others))[: self.like]
            like = np.concatenate([vectors, self._vectors([others[i] for i in drawn.tolist()])])
        self.scaler = StandardScaler().fit(like)
        if self.words:
            self.scaler.scale_[-self._labels :] /= EMPHASIS
        self.regression, _ = fit_logistic(self.scaler.transform(vectors), labels, seed, self.c)
        self.classes = list(self.regression.classes_)

    def predict_proba(self, texts: Sequence[str]) -> Probabilities:
        found: Probabilities = self.regression.predict_proba(self.scaler.transform(self._vectors(texts)))
        return found


def cache_of(
    cache: Path, folder: Path, name: str, read: Callable[[TrainedLanguageModel, list[str]], Vectors]
) -> EmbeddingCache:
    """What a language model reads of texts, on disk; the model is loaded when a text is not there."""
    loaded: list[TrainedLanguageModel] = []

    def encode(texts: list[str]) -> Vectors:
        if not loaded:
            loaded.append(TrainedLanguageModel.load(folder))
        return read(loaded[0], texts)

    return EmbeddingCache(cache / f"{name}-{weights_checksum(folder)}", encode)


def pooled_states(trained: TrainedLanguageModel, texts: list[str]) -> Vectors:
    """[len(texts), 3 E]; a text's row does not depend on the others."""
    found: Vectors = language_model_vectors(trained.model, trained.tokenizer, texts)
    return found
