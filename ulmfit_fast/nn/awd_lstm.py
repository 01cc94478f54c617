"""The AWD-LSTM encoder and its dropouts (Merity et al., arXiv 1708.02182).

Embedding, dropouts and masks are those of every encoder (``nn.stacked``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast import ops
from ulmfit_fast.core.device import on_device
from ulmfit_fast.nn.encoder import LayerState, compute_weights, has_hooks, refuse_tracing
from ulmfit_fast.nn.lstm import WeightDropLSTM, drops
from ulmfit_fast.nn.stacked import (
    DropoutMasks,
    StackConfig,
    StackedEncoder,
    computes,
    embedded_rows,
    layer_input,
    weight_drop,
)


@dataclass(frozen=True)
class AWDLSTMConfig(StackConfig):
    """Sizes and dropout probabilities. The defaults are the paper's sizes (1152 for 1150) and fastai's LM dropouts.

    ``weight_p`` drops recurrent weights (DropConnect). The fields are those of ``StackConfig``.
    """


class AWDLSTMWeights(NamedTuple):
    """The tensors that the layers compute with: parameters, or what parametrizations and pruning made of them."""

    embedding: Tensor  # [V, E]
    layers: list[tuple[Tensor, Tensor, Tensor, Tensor]]  # weight_ih, weight_hh, bias_ih, bias_hh
    packed: list[Tensor | None]  # the layers' ops.lstm_pack, where they are kept

    def flat(self) -> list[Tensor]:
        return [self.embedding, *(tensor for layer in self.layers for tensor in layer)]

    def first_trainable(self) -> int:
        """The first layer that gradients flow into; 0 if the embedding is trained."""
        if self.embedding.requires_grad:
            return 0
        trained = [any(x.requires_grad for x in layer) for layer in self.layers]
        return trained.index(True) if True in trained else len(trained)

    def detached(self) -> AWDLSTMWeights:
        """The same tensors as leaves of a graph of their own."""

        def leaf(x: Tensor) -> Tensor:
            return x.detach().requires_grad_(x.requires_grad)

        layers = [tuple(map(leaf, layer)) for layer in self.layers]
        return AWDLSTMWeights(leaf(self.embedding), layers, self.packed)  # type: ignore[arg-type]

    def over(self, embedding: Tensor) -> AWDLSTMWeights:
        """The same layers, without gradients of their own, behind other rows."""
        layers = [tuple(x.detach() for x in layer) for layer in self.layers]
        return AWDLSTMWeights(embedding, layers, self.packed)  # type: ignore[arg-type]


class AWDLSTM(StackedEncoder):
    """Embedding and a stack of weight-dropped LSTMs; the last layer's output has the embedding's size.

    The layers hold the parameters; what is dropped is a call's ``DropoutMasks``, drawn by ``config``.

    Args:
        config: sizes and dropout probabilities.
    """

    config: AWDLSTMConfig

    def __init__(self, config: AWDLSTMConfig) -> None:
        sizes = config.layer_sizes()
        super().__init__(config, lambda i: WeightDropLSTM(sizes[i], sizes[i + 1], weight_dropout=config.weight_p))

    @property
    def _layers(self) -> list[WeightDropLSTM]:
        return cast(list[WeightDropLSTM], list(self.rnns))

    def initial_state(self, batch: int) -> list[LayerState]:
        """Zero (h, c) for ``batch`` sequences; cell states are float32 (float64 with float64 weights)."""
        weight = self._like
        c_dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        return [
            (
                weight.new_zeros(batch, rnn.proj_size or rnn.hidden_size),
                weight.new_zeros(batch, rnn.hidden_size, dtype=c_dtype),
            )
            for rnn in self._layers
        ]

    def forward(
        self,
        tokens: Tensor,
        batch_sizes: Tensor,
        state: list[LayerState] | None = None,
        masks: DropoutMasks | None = None,
        embedded: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerState]]:
        """Encode packed rows of token ids. Layers with hooks are called as modules, so that the hooks run.

        Under bfloat16 such a layer hands its cell state on rounded to bfloat16; otherwise hooks change nothing.

        Args:
            tokens: int64 [N], as in ``PackedSequence.data``.
            batch_sizes: int64 [T] on CPU.
            state: each layer's (h, c), [B, size]; zeros where None.
            masks: what to drop; nothing where None.
            embedded: [N, E], what ``embed`` makes of the tokens, or something in its place, before any dropout.

        Returns:
            The last layer's output [N, E] before any output dropout, and each layer's state after each sequence's last
            step.
        """
        refuse_tracing("AWDLSTM")
        state = state or self.initial_state(int(batch_sizes[0]))
        if embedded is not None or self.calls_modules():
            return self._call_modules(tokens, batch_sizes, state, masks, embedded)
        weights = self.weights()
        x = embedded_rows(tokens, weights.embedding, masks)
        new_state: list[LayerState] = []
        for layer, (h, c) in enumerate(state):
            x = layer_input(layer, x, batch_sizes, masks)
            h = h.to(x.dtype)
            x, h_n, c_n = ops.lstm(
                x, batch_sizes, h, c, *weights.layers[layer], **weight_drop(layer, masks), packed=weights.packed[layer]
            )
            new_state.append((h_n, c_n))
        return x, new_state

    def _call_modules(
        self,
        tokens: Tensor,
        batch_sizes: Tensor,
        state: list[LayerState],
        masks: DropoutMasks | None,
        embedded: Tensor | None,
    ) -> tuple[Tensor, list[LayerState]]:
        x = self.embed(tokens) if embedded is None else embedded
        if masks is not None and masks.embedding is not None:
            x = x * masks.embedding[tokens].unsqueeze(1).to(x.dtype)
        new_state: list[LayerState] = []
        for layer, (rnn, (h, c)) in enumerate(zip(self._layers, state, strict=True)):
            x = layer_input(layer, x, batch_sizes, masks)
            h = h.to(x.dtype)
            seed = None if masks is None else masks.seeds[layer]
            with drops(rnn, 0.0 if masks is None else masks.weight_p):
                seeds = {"seeds": [seed]} if seed is not None and isinstance(rnn, WeightDropLSTM) else {}
                packed, (h_n, c_n) = rnn(PackedSequence(x, batch_sizes), (h.unsqueeze(0), c.unsqueeze(0)), **seeds)
            x = packed.data
            new_state.append((h_n.squeeze(0), c_n.squeeze(0).to(c.dtype)))
        return x, new_state

    def calls_modules(self) -> bool:
        """Whether a layer must be called as a module: it has hooks, or computes something else than what stood there.

        Otherwise the ops are called on the layers' weights, which needs less memory.
        """
        return (
            not self.simple_embedding()
            or not all(computes(rnn, WeightDropLSTM) and _is_simple(rnn) for rnn in self._layers)
            or any(has_hooks(module) for module in (self, self.encoder, *self.rnns))
        )

    def _run(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: DropoutMasks | None,
        pooled: ops.PooledState | None, weights: AWDLSTMWeights | None, bptt: int, boundary_rows: Tensor | None,
    ) -> tuple[Tensor, ops.PooledState | None, list[LayerState], list[LayerState]]:  # fmt: skip
        sparse = weights is not None and tokens.is_cpu  # where torch adds sparse gradients in no fixed order
        weights = weights or self.weights()
        x = embedded_rows(tokens, weights.embedding, masks, sparse)
        new_state: list[LayerState] = []
        boundaries: list[LayerState] = []
        rows = None if boundary_rows is None else on_device(boundary_rows, x.device)
        for layer, (h, c) in enumerate(state):
            x = layer_input(layer, x, batch_sizes, masks)
            h = h.to(x.dtype)
            arguments = (x, batch_sizes, h, c, *weights.layers[layer])
            drop = weight_drop(layer, masks) | {"packed": weights.packed[layer]}
            if pooled is not None and layer + 1 == len(state):
                result = ops.lstm_pool(*arguments, pooled, **drop, bptt=bptt, keep_states=rows is not None)
                pooled, h_n, c_n, x, cells = result
            elif rows is not None:
                x, h_n, c_n, cells = ops.lstm_with_cells(*arguments, **drop)
            else:
                x, h_n, c_n = ops.lstm(*arguments, **drop, bptt=bptt)
            new_state.append((h_n, c_n))
            if rows is not None:
                boundaries.append((x[rows], cells[rows]))
        return x, pooled, new_state, boundaries

    def weights(self) -> AWDLSTMWeights:
        """What the layers compute with now: each computed once, with its graph, where a parameter is parametrized."""
        compute_weights([self.encoder, *self.rnns])
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        layers = [tuple(cast(Tensor, getattr(rnn, name)) for name in names) for rnn in self._layers]
        embedding = self.encoder.weight
        packed = [
            rnn.packed_weights(0, own, embedding) if isinstance(rnn, WeightDropLSTM) else None
            for rnn, own in zip(self.rnns, layers, strict=True)
        ]
        return AWDLSTMWeights(embedding, layers, packed)  # type: ignore[arg-type]

    def activation_bytes(self) -> int:
        """About how much one token's activations take that are kept for backward, with autocast as it is now."""
        weight = self._like
        dtype = ops.autocast_dtype(weight.device.type)
        item = weight.element_size() if dtype is None else min(weight.element_size(), dtype.itemsize)
        cell = max(4, item)
        # Of each layer the gates, the output, the cell state and the dropped input.
        return sum((5 * r.hidden_size + r.input_size) * item + r.hidden_size * cell for r in self._layers)


def _is_simple(rnn: WeightDropLSTM) -> bool:
    return bool(rnn.bias) and rnn.num_layers == 1 and not rnn.bidirectional and not rnn.proj_size
