"""Classes from words alone: a language model says which word it expects beside a text.

A template puts a text and a word for the label into one sentence, "{text} It was {label}."; the label whose words make
the sentence most probable is predicted. A model prefers some words whatever the text; calibration takes that off.

Sources: Schick and Schütze, arXiv 2001.07676 (templates and verbalizers); Zhao et al., arXiv 2102.09690 (contextual
calibration); Zhou et al., arXiv 2309.17249 (calibration by a batch of texts).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.label_scores import label_scores
from ulmfit_fast.few_labels.label_words import TEMPLATES, LabelWords, check_label_words, check_templates, known_words
from ulmfit_fast.pipeline import finetune_lm
from ulmfit_fast.tasks.labels import as_labels
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.training.config import FinetuneLMConfig
from ulmfit_fast.training.trained import TrainedLanguageModel

NAME = "ZeroShotClassifier"
CALIBRATIONS = ("content-free", "texts", "none")
_CONTENT_FREE = ("N/A", "", "...")  # texts that say nothing
_FEW_SHOT = FinetuneLMConfig(epochs=5, lr=1e-3, drop_mult=0.5, batch_size=8, new_vocabulary=False)


class ZeroShotClassifier:
    """Predicts labels without having seen one, from a language model that reads forward.

    Args:
        language_model: what ``pretrain_lm`` or ``finetune_lm`` returned.
        verbalizers: for each label one word or several that stand for it in a template.
        templates: each with ``{text}`` and ``{label}``. Of several the mean of the probabilities counts.
        calibration: "content-free": labels that texts without content get are taken off. "texts": the mean over the
            texts of ``calibrate`` is, as if all labels were equally frequent there. "none".
        words: read only so many of each text, the last ones; 0: all.
        batch_size: texts at a time.
        progress: show bars.

    Attributes:
        classes_: the labels, sorted, in the order of ``predict_proba``'s columns.

    Raises:
        InputError: fewer than two labels, a label without words or with words of which the model knows none; a template
            without its two places; an unknown calibration; a backward model.
    """

    def __init__(
        self,
        language_model: TrainedLanguageModel,
        verbalizers: LabelWords,
        templates: Sequence[str] = TEMPLATES,
        calibration: str = "content-free",
        *,
        words: int = 0,
        batch_size: int = 32,
        progress: bool = False,
    ) -> None:
        if calibration not in CALIBRATIONS:
            raise InputError(f"{NAME}: calibration must be one of {', '.join(CALIBRATIONS)}, got {calibration!r}")
        self.language_model, self.templates = language_model, check_templates(NAME, templates)
        self.words, self.batch_size, self.progress = words, batch_size, progress
        self.verbalizers = known_words(
            NAME, check_label_words(NAME, "verbalizers", verbalizers), language_model.tokenizer
        )
        labels = list(self.verbalizers)
        self.calibration = calibration
        self.task_ = SingleLabel(labels)
        self.classes_ = np.asarray(labels)
        self._taken_off: np.ndarray | None = None  # [templates, labels], what calibration found

    def calibrate(self, texts: Iterable[str]) -> ZeroShotClassifier:
        """Take off what these texts get on the mean; for the calibration "texts". Some hundred are enough."""
        given = as_texts(NAME, texts)
        if not given:
            raise InputError(f"{NAME}: calibrate needs texts, and there are none")
        self._taken_off = self._mean_of(self._scores(given))
        return self

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        """Probability of each label, float32 [len(texts), len(classes_)].

        Raises:
            InputError: the calibration "texts" without ``calibrate`` before.
        """
        given = as_texts(NAME, texts)
        if not given:
            return np.empty((0, len(self.classes_)), np.float32)
        scores = self._scores(given)
        if self.calibration == "texts" and self._taken_off is None:
            raise InputError(f"{NAME}: the calibration 'texts' needs calibrate(texts) before")
        if self.calibration == "content-free" and self._taken_off is None:
            self._taken_off = self._mean_of(self._scores(list(_CONTENT_FREE)))
        if self.calibration != "none" and self._taken_off is not None:
            scores = scores - self._taken_off[:, None]
        each = [self.task_.activate(torch.from_numpy(own)).numpy() for own in scores]
        return np.mean(each, axis=0).astype(np.float32)

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """The most probable label of each text."""
        return self.task_.decode(self.predict_proba(texts))

    def score(self, texts: Sequence[str], labels: Iterable[Any]) -> float:
        """The share of texts whose prediction is right."""
        return float(np.mean(self.predict(texts) == np.asarray(list(labels))))

    def fit(
        self, texts: Iterable[str], labels: Iterable[Any], config: FinetuneLMConfig | None = None
    ) -> ZeroShotClassifier:
        """Go on with a few labels: the language model is fine-tuned on the templates filled with texts and their words.

        The given language model is not changed.

        Args:
            texts, labels: one of ``classes_`` each.
            config: of the fine-tuning; its vocabulary stays the model's. None: 5 epochs in small batches at a low rate.

        Raises:
            InputError: lengths that differ, a label without words, too little text.
        """
        given, said = as_texts(NAME, texts), as_labels(list(labels))
        if len(given) != len(said):
            raise InputError(f"{NAME}: texts and labels must have one length, got {len(given)} and {len(said)}")
        self.task_.encode(said, "labels")
        filled = [
            template.format(text=self._cut(text), label=word)
            for text, label in zip(given, said, strict=True)
            for template in self.templates
            for word in self.verbalizers[label]
        ]
        config = replace(config or _FEW_SHOT, new_vocabulary=False)
        self.language_model = finetune_lm(filled, self.language_model, config, progress=self.progress)
        self._taken_off = None
        return self

    def _scores(self, texts: list[str]) -> np.ndarray:
        """Without calibration, float64 [templates, texts, labels]."""
        cut = [self._cut(text) for text in texts]
        return label_scores(self.language_model, self.verbalizers, self.templates, cut, self.batch_size, self.progress)

    def _mean_of(self, scores: np.ndarray) -> np.ndarray:
        """The logarithm of the mean probability of each label, [templates, labels]."""
        probabilities = [self.task_.activate(torch.from_numpy(own)).numpy().mean(0) for own in scores]
        return np.log(np.maximum(np.stack(probabilities), 1e-30))

    def _cut(self, text: str) -> str:
        """The text as a template takes it: its braces mean nothing there, as it is an argument."""
        return " ".join(text.split()[-self.words :]) if self.words else text
