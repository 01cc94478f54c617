"""How probable a language model finds each label's words in a sentence after a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.inference.scoring import score_variants
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.training.trained import TrainedLanguageModel

_AT_ONCE = 512  # texts whose variants are in memory together


def label_scores(
    language_model: TrainedLanguageModel, words: Mapping[Label, tuple[str, ...]], templates: Sequence[str],
    texts: Sequence[str], batch_size: int = 64, progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """Logarithms of probabilities, without calibration, float64 [templates, texts, labels].

    Args:
        language_model: reads forward.
        words: of each label those that the model knows (``known_words``); their mean probability counts.
        templates: each with ``{text}`` and ``{label}``.
        texts: of any length.
        batch_size: texts at a time; it does not change the result.
        progress: show a bar.
    """
    each = [word for own in words.values() for word in own]
    scores = np.empty((len(templates), len(texts), len(each)))
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    with progress_bar("score", len(texts) * len(templates), "texts", progress) as bar:
        for start in range(0, len(texts), _AT_ONCE):
            rows = by_length[start : start + _AT_ONCE]
            for place, template in enumerate(templates):
                variants = [[template.format(text=texts[row], label=word) for word in each] for row in rows]
                scores[place, rows] = score_variants(
                    language_model.model, language_model.tokenizer, variants, batch_size
                )
                bar.update(len(rows))
    columns = np.split(scores, np.cumsum([len(own) for own in words.values()])[:-1], axis=2)
    return np.stack([np.logaddexp.reduce(own, axis=2) - np.log(own.shape[2]) for own in columns], axis=2)


def label_evidence(
    language_model: TrainedLanguageModel, words: Mapping[Label, tuple[str, ...]], templates: Sequence[str],
    texts: Sequence[str], batch_size: int = 64, progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """Each label's score less the mean over the labels, in nats: features of another classifier.

    Of several templates the mean. Arguments as ``label_scores``.

    Returns:
        float64 [texts, labels].
    """
    scores = label_scores(language_model, words, templates, texts, batch_size, progress).mean(0)
    return np.asarray(scores - scores.mean(1, keepdims=True))
