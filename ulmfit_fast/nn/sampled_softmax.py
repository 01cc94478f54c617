"""A softmax over some of the words, to train a language model at a fraction of the whole one's cost."""

from __future__ import annotations

import torch
from torch import Tensor

from ulmfit_fast import ops
from ulmfit_fast.core.random import current_generator


class SampledSoftmax:
    """Cross-entropy over the frequent words, the step's own targets and some of the other words.

    A step's words are the ``frequent`` most frequent ones, about ``drawn`` of the others, each with the same chance,
    and all targets of the step. A word is among them with probability pi even where a given row has another target.
    The loss takes log pi from each word's logit, so that what it teaches is the distribution of the whole softmax,
    which can be used afterwards.

    Args:
        counts: [V], how often each word occurs in the training text; zeros are allowed.
        frequent: words that every step has.
        drawn: words that a step draws of the others, on average.

    Raises:
        ValueError: ``frequent`` or ``drawn`` below 1.

    Source: the correction of sampled logits follows Bengio and Senecal, "Adaptive importance sampling to accelerate
    training of a neural probabilistic language model" (2008), and Jean et al., arXiv 1412.2007, section 3.
    """

    def __init__(self, counts: Tensor, frequent: int, drawn: int) -> None:
        if frequent < 1 or drawn < 1:
            raise ValueError(f"SampledSoftmax: frequent and drawn must be at least 1, got {frequent} and {drawn}")
        self.vocab_size = len(counts)
        self.frequent, self.drawn = frequent, drawn
        # By frequency, as gradient_threshold skips neighbours together.
        self.order = torch.argsort(counts, descending=True, stable=True)
        self.rank = torch.empty_like(self.order)
        self.rank[self.order] = torch.arange(self.vocab_size, device=counts.device)
        share = counts[self.order].double()
        self._share = share / share.sum().clamp(min=1)

    @property
    def _chance(self) -> float:
        """Of being drawn, for a word that is not frequent."""
        return self.drawn / (self.vocab_size - self.frequent)

    @property
    def is_whole(self) -> bool:
        """Whether every step would have all words."""
        return self.frequent + self.drawn >= self.vocab_size

    def loss(
        self, input: Tensor, weight: Tensor, bias: Tensor, target: Tensor, gradient_threshold: float = 0.0
    ) -> Tensor:
        """Mean cross-entropy in nats a row, [].

        Args:
            input: [..., E].
            weight: [V, E].
            bias: [V].
            target: int64, shape of ``input`` without its last dimension.
            gradient_threshold: as in ``ops.linear_cross_entropy``.
        """
        if self.is_whole:
            return ops.linear_cross_entropy(input, weight, target, bias, gradient_threshold=gradient_threshold)
        self._to(input.device)
        ranks = self.rank[target]
        chosen = self._draw(ranks)
        words = self.order[chosen]
        position = torch.zeros(self.vocab_size, dtype=torch.int64, device=input.device)
        position[chosen] = torch.arange(len(chosen), device=input.device)
        correction = self._log_probabilities(target.numel())[chosen].to(bias.dtype)
        return ops.linear_cross_entropy(
            input, weight[words], position[ranks], bias[words] - correction, gradient_threshold=gradient_threshold
        )

    def _draw(self, ranks: Tensor) -> Tensor:
        """Ranks of the step's words, in order."""
        device = ranks.device
        chosen = torch.zeros(self.vocab_size, dtype=torch.bool, device=device)
        chosen[: self.frequent] = True
        # Each by itself: words that exclude each other, as in a sample of fixed size, would need another correction.
        chances = torch.rand(self.vocab_size - self.frequent, device=device, generator=current_generator(device))
        chosen[self.frequent :] = chances < self._chance
        chosen[ranks.reshape(-1)] = True
        return chosen.nonzero().squeeze(1)

    def _log_probabilities(self, rows: int) -> Tensor:
        """log pi by rank: a word is drawn, or one of the other rows has it as its target."""
        absent = (1 - self._share) ** (rows - 1) * (1 - self._chance)
        log_pi = torch.log1p(-absent)
        log_pi[: self.frequent] = 0
        return log_pi

    def _to(self, device: torch.device) -> None:
        if self.order.device != device:
            self.order, self.rank, self._share = (x.to(device) for x in (self.order, self.rank, self._share))
