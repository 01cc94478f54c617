"""Texts as pooled vectors: what a classifier's head sees of them, or what a language model has read when it is through.

With the vectors come the classifier's predictions, from the same pass over the texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ulmfit_fast.core.device import autocast, documents_on_device
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.progress import Progress, progress_bar
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.prediction import MAX_TOKENS
from ulmfit_fast.nn.bpt3c import BPT3C
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.batching import document_batches
from ulmfit_fast.text.tokenizer import Tokenizer


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
        float32 [len(texts), sum of 3 E over the classifiers]; and float32 [classifiers, len(texts), ...], each what
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
    model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 64, progress: bool = False
) -> np.ndarray:
    """Last state, maximum and mean of the top layer's states of texts, float32 [len(texts), 3 E]."""
    pool = BPT3C(model.encoder).eval()
    ids = list(tokenizer.encode(texts))
    with progress_bar("read", sum(map(len, ids)), "tok", progress) as bar:
        return _pooled(pool, ids, batch_size, "float32", bar)


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
        logits = model.classify(torch.from_numpy(vectors).to(device)).float().cpu()
    return vectors, task.activate(logits).numpy()


@own_modes(grad=False)
def _pooled(pool: BPT3C, ids: Sequence[np.ndarray], batch_size: int, precision: str, bar: Progress) -> np.ndarray:
    """[len(ids), output size] of tokenized texts; ``bar`` is told of the tokens."""
    found = np.empty((len(ids), pool.output_size), dtype=np.float32)
    device = pool.encoder.initial_state(1)[0][0].device
    before, pool.on_progress = pool.on_progress, bar.update
    try:
        with torch.inference_mode(), autocast(pool, precision):
            for documents, rows in document_batches(ids, batch_size, MAX_TOKENS):
                found[rows] = pool(documents_on_device(documents, device)).float().cpu().numpy()
    finally:
        pool.on_progress = before
    return found
