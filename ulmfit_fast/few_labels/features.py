"""What a language model makes of a text, as features of a linear classifier.

Its pooled states, and, where words for the labels are known, which of them it expects in a sentence after the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ulmfit_fast.few_labels.zero_shot import TEMPLATES, ZeroShotClassifier
from ulmfit_fast.inference.pooled_vectors import language_model_vectors
from ulmfit_fast.training.trained import TrainedLanguageModel

# How many times larger than a pooled feature's a word's deviation is, so that the pull to zero hardly holds it back. On
# IMDb 30 was better than 10 with 20 labels, by 0.011, no better with 100, and worse by 0.001 with 500.
EMPHASIS = 10.0


class Features:
    """Reads texts.

    Args:
        language_model: what ``pretrain_lm`` or ``finetune_lm`` returned.
        words: for each label one word or several, as ``ZeroShotClassifier`` takes them; None: pooled states alone.
        templates: each with ``{text}`` and ``{label}``.
        batch_size: texts at a time; it does not change the result.
        precision: of the pooled states, "float32" or "bfloat16".
        progress: show bars.

    Attributes:
        emphasis: float64 [F], by what to multiply the features once their deviation is one.
        names: of the features.

    Raises:
        InputError: words or templates that ``ZeroShotClassifier`` refuses.
    """

    def __init__(
        self, language_model: TrainedLanguageModel, words: Mapping[Any, str | Sequence[str]] | None = None,
        templates: Sequence[str] = TEMPLATES, *, batch_size: int = 64, precision: str = "float32",
        progress: bool = False,
    ) -> None:  # fmt: skip
        self.language_model, self.batch_size = language_model, batch_size
        self.precision, self.progress = precision, progress
        self._by_words = None if words is None else ZeroShotClassifier(
            language_model, words, templates, "none", batch_size=batch_size, progress=progress
        )  # fmt: skip
        pooled = language_model.model.encoder.config.embedding_size
        labels = [] if self._by_words is None else list(self._by_words.classes_)
        self.emphasis = np.concatenate([np.ones(3 * pooled), np.full(len(labels), EMPHASIS)])
        self.names = [f"{part}{i}" for part in ("last", "maximum", "mean") for i in range(pooled)]
        self.names += [f"words_{label}" for label in labels]

    def read(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), F], of each text its pooled states [3 E] and with words the evidence for each label [K].

        Raises:
            InputError: the model computes NaN.
        """
        trained, given = self.language_model, list(texts)
        pooled = language_model_vectors(
            trained.model, trained.tokenizer, given, self.batch_size, self.progress, self.precision
        )
        if self._by_words is None:
            return pooled
        return np.concatenate([pooled, self._by_words.evidence(given).astype(np.float32)], axis=1)
