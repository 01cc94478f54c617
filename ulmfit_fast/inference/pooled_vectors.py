"""Texts as pooled vectors: what a classifier's head sees of them, or what a language model has read when it is through.

With the vectors come the classifier's predictions, from the same pass over the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.device import autocast
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.progress import Progress, progress_bar
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import MAX_TOKENS, finite, outputs_of
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown


@own_modes(grad=False)
def pooled_vectors(
    model: TextClassifier, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 64, progress: bool = False,
    precision: str = "float32",
) -> np.ndarray:  # fmt: skip
    """What the classifier's head sees of each text, float32 [len(texts), output size of its pooling].

    Arguments as ``predict_probabilities``; no text's vector depends on others.

    Raises:
        InputError: the model's weights are so large, or NaN, that it computes NaN.
    """
    ids = list(tokenizer.encode(texts))
    warn_of_unknown("transform", tokenizer, ids)
    model.eval()
    with progress_bar("transform", sum(map(len, ids)), "tok", progress) as bar:
        return _pooled(model.bpt3c, ids, batch_size, precision, bar).numpy()


def vectors_and_predictions(
    classifiers: Classifiers, texts: Sequence[str], batch_size: int = 64, progress: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled vectors of texts, and what each classifier activates, without reading any text twice.

    Args:
        classifiers: one or several.
        texts: at least one.
        batch_size: texts at a time; does not change the result.
        progress: show a bar.

    Returns:
        float32 [len(texts), sum of the poolings' output sizes]; and float32 [classifiers, len(texts), ...], each what
        ``predict_probabilities`` gives.
    """
    vectors, activated = [], []
    with progress_bar("read", 0, "tok", progress) as bar:
        for model, tokenizer, task in classifiers.members:
            found, said = _read(model, tokenizer, task, texts, batch_size, classifiers.precision, bar)
            vectors.append(found)
            activated.append(said)
    return np.concatenate(vectors, axis=1), np.stack(activated)


def language_model_vectors(
    model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 64, progress: bool = False,
    precision: str = "float32", caller: str = "read",
) -> np.ndarray:  # fmt: skip
    """Last state, maximum and mean of the top layer's states of texts, float32 [len(texts), 3 E].

    Arguments as ``pooled_vectors``; ``caller`` is named in the warning of texts that the vocabulary does not know.
    """
    pool = BPT3C(model.encoder).eval()
    ids = list(tokenizer.encode(texts))
    warn_of_unknown(caller, tokenizer, ids)
    with progress_bar("read", sum(map(len, ids)), "tok", progress) as bar:
        return _pooled(pool, ids, batch_size, precision, bar).numpy()


@own_modes(grad=False)
def _read(
    model: TextClassifier, tokenizer: Tokenizer, task: Task, texts: Sequence[str], batch_size: int, precision: str,
    bar: Progress,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    ids = list(tokenizer.encode(texts))
    bar.total += sum(map(len, ids))
    model.eval()
    vectors = _pooled(model.bpt3c, ids, batch_size, precision, bar)
    device = next(model.parameters()).device
    with torch.inference_mode(), autocast(model, precision):
        logits = model.classify(vectors.to(device)).float().cpu()
    return vectors.numpy(), finite(task.activate(logits)).numpy()


@own_modes(grad=False)
def _pooled(bpt3c: BPT3C, ids: Sequence[np.ndarray], batch_size: int, precision: str, bar: Progress) -> Tensor:
    """[len(ids), output size] of tokenized texts; ``bar`` is told of the tokens."""
    with autocast(bpt3c, precision):
        return finite(outputs_of(bpt3c, bpt3c, bpt3c.output_size, ids, batch_size, MAX_TOKENS, bar))
