"""Text from a language model, token by token: the state is carried, so memory does not grow with the text.

Sources: Holtzman et al., arXiv 1904.09751 (top-p); Keskar et al., arXiv 1909.05858 (repetition penalty).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.nn.encoder import LayerState

if TYPE_CHECKING:
    from ulmfit_fast.nn.language_model import LanguageModel

_AT_A_TIME = 512  # tokens of a prompt


@dataclass(frozen=True)
class Sampling:
    """How a next token is drawn from what the model expects.

    Args:
        temperature: below 1 what is likely becomes more so; 0 takes the most likely token always.
        top_k: of the most likely so many; 0: of all.
        top_p: of the most likely ones that have this share of the probability together, above 0; 1: of all.
        repetition_penalty: the logarithms of the probabilities of tokens that came lately are multiplied by this, at
            least 1; 1: no penalty. (The paper does so with logits, whose sign means nothing here.)
        repetition_window: how many tokens back that goes.

    Raises:
        InputError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    repetition_window: int = 128

    def __post_init__(self) -> None:
        for name, right, wanted in (
            ("temperature", 0 <= self.temperature < float("inf"), "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("repetition_penalty", 1 <= self.repetition_penalty < float("inf"), "at least 1"),
            ("repetition_window", self.repetition_window >= 0, "at least 0"),
        ):
            if not right:
                raise InputError(f"Sampling: {name} must be {wanted}, got {getattr(self, name)!r}")


def next_distribution(
    logits: Tensor, sampling: Sampling, recent: Collection[int] = (), banned: Collection[int] = ()
) -> Tensor:
    """The probabilities that the next token is drawn by, float64 [V]; with temperature 0 one of them is 1.

    Args:
        logits: [V].
        sampling: what is changed of the model's own.
        recent: tokens that came lately.
        banned: tokens that must not come; not all.
    """
    scores = logits.double().cpu().log_softmax(0)
    if sampling.repetition_penalty > 1 and recent:
        again = torch.tensor(sorted(set(recent)))
        scores[again] = scores[again] * sampling.repetition_penalty
    if banned:
        scores[torch.tensor(sorted(banned))] = -torch.inf
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(scores.argmax(), len(scores)).double()
    scores = scores / sampling.temperature
    if 0 < sampling.top_k < len(scores):
        kept = scores.topk(sampling.top_k).indices
        scores = torch.full_like(scores, -torch.inf).index_copy(0, kept, scores[kept])
    probabilities = scores.softmax(0)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        before = ordered.cumsum(0) - ordered  # of those that are more likely; the first has none
        ordered[before >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).index_copy(0, order, ordered)
        probabilities /= probabilities.sum()
    return probabilities


def generate(
    model: LanguageModel,
    tokens: Iterable[int],
    max_tokens: int | None,
    sampling: Sampling,
    *,
    seed: int | None = None,
    banned: Collection[int] = (),
    stop: Collection[int] = (),
) -> Iterator[int]:
    """What comes after ``tokens``; see ``LanguageModel.generate``."""
    read = list(map(int, tokens))
    if not read:
        raise InputError("LanguageModel.generate: tokens is empty; begin with the tokenizer's bos_id")
    vocabulary = len(model.decoder_weight)
    for token in (*read, *banned, *stop):
        if not 0 <= token < vocabulary:
            raise InputError(f"LanguageModel.generate: token ids must be in [0, {vocabulary}), got {token}")
    if len(set(banned)) >= vocabulary:
        raise InputError("LanguageModel.generate: all tokens are banned; nothing could come")
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return _generate(model, read, max_tokens, sampling, generator, frozenset(banned), frozenset(stop))


def _generate(
    model: LanguageModel, read: list[int], max_tokens: int | None, sampling: Sampling, generator: torch.Generator,
    banned: frozenset[int], stop: frozenset[int],
) -> Iterator[int]:  # fmt: skip
    recent: deque[int] = deque(read, maxlen=sampling.repetition_window)
    was_training, state = model.training, None
    model.eval()
    try:
        for start in range(0, len(read) - 1, _AT_A_TIME):
            _, state = _read(model, read[start : min(start + _AT_A_TIME, len(read) - 1)], state)
        token, count = read[-1], 0
        while max_tokens is None or count < max_tokens:
            logits, state = _read(model, [token], state)
            probabilities = next_distribution(logits, sampling, recent, banned)
            token = int(torch.multinomial(probabilities, 1, generator=generator))
            if token in stop:
                return
            yield token
            recent.append(token)
            count += 1
    finally:
        model.train(was_training)


@own_modes(grad=False)
def _read(model: LanguageModel, tokens: list[int], state: list[LayerState] | None) -> tuple[Tensor, list[LayerState]]:
    """The logits after the last token, [V], and the state. No mode of torch outlives it: who iterates has their own."""
    with torch.inference_mode():
        inputs = torch.tensor(tokens, dtype=torch.int64).unsqueeze(1).to(model.decoder_weight.device)
        output = model(inputs, state)
        last = output._replace(dropped=output.dropped[-1])
        return model.logits(last)[0], output.state
