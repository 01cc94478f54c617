"""How probable a language model finds texts that go on in several ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.nn.scoring import score_continuations
from ulmfit_fast.text.batching import group_documents
from ulmfit_fast.text.tokenizer import Tokenizer

_MAX_TOKENS = 40_000  # of a batch, with all continuations


def score_text(model: LanguageModel, tokenizer: Tokenizer, text: str, continuations: Sequence[str]) -> np.ndarray:
    """The logarithm of the probability of each continuation after ``text``, float64 [len(continuations)], in nats.

    Raises:
        InputError: a model that reads from the end; no continuation.
    """
    if not len(continuations):
        raise InputError("score: continuations is empty; give at least one")
    return score_variants(model, tokenizer, [[f"{text}{more}" for more in continuations]], whole_from=text)[0]


def score_variants(
    model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[Sequence[str]], batch_size: int = 32,
    progress: bool = False, whole_from: str | None = None,
) -> np.ndarray:  # fmt: skip
    """The logarithm of the probability of variants of texts, beside each other.

    What the variants of a text have in common at its beginning is read once and not counted, as it does not tell them
    apart.

    Args:
        model, tokenizer: of a language model that reads forward.
        texts: the variants of each, as many for one as for another.
        batch_size: texts at a time; it changes no more than rounding.
        progress: show a bar.
        whole_from: count all tokens after this text, those in common, too.

    Returns:
        float64 [len(texts), variants], in nats.

    Raises:
        InputError: a model that reads from the end.
    """
    if tokenizer.direction != "forward":
        raise InputError("score: a backward model has read what comes first last; use a forward one")
    encoded = [[ids.tolist() for ids in tokenizer.encode(variants)] for variants in texts]
    limit = None
    if whole_from is not None:
        (prefix,) = tokenizer.encode([whole_from])
        limit = len(prefix)
    common = [_in_common(variants, limit) for variants in encoded]
    lengths = [sum(map(len, variants)) - (len(variants) - 1) * n for variants, n in zip(encoded, common, strict=True)]
    found = np.empty((len(texts), len(texts[0]) if len(texts) else 0))
    with progress_bar("score", sum(lengths), "tok", progress) as bar:
        for group in group_documents(lengths, batch_size, _MAX_TOKENS):
            scored = score_continuations(
                model, [encoded[i][0][: common[i]] for i in group],
                [[ids[common[i] :] for ids in encoded[i]] for i in group],
            )  # fmt: skip
            for row, each in zip(group, scored, strict=True):
                found[row] = each.numpy()
            bar.update(sum(lengths[i] for i in group))
    return found


def _in_common(variants: Sequence[Sequence[int]], limit: int | None) -> int:
    """How many tokens all begin with; at least ``xxbos``, at most ``limit``."""
    shortest = min(map(len, variants)) if limit is None else min(limit, *map(len, variants))
    for place in range(shortest):
        if any(ids[place] != variants[0][place] for ids in variants):
            return max(1, place)
    return max(1, shortest)
