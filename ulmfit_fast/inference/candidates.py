"""Words that may stand in the place of others: near in a model's embedding, or likely to a language model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.progress import progress_bar
from ulmfit_fast.nn.language_model import LanguageModel, LanguageModelOutput
from ulmfit_fast.text.batching import group_documents
from ulmfit_fast.text.rules import SPECIAL_TOKENS

Ids = npt.NDArray[np.int32]
_ROWS_AT_A_TIME = 512  # of scores over the whole vocabulary
_TEXTS_AT_A_TIME = 64


@torch.no_grad()
def near_words(embedding: Tensor, ids: Sequence[Ids], count: int = 8) -> dict[int, Ids]:
    """The ``count`` nearest words of every word of the texts, by the cosine of their embeddings, nearest first.

    Args:
        embedding: [V, E].
        ids: the texts.
        count: most words for each.

    Returns:
        By id: int32 [at most count], without special tokens and without the word itself; special tokens have their
        neighbours, too.
    """
    vectors = F.normalize(embedding.detach().float(), dim=1)
    others, used = _others(embedding), np.unique(np.concatenate(list(ids)))
    result: dict[int, Ids] = {}
    for part in torch.from_numpy(used).long().split(_ROWS_AT_A_TIME):
        scores = vectors[part.to(vectors.device)] @ vectors.T
        scores[:, ~others] = -torch.inf
        scores[torch.arange(len(part)), part] = -torch.inf
        found = _best(scores, min(count, max(1, int(others.sum()) - 1)))
        result |= dict(zip(part.tolist(), found, strict=True))
    return result


@own_modes(grad=False)
def likely_words(
    model: LanguageModel, device: torch.device | str, ids: Sequence[Ids], count: int = 5, progress: bool = False
) -> list[Ids]:
    """The ``count`` words that a language model expects most at every place, given what it has read before it.

    Args:
        model: reads the texts in the order of their ids; left as it is.
        device: to compute on.
        ids: the texts, each [length >= 1].
        count: words for each place.
        progress: show a bar.

    Returns:
        For each text int32 [length, count], most likely first, without special tokens and without the word that is
        there. A text's first token has none: -1.
    """
    model = copy.deepcopy(model).to(device).eval()
    others = _others(model.decoder_weight)
    count = min(count, max(1, int(others.sum()) - 1))
    result = [np.full((len(text), count), -1, np.int32) for text in ids]
    lengths = [len(text) for text in ids]
    with torch.inference_mode(), progress_bar("likely words", sum(lengths), "tok", progress) as bar:
        for rows in group_documents(lengths, _TEXTS_AT_A_TIME, _TEXTS_AT_A_TIME * _ROWS_AT_A_TIME):
            state = None
            for start in range(0, max(lengths[row] for row in rows), _ROWS_AT_A_TIME):
                chunk = [ids[row][start : start + _ROWS_AT_A_TIME] for row in rows]
                padded = np.zeros((max(map(len, chunk)), len(rows)), np.int64)
                for column, text in enumerate(chunk):
                    padded[: len(text), column] = text
                output = model(torch.from_numpy(padded).to(device), state)
                state = output.state
                for column, row in enumerate(rows):
                    # What was read up to position p says what stands at p + 1.
                    expected = ids[row][start + 1 : start + 1 + len(chunk[column])]
                    states = output.dropped[: len(expected), column]
                    found = _expected(model, output, states, expected, others, count)
                    result[row][start + 1 : start + 1 + len(expected)] = found
                bar.update(sum(map(len, chunk)))
    return result


def _expected(
    model: LanguageModel, output: LanguageModelOutput, states: Tensor, there: Ids, others: Tensor, count: int
) -> Ids:
    """The words that are expected in the places of the words ``there``, given the states before them, [n, count]."""
    scores = model.logits(output._replace(dropped=states)).float()
    scores[:, ~others] = -torch.inf
    scores[torch.arange(len(there)), torch.from_numpy(there).long().to(scores.device)] = -torch.inf
    return _best(scores, count)


def _others(weight: Tensor) -> Tensor:
    """Which ids are words: the special tokens come first."""
    return torch.arange(len(weight), device=weight.device) >= len(SPECIAL_TOKENS)


def _best(scores: Tensor, count: int) -> Ids:
    values, indices = scores.topk(count, dim=1)
    return torch.where(values > -torch.inf, indices, -1).int().cpu().numpy()
