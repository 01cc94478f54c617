"""``ULMFiTVectorizer``: what a language model has read of a text, where others put a ``TfidfVectorizer``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.deviations import deviations
from ulmfit_fast.few_labels.features import Features
from ulmfit_fast.few_labels.label_words import LabelWords
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.training.trained import TrainedLanguageModel

NAME = "ULMFiTVectorizer"


class ULMFiTVectorizer(TransformerMixin, BaseEstimator):
    """Texts of any length as vectors: the last, largest and mean state of a language model's top layer.

    Nothing is trained: texts are read. With tens or hundreds of labels a linear classifier on these vectors may
    be better than a fine-tuned one, and takes seconds:
    ``make_pipeline(ULMFiTVectorizer("lm-reviews/"), LogisticRegression(C=0.01))``. A language model that was fine-tuned
    on such texts (``finetune_lm``) is much better at it than one that was not.

    With words for the labels a vector has a feature more for each label: how much the language model expects its words
    in a sentence after the text. A good language model knows more that way than a hundred labels tell:
    ``ULMFiTVectorizer("lm-reviews/", label_words={"pos": ["great", "good"], "neg": ["bad", "awful"]})``. Texts are then
    read once more for each template, in float32, and for each word where a template does not begin with the text.

    Args:
        language_model: its folder, the name of an installed one ("en"), or a ``TrainedLanguageModel``.
        standardize: ``fit`` learns each feature's mean and deviation, and ``transform`` takes the mean off and divides
            by the deviation. Give ``fit`` unlabelled texts, too, if there are any: few texts know the deviation badly.
            What words say is then multiplied by 10: a regression that pulls its weights to zero should learn it first.
        label_words: for each label one word or several; needs a forward language model.
        templates: sentences with ``{text}`` and ``{label}`` for these words. None: "{text} It was {label}."
        batch_size: texts at a time. It does not change the result.
        precision: "float32" or "bfloat16" (autocast).
        progress: show a bar on a terminal.

    Attributes:
        mean_, scale_: float64 [F], what is taken off and what the rest is divided by; only with ``standardize``.
        language_model_: the loaded one.
    """

    def __init__(
        self, language_model: str | Path | TrainedLanguageModel = "en", *, standardize: bool = True,
        label_words: LabelWords | None = None, templates: Sequence[str] | None = None,
        batch_size: int = 64, precision: str = "float32", progress: bool = False,
    ) -> None:  # fmt: skip
        self.language_model = language_model
        self.standardize = standardize
        self.label_words = label_words
        self.templates = templates
        self.batch_size = batch_size
        self.precision = precision
        self.progress = progress

    def fit(self, texts: Iterable[str], labels: Any = None) -> Self:
        """Load the language model and, with ``standardize``, read the texts. ``labels`` mean nothing here.

        Raises:
            TypeError: something among the texts or the words that is no text.
            InputError: no text, an unusable language model; words, or templates, that it cannot use.
        """
        self._fit(texts)
        return self

    def fit_transform(self, texts: Iterable[str], labels: Any = None) -> np.ndarray:
        """``fit``, and ``transform`` of the same texts, which are read once."""
        documents = as_texts(NAME, texts, "texts")
        vectors = self._fit(documents)
        return self.transform(documents) if vectors is None else self._scaled(vectors)

    def transform(self, texts: Iterable[str]) -> np.ndarray:
        """The vectors, float32 [len(texts), 3 E], with ``label_words`` a column more for each label.

        No text's vector depends on the other ones given here.

        Raises:
            TypeError: something among the texts that is no text.
            InputError: the model computes NaN.
        """
        check_is_fitted(self, "language_model_")
        vectors = self._read(as_texts(NAME, texts, "texts"))
        return self._scaled(vectors) if self.standardize else vectors

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """last0, ..., maximum0, ..., mean0, ..., words_LABEL, ..."""
        check_is_fitted(self, "language_model_")
        return np.array(self._features.names, dtype=object)

    def _fit(self, texts: Iterable[str]) -> np.ndarray | None:
        """The vectors of the texts, where they were needed."""
        documents = as_texts(NAME, texts, "texts")
        if not documents:
            raise InputError(f"{NAME}: there are no texts; give fit at least one")
        given = self.language_model
        if isinstance(given, TrainedLanguageModel):
            self.language_model_ = given
        else:
            self.language_model_ = TrainedLanguageModel.load(find_pretrained(given))
            self.language_model_.model.to(choose_device("auto"))
        self._features = Features(self.language_model_, self.label_words, self.templates, caller=NAME)
        if not self.standardize:
            return None
        vectors = self._read(documents)
        self.mean_ = vectors.mean(0, dtype=np.float64)
        self.scale_ = deviations(vectors) / self._features.emphasis
        return vectors

    def _read(self, texts: list[str]) -> np.ndarray:
        return self._features.read(texts, self.batch_size, self.precision, self.progress)

    def _scaled(self, vectors: np.ndarray) -> np.ndarray:
        return ((vectors - self.mean_) / self.scale_).astype(np.float32)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags
