"""The AWD-LSTM encoder, its dropouts, and the language model on top of it (Merity et al., arXiv 1708.02182).

The encoder works on packed rows (see ``ops.lstm``), and its dropout masks are explicit: given the same ``DropoutMasks``
it computes the same thing again, which is how BPT3C recomputes a chunk.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast import ops
from ulmfit_fast.errors import InputError
from ulmfit_fast.linear_cross_entropy import linear_cross_entropy
from ulmfit_fast.lstm import WeightDropLSTM

LayerState = tuple[Tensor, Tensor]  # h [B, size of the layer], c [B, size of the layer]


@dataclass(frozen=True)
class AWDLSTMConfig:
    """Sizes and dropout probabilities. The defaults are the paper's sizes (1152 for 1150) and fastai's LM dropouts."""

    vocab_size: int
    embedding_size: int = 400
    hidden_size: int = 1152
    num_layers: int = 3
    pad_id: int = 1
    embed_p: float = 0.02
    input_p: float = 0.25
    hidden_p: float = 0.15
    weight_p: float = 0.2
    output_p: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_p") and not 0 <= value < 1:
                raise ValueError(f"AWDLSTMConfig: {field.name} must be in [0, 1), got {value}")
        if not all(isinstance(getattr(self, f.name), int) for f in fields(self) if not f.name.endswith("_p")):
            raise ValueError(f"AWDLSTMConfig: sizes and num_layers must be whole numbers, got {self}")
        if min(self.vocab_size, self.embedding_size, self.hidden_size, self.num_layers) < 1:
            raise ValueError(f"AWDLSTMConfig: sizes and num_layers must be positive, got {self}")

    def with_dropouts(self, dropouts: dict[str, float], drop_mult: float) -> AWDLSTMConfig:
        """The same sizes with other probabilities, each times ``drop_mult``."""
        for name, p in dropouts.items():
            if not 0 <= p * drop_mult < 1:
                raise InputError(f"drop_mult={drop_mult:g} makes {name} {p * drop_mult:g}; dropouts must be in [0, 1)")
        return AWDLSTMConfig(**asdict(self) | {name: p * drop_mult for name, p in dropouts.items()})

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


# fastai 2.8's dropouts for the two tasks (its awd_lstm_lm_config and awd_lstm_clas_config).
LM_DROPOUTS = {"embed_p": 0.02, "input_p": 0.25, "hidden_p": 0.15, "weight_p": 0.2, "output_p": 0.1}
CLASSIFIER_DROPOUTS = {"embed_p": 0.05, "input_p": 0.4, "hidden_p": 0.3, "weight_p": 0.5, "output_p": 0.4}


class DropoutMasks(NamedTuple):
    """All that is random in one pass of the encoder; masks are scaled by 1 / (1 - p)."""

    embedding: Tensor | None  # [V, 1]: whole rows of the embedding
    locked: list[Tensor | None]  # per layer: [B, its input size], the same at every step
    seeds: list[Tensor]  # per layer: DropConnect seed of its recurrent weight
    weight_p: float  # DropConnect's probability


class AWDLSTM(nn.Module):
    """Embedding and a stack of weight-dropped LSTMs; the last layer's output has the embedding's size.

    Args:
        config: sizes and dropout probabilities.
    """

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=None)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        sizes = [config.embedding_size, *[config.hidden_size] * (config.num_layers - 1), config.embedding_size]
        self.rnns = nn.ModuleList(
            WeightDropLSTM(sizes[layer], sizes[layer + 1], weight_dropout=config.weight_p)
            for layer in range(config.num_layers)
        )

    @property
    def output_size(self) -> int:
        return self.config.embedding_size

    @property
    def _layers(self) -> list[WeightDropLSTM]:
        return cast(list[WeightDropLSTM], list(self.rnns))

    def set_dropouts(self, config: AWDLSTMConfig) -> None:
        """Take over the probabilities of ``config`` (its sizes must be this encoder's)."""
        self.config = config
        for rnn in self._layers:
            rnn.weight_dropout = config.weight_p

    def draw_masks(self, batch: int) -> DropoutMasks | None:
        """Masks for ``batch`` sequences, from torch's generator; None in eval mode."""
        if not self.training:
            return None
        config, weight = self.config, self.encoder.weight
        embedding = _scaled_mask((config.vocab_size, 1), config.embed_p, weight)
        probabilities = [config.input_p, *[config.hidden_p] * (config.num_layers - 1)]
        locked = [
            _scaled_mask((batch, rnn.input_size), p, weight) for p, rnn in zip(probabilities, self._layers, strict=True)
        ]
        return DropoutMasks(embedding, locked, [ops.draw_seed(weight.device) for _ in self.rnns], config.weight_p)

    def initial_state(self, batch: int) -> list[LayerState]:
        """Zero states for ``batch`` sequences."""
        weight = self.encoder.weight
        return [
            (weight.new_zeros(batch, rnn.hidden_size), weight.new_zeros(batch, rnn.hidden_size)) for rnn in self._layers
        ]

    def forward(
        self,
        tokens: Tensor,
        batch_sizes: Tensor,
        state: list[LayerState] | None = None,
        masks: DropoutMasks | None = None,
    ) -> tuple[Tensor, list[LayerState]]:
        """Encode packed rows of token ids.

        Args:
            tokens: int64 [N], as in ``PackedSequence.data``.
            batch_sizes: int64 [T] on CPU.
            state: each layer's (h, c), [B, size]; zeros where None.
            masks: what to drop; nothing where None.

        Returns:
            The last layer's output [N, E] before any output dropout, and each layer's state after each sequence's last
            step.
        """
        batch = int(batch_sizes[0])
        if state is None:
            state = self.initial_state(batch)
        embedding = self.encoder.weight
        x = F.embedding(tokens, embedding)
        if masks is not None and masks.embedding is not None:
            x = x * F.embedding(tokens, masks.embedding)
        new_state: list[LayerState] = []
        for layer, (rnn, (h, c)) in enumerate(zip(self._layers, state, strict=True)):
            if masks is not None:
                x = apply_locked(x, masks.locked[layer], batch_sizes)
            # Under autocast a layer's state comes back in the lower precision.
            hx = (h.unsqueeze(0).to(x.dtype), c.unsqueeze(0).to(x.dtype))
            seeds = None if masks is None else [masks.seeds[layer]]
            p = 0.0 if masks is None else masks.weight_p
            output, (h_n, c_n) = rnn(PackedSequence(x, batch_sizes), hx, seeds, p)
            x = output.data
            new_state.append((h_n[0], c_n[0]))
        return x, new_state


class LanguageModelOutput(NamedTuple):
    raw: Tensor  # [T, B, E], the encoder's output
    dropped: Tensor  # [T, B, E], after output dropout: what the softmax sees
    state: list[LayerState]


class LanguageModel(nn.Module):
    """Next-token prediction: the encoder and a softmax whose weight is the embedding, with a bias.

    ``forward`` stops before the softmax; ``logits`` and ``language_model_loss`` go on from there.

    Args:
        encoder: the AWD-LSTM; its ``output_p`` is the locked dropout before the softmax.
    """

    def __init__(self, encoder: AWDLSTM) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder_bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))

    @property
    def decoder_weight(self) -> Tensor:
        """[V, E], tied to the embedding."""
        return self.encoder.encoder.weight

    def layer_groups(self) -> list[nn.Module]:
        """[first LSTM], ..., [last LSTM], [embedding and softmax], as fastai groups them."""
        top = nn.Module()
        top.encoder, top.decoder_bias = self.encoder.encoder, self.decoder_bias
        return [*self.encoder.rnns, top]

    def forward(self, tokens: Tensor, state: list[LayerState] | None = None) -> LanguageModelOutput:
        """Encode ``tokens``.

        Args:
            tokens: int64 [T, B].
            state: of the last call, detached, to continue the same texts; zeros where None.
        """
        steps, batch = tokens.shape
        masks = self.encoder.draw_masks(batch)
        batch_sizes = torch.full((steps,), batch, dtype=torch.int64)
        raw, state = self.encoder(tokens.reshape(-1), batch_sizes, state, masks)
        dropped = raw
        if self.training:
            mask = _scaled_mask((batch, raw.shape[1]), self.encoder.config.output_p, raw)
            dropped = apply_locked(raw, mask, batch_sizes)
        shape = (steps, batch, raw.shape[1])
        return LanguageModelOutput(raw.view(shape), dropped.view(shape), state)

    def logits(self, output: LanguageModelOutput) -> Tensor:
        """Unnormalised log-probabilities of the token after each one, [T, B, V]."""
        return F.linear(output.dropped, self.decoder_weight, self.decoder_bias)


def language_model_loss(
    model: LanguageModel, output: LanguageModelOutput, targets: Tensor, alpha: float = 0.0, beta: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy, and the loss to train on: with AR and TAR added. The logits are never held all at once.

    Args:
        model: whose output it is.
        output: of ``model``.
        targets: int64 [T, B], the tokens after the input's.
        alpha: weight of activation regularisation, the mean square of the dropped output.
        beta: weight of temporal activation regularisation, the mean square of the raw output's change a step.

    Returns:
        (cross-entropy in nats a token, training loss), both [].

    Source: Merity et al., arXiv 1708.02182, section 4 (AR, TAR).
    """
    cross_entropy = linear_cross_entropy(
        output.dropped.flatten(0, 1), model.decoder_weight, model.decoder_bias, targets.reshape(-1)
    )
    loss = cross_entropy
    if alpha:
        loss = loss + alpha * output.dropped.float().pow(2).mean()
    if beta and output.raw.shape[0] > 1:
        loss = loss + beta * (output.raw[1:] - output.raw[:-1]).float().pow(2).mean()
    return cross_entropy, loss


def apply_locked(x: Tensor, mask: Tensor | None, batch_sizes: Tensor) -> Tensor:
    """Packed rows ``x`` [N, F] times each sequence's ``mask`` [B, F], the same at every step."""
    if mask is None:
        return x
    steps, batch = len(batch_sizes), int(batch_sizes[0])
    mask = mask.to(x.dtype)
    if x.shape[0] == steps * batch:
        return (x.view(steps, batch, -1) * mask[:batch]).view(x.shape)
    return x * mask.index_select(0, sequence_of_rows(batch_sizes).to(x.device))


def sequence_of_rows(batch_sizes: Tensor) -> Tensor:
    """The sequence that each packed row belongs to, int64 [N]: 0 .. batch_sizes[0] - 1, 0 .. batch_sizes[1] - 1, ..."""
    starts = torch.cumsum(batch_sizes, 0) - batch_sizes
    return torch.arange(int(batch_sizes.sum())) - starts.repeat_interleave(batch_sizes)


def _scaled_mask(shape: tuple[int, int], p: float, like: Tensor) -> Tensor | None:
    if p == 0:
        return None
    return like.new_empty(shape).bernoulli_(1 - p).div_(1 - p)
