"""The language model on top of an encoder, and what it is trained on."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulmfit_fast import ops
from ulmfit_fast.core.random import current_generator
from ulmfit_fast.nn.encoder import LayerState, refuse_tracing
from ulmfit_fast.nn.sampled_softmax import SampledSoftmax
from ulmfit_fast.nn.stacked import StackedEncoder, scaled_mask


class LanguageModelOutput(NamedTuple):
    """What ``LanguageModel.forward`` returns.

    Attributes:
        raw: [T, B, E], the encoder's output.
        dropped: [T, B, E], the same after output dropout, which is what the softmax sees.
        state: each layer's state, for the next call.
    """

    raw: Tensor
    dropped: Tensor
    state: list[LayerState]


class LanguageModel(nn.Module):
    """Next-token prediction: the encoder and a softmax whose weight is the embedding, with a bias.

    ``forward`` stops before the softmax; ``logits`` and ``language_model_loss`` go on from there.

    Args:
        encoder: an ``AWDLSTM`` or a ``QRNN``; its ``output_p`` is the locked dropout before the softmax.
    """

    def __init__(self, encoder: StackedEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder_bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))

    @property
    def decoder_weight(self) -> Tensor:
        """[V, E], tied to the embedding."""
        return self.encoder.encoder.weight

    def layer_groups(self) -> list[nn.Module]:
        """[first layer], ..., [last layer], [embedding and softmax], as fastai groups them."""
        top = nn.Module()
        top.encoder, top.decoder_bias = self.encoder.encoder, self.decoder_bias
        return [*self.encoder.rnns, top]

    def forward(self, tokens: Tensor, state: list[LayerState] | None = None) -> LanguageModelOutput:
        """Encode ``tokens``.

        Args:
            tokens: int64 [T, B].
            state: of the last call, detached, to continue the same texts; zeros where None.

        Raises:
            RuntimeError: under ``torch.jit.trace``.
        """
        refuse_tracing("LanguageModel")
        steps, batch = tokens.shape
        state = state or self.encoder.initial_state(batch)
        masks = self.encoder.draw_masks(batch)
        batch_sizes = torch.full((steps,), batch, dtype=torch.int64, device="cpu")
        raw, state = self.encoder(tokens.reshape(-1), batch_sizes, state, masks)
        dropped = raw
        if self.training:
            mask = scaled_mask((batch, raw.shape[1]), self.encoder.config.output_p, raw, current_generator(raw.device))
            dropped = raw if mask is None else ops.locked_dropout(raw, mask, batch_sizes)
        shape = (steps, batch, raw.shape[1])
        return LanguageModelOutput(raw.view(shape), dropped.view(shape), state)

    def logits(self, output: LanguageModelOutput) -> Tensor:
        """Unnormalised log-probabilities of the token after each one, [T, B, V]."""
        return F.linear(output.dropped, self.decoder_weight, self.decoder_bias)

    def generate(
        self, tokens: Iterable[int], max_tokens: int | None = None, *, temperature: float = 1.0, top_k: int = 0,
        top_p: float = 1.0, repetition_penalty: float = 1.0, repetition_window: int = 128, seed: int | None = None,
        banned: Collection[int] = (), stop: Collection[int] = (),
    ) -> Iterator[int]:  # fmt: skip
        """Token ids that come after ``tokens``, one by one. Memory does not grow with their number.

        The model is in eval mode until the iterator is through or closed.

        Args:
            tokens: what has been read, at least one; a text begins with the tokenizer's ``bos_id``.
            max_tokens: most tokens; None: until one of ``stop`` comes.
            temperature, top_k, top_p, repetition_penalty, repetition_window: as ``nn.generation.Sampling``.
            seed: of what is drawn; None: another text each time.
            banned: tokens that never come.
            stop: tokens that end the text; they are not given.

        Raises:
            InputError: no token, one out of the vocabulary, a value out of its range.
        """
        from ulmfit_fast.nn.generation import Sampling, generate  # which know this class

        sampling = Sampling(temperature, top_k, top_p, repetition_penalty, repetition_window)
        return generate(self, tokens, max_tokens, sampling, seed=seed, banned=banned, stop=stop)

    def score(self, tokens: Sequence[int], continuations: Sequence[Sequence[int]]) -> Tensor:
        """The logarithm of each continuation's probability after ``tokens``, float64 [len(continuations)], in nats.

        The model computes in eval mode and is left in its own.

        Args:
            tokens: at least one; a text begins with the tokenizer's ``bos_id``.
            continuations: token ids of each.

        Raises:
            InputError: no token, one out of the vocabulary.
        """
        from ulmfit_fast.nn.scoring import score_continuations  # which knows this class

        return score_continuations(self, [tokens], [continuations])[0]


def language_model_loss(
    model: LanguageModel,
    output: LanguageModelOutput,
    targets: Tensor,
    alpha: float = 0.0,
    beta: float = 0.0,
    gradient_threshold: float = 0.0,
    sampled: SampledSoftmax | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and the loss to train on: with AR and TAR added. The logits are never held all at once.

    Args:
        model: whose output it is.
        output: of ``model``.
        targets: int64 [T, B], the tokens after the input's.
        alpha: weight of activation regularisation, the mean square of the dropped output.
        beta: weight of temporal activation regularisation, the mean square of the raw output's change a step.
        gradient_threshold: as in ``ops.linear_cross_entropy``.
        sampled: the words of the softmax; None: all.

    Returns:
        (cross-entropy in nats a token, training loss), both [].

    Source: Merity et al., arXiv 1708.02182, section 4 (AR, TAR).
    """
    if sampled is None:
        cross_entropy = ops.linear_cross_entropy(
            output.dropped, model.decoder_weight, targets, model.decoder_bias, gradient_threshold=gradient_threshold
        )
    else:
        cross_entropy = sampled.loss(
            output.dropped, model.decoder_weight, model.decoder_bias, targets, gradient_threshold
        )
    if not alpha and not beta:
        return cross_entropy, cross_entropy
    penalty: Tensor = _ActivationRegularization.apply(output.raw, output.dropped, alpha, beta)
    return cross_entropy, cross_entropy + penalty


class _ActivationRegularization(torch.autograd.Function):
    """alpha mean(dropped^2) + beta mean((raw[t + 1] - raw[t])^2) and its gradients, in few passes."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, dropped: Tensor, alpha: float, beta: float) -> Tensor:
        ctx.save_for_backward(raw, dropped)
        ctx.alpha, ctx.beta = alpha, beta
        dtype = torch.float64 if raw.dtype == torch.float64 else torch.float32
        penalty = torch.zeros((), dtype=dtype, device=raw.device)
        if alpha:
            penalty += alpha * _mean_square(dropped, dtype)
        if beta and len(raw) > 1:
            penalty += beta * _mean_square(raw[1:] - raw[:-1], dtype)
        return penalty

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raw, dropped = ctx.saved_tensors
        grad_raw = grad_dropped = None
        if ctx.needs_input_grad[1] and ctx.alpha:
            grad_dropped = dropped * (grad * (2 * ctx.alpha / dropped.numel())).to(dropped.dtype)
        if ctx.needs_input_grad[0] and ctx.beta and len(raw) > 1:
            change = raw[1:] - raw[:-1]
            change *= (grad * (2 * ctx.beta / change.numel())).to(raw.dtype)
            grad_raw = torch.cat([-change[:1], change])
            grad_raw[1:-1] -= change[1:]
        return grad_raw, grad_dropped, None, None


def _mean_square(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.linalg.vector_norm(x, dtype=dtype).square() / x.numel()
