"""What is compared: each a small file with one interface."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Probabilities = npt.NDArray[np.floating[Any]]


class Model(Protocol):
    """Learns from labelled texts, and from others without labels where it can.

    ``unlabeled`` is called by those who use it: reading it takes time. After ``fit``, ``classes`` are the labels in the
    order of the columns of ``predict_proba``. ``waived_seconds`` are seconds of work whose results lay in a cache, in
    training and prediction so far: added to what a run took.
    """

    classes: list[str]
    waived_seconds: float

    def fit(
        self, texts: Sequence[str], labels: Sequence[str], unlabeled: Callable[[], list[str]], seed: int
    ) -> None: ...

    def predict_proba(self, texts: Sequence[str]) -> Probabilities: ...


@dataclass(frozen=True)
class Options:
    """What a model is made with.

    Args:
        settings: by name, the model's own; one that it does not know is an error.
        language: of the texts, "en" or "zh".
        data_set: its name.
        lm: folders of language models that were fine-tuned on the task's texts.
        pretrained: folders of language models that were not.
        cache: folder for what can be computed once.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    language: str = "en"
    data_set: str = ""
    lm: tuple[Path, ...] = ()
    pretrained: tuple[Path, ...] = ()
    cache: Path = Path("build/accuracy")

    def given(self, **defaults: Any) -> dict[str, Any]:
        """The settings over their defaults. Raises ValueError for others."""
        if unknown := self.settings.keys() - defaults.keys():
            raise ValueError(f"--set {', '.join(sorted(unknown))}: this model knows {', '.join(defaults) or 'none'}")
        return defaults | self.settings


# Name: module here, class, what it stands for in the tables.
MODELS: dict[str, tuple[str, str, str]] = {
    "tfidf": ("tfidf", "TfidfCV", "TF-IDF + logistic regression, C by cross-validation"),
    "tfidf-c10": ("tfidf", "TfidfC10", "TF-IDF + logistic regression, C = 10"),
    "tfidf-words": ("tfidf", "TfidfWords", "TF-IDF and counts of the labels' words + logistic regression, C = 10"),
    "fasttext": ("fasttext", "FastText", "fastText, word 2-grams"),
    "wordllama": ("wordllama", "WordLlama", "wordllama vectors + logistic regression"),
    "minilm": ("minilm", "MiniLMLogistic", "MiniLM vectors + logistic regression"),
    "minilm-int8": ("minilm", "Int8MiniLMLogistic", "MiniLM int8 (ONNX) vectors + logistic regression"),
    "setfit": ("setfit", "SetFit", "MiniLM fine-tuned as SetFit does"),
    "fastai": ("fastai", "Fastai", "fastai's ULMFiT, same language model"),
    "ours": ("ours", "Ours", "ours"),
    "ours-self-trained": ("ours", "OursSelfTrained", "ours, with its own labels of unlabelled texts"),
    "ours-pretrained": ("ours", "OursPretrained", "ours, language model fine-tuned first"),
    "ours-linear": ("ours_linear", "OursLinear", "ours, linear (train-linear)"),
    "ours-features": (
        "ours_features",
        "OursFeatures",
        "ours: language model's states + logistic regression",
    ),
}
OF_A_LANGUAGE_MODEL = {
    "fastai": "lm",
    "ours": "lm",
    "ours-self-trained": "lm",
    "ours-pretrained": "pretrained",
    "ours-linear": "lm",
    "ours-features": "lm",
}


def make(name: str, options: Options) -> Model:
    """The model of that name; only its own libraries are imported."""
    module, attribute, _ = MODELS[name]
    model: Model = getattr(importlib.import_module(f"benchmarks.accuracy.models.{module}"), attribute)(options)
    return model
