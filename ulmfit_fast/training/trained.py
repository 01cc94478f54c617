"""What the three stages return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ulmfit_fast.inference.generation import generate_text
from ulmfit_fast.inference.scoring import score_text
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.generation import Sampling
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.storage.model_folder import load_classifier, load_language_model
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.history import History


@dataclass
class TrainedLanguageModel:
    """What ``pretrain_lm`` and ``finetune_lm`` return."""

    model: LanguageModel
    tokenizer: Tokenizer
    history: History

    @classmethod
    def load(cls, folder: str | Path) -> TrainedLanguageModel:
        """Read a language model's folder. Raises InputError if it is missing, damaged or of another kind."""
        return cls(*load_language_model(folder), History())

    def generate(
        self, prompt: str = "", max_tokens: int = 200, sampling: Sampling | None = None, **options: Any
    ) -> str:
        """What the model writes after ``prompt``; arguments as ``inference.generation.stream_text``, which streams."""
        return generate_text(self.model, self.tokenizer, prompt, max_tokens, sampling, **options)

    def score(self, text: str, continuations: Sequence[str]) -> np.ndarray:
        """The logarithm of the probability of each continuation after ``text``, float64 [n], in nats.

        A continuation of several words is less probable than one of them: compare such as are of one length.
        """
        return score_text(self.model, self.tokenizer, text, continuations)


@dataclass
class TrainedClassifier:
    """What ``finetune_classifier`` and ``train_linear`` return."""

    model: TextClassifier
    tokenizer: Tokenizer
    task: Task
    history: History

    @property
    def labels(self) -> list[Label]:
        """In the order of the model's outputs."""
        return self.task.labels

    @classmethod
    def load(cls, folder: str | Path) -> TrainedClassifier:
        """Read a classifier's folder. Raises InputError if it is missing, damaged or of another kind."""
        return cls(*load_classifier(folder), History())
