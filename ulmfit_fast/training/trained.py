"""What the three stages return."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ulmfit_fast.nn.classifier import TextClassifier
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


@dataclass
class TrainedClassifier:
    """What ``finetune_classifier`` returns."""

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
