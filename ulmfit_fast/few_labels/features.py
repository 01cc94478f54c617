"""What a language model makes of a text, as features of a linear classifier.

Its pooled states, and, where words for the labels are known, which of them it expects in a sentence after the text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.label_scores import label_evidence
from ulmfit_fast.few_labels.label_words import TEMPLATES, LabelWords, check_label_words, check_templates, known_words
from ulmfit_fast.inference.pooled_vectors import language_model_vectors
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.training.trained import TrainedLanguageModel

# By so much a label's deviation is larger than a pooled feature's: the pull to zero hardly holds it back. On IMDb 30
# was better than 10 with 20 labels, by 0.011, no better with 100, and worse by 0.001 with 500.
EMPHASIS = 10.0


class Features:
    """Reads texts.

    Args:
        language_model: what ``pretrain_lm`` or ``finetune_lm`` returned.
        label_words: for each label one word or several; None: pooled states alone.
        templates: each with ``{text}`` and ``{label}``; None: ``TEMPLATES``.
        caller: named in messages.

    Attributes:
        words, templates: as checked; without ``label_words`` there are none.
        states: how many features are pooled states; they come first.
        emphasis: float64 [F], by what to multiply the features once their deviation is one.
        names: of the features.

    Raises:
        TypeError, InputError: as ``check_label_words``, ``check_templates`` and ``known_words``; templates alone.
    """

    def __init__(
        self, language_model: TrainedLanguageModel, label_words: LabelWords | None = None,
        templates: Sequence[str] | None = None, *, caller: str = "Features",
    ) -> None:  # fmt: skip
        self.language_model, self._caller = language_model, caller
        self.words: dict[Label, tuple[str, ...]] = {}
        self.templates: tuple[str, ...] = ()
        if label_words is not None:
            words = check_label_words(caller, "label_words", label_words)
            self.words = known_words(caller, words, language_model.tokenizer)
            self.templates = check_templates(caller, TEMPLATES if templates is None else templates)
        elif templates is not None:
            raise InputError(f"{caller}: templates do nothing without label_words; give both or neither")
        pooled = language_model.model.encoder.config.embedding_size
        self.states = 3 * pooled
        self.emphasis = np.concatenate([np.ones(self.states), np.full(len(self.words), EMPHASIS)])
        self.names = [f"{part}{i}" for part in ("last", "maximum", "mean") for i in range(pooled)]
        self.names += [f"words_{label}" for label in self.words]

    def read(
        self, texts: Sequence[str], batch_size: int = 64, precision: str = "float32", progress: bool = False
    ) -> np.ndarray:
        """float32 [len(texts), F], of each text its pooled states [3 E] and with words the evidence for each label [K].

        Args:
            texts: of any length.
            batch_size: texts at a time; it does not change the result.
            precision: of the pooled states, "float32" or "bfloat16"; words are scored in float32.
            progress: show bars.

        Raises:
            InputError: the model computes NaN.
        """
        trained, given = self.language_model, list(texts)
        pooled = language_model_vectors(
            trained.model, trained.tokenizer, given, batch_size, progress, precision, self._caller
        )
        if not self.words:
            return pooled
        evidence = label_evidence(trained, self.words, self.templates, given, batch_size, progress)
        return np.concatenate([pooled, evidence.astype(np.float32)], axis=1)
