"""The QRNN encoder, MultiFiT's: quasi-recurrent layers behind the same embedding and dropouts as the AWD-LSTM's.

All of a layer's products are one for all steps; what is left for each step is a few operations an element. Embedding,
dropouts and masks are those of every encoder (``nn.stacked``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast.core.device import on_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.encoder import LayerState, compute_weights, has_hooks, refuse_tracing
from ulmfit_fast.nn.qrnn_layer import QRNNLayer, dropped_weight, run_layer
from ulmfit_fast.nn.stacked import (
    DropoutMasks,
    StackConfig,
    StackedEncoder,
    computes,
    embedded_rows,
    layer_input,
    weight_drop,
)
from ulmfit_fast.ops import PooledState, autocast_dtype


@dataclass(frozen=True)
class QRNNConfig(StackConfig):
    """Sizes and dropout probabilities. The sizes' defaults are MultiFiT's, the dropouts' fastai's LM dropouts.

    ``weight_p`` drops the weights of the layers' products (DropConnect). The fields are those of ``StackConfig``.

    Source: Eisenschlos et al., "MultiFiT" (arXiv 1909.04761), section 3.
    """

    hidden_size: int = 1550
    num_layers: int = 4


class QRNNWeights(NamedTuple):
    """The tensors that the layers compute with: parameters, or what parametrizations and pruning made of them."""

    embedding: Tensor  # [V, E]
    layers: list[tuple[Tensor, Tensor]]  # weight, bias

    def flat(self) -> list[Tensor]:
        return [self.embedding, *(tensor for layer in self.layers for tensor in layer)]

    def first_trainable(self) -> int:
        """The first layer that gradients flow into; 0 if the embedding is trained."""
        if self.embedding.requires_grad:
            return 0
        trained = [any(x.requires_grad for x in layer) for layer in self.layers]
        return trained.index(True) if True in trained else len(trained)

    def detached(self) -> QRNNWeights:
        """The same tensors as leaves of a graph of their own."""

        def leaf(x: Tensor) -> Tensor:
            return x.detach().requires_grad_(x.requires_grad)

        return QRNNWeights(leaf(self.embedding), [(leaf(weight), leaf(bias)) for weight, bias in self.layers])

    def over(self, embedding: Tensor) -> QRNNWeights:
        """The same layers, without gradients of their own, behind other rows."""
        return QRNNWeights(embedding, [(weight.detach(), bias.detach()) for weight, bias in self.layers])


class QRNN(StackedEncoder):
    """Embedding and a stack of QRNN layers; the first looks at two inputs at a time, the others at one.

    A layer's state is its cell state c, the first one's also its last input after dropout: a text goes on exactly where
    the last call ended. The last layer's output has the embedding's size.

    Args:
        config: sizes and dropout probabilities.
    """

    config: QRNNConfig

    def __init__(self, config: QRNNConfig) -> None:
        sizes = config.layer_sizes()
        super().__init__(
            config,
            lambda i: QRNNLayer(sizes[i], sizes[i + 1], window=2 if i == 0 else 1, weight_dropout=config.weight_p),
        )

    @property
    def _layers(self) -> list[QRNNLayer]:
        return cast(list[QRNNLayer], list(self.rnns))

    def initial_state(self, batch: int) -> list[LayerState]:
        """Zeros for ``batch`` sequences: each layer's c (float32, float64 with float64 weights), the first one's x."""
        weight, config = self._like, self.config
        sizes = config.layer_sizes()
        c_dtype = PooledState.empty(0, 0, weight.dtype).last.dtype
        state: list[LayerState] = [(weight.new_zeros(batch, size, dtype=c_dtype),) for size in sizes[1:]]
        state[0] += (weight.new_zeros(batch, sizes[0]),)
        return state

    def forward(
        self,
        tokens: Tensor,
        batch_sizes: Tensor,
        state: list[LayerState] | None = None,
        masks: DropoutMasks | None = None,
        embedded: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerState]]:
        """Encode packed rows of token ids. Layers with hooks are called as modules, so that the hooks run.

        Args:
            tokens: int64 [N], as in ``PackedSequence.data``.
            batch_sizes: int64 [T] on CPU.
            state: each layer's, as ``initial_state``; zeros where None.
            masks: what to drop; nothing where None.
            embedded: [N, E], what ``embed`` makes of the tokens, or something in its place, before any dropout.

        Returns:
            The last layer's output [N, E] before any output dropout, and each layer's state after each sequence's last
            step.

        Raises:
            InputError: under ``torch.export``.
        """
        refuse_tracing("QRNN")
        if torch.compiler.is_exporting():
            raise InputError("QRNN: torch.export does not take a QRNN; export a model with encoder awd_lstm")
        state = state or self.initial_state(int(batch_sizes[0]))
        as_modules = embedded is not None or self.calls_modules()
        weights = self.weights()
        if as_modules:
            x = self.embed(tokens) if embedded is None else embedded
            if masks is not None and masks.embedding is not None:
                x = x * masks.embedding[tokens].unsqueeze(1).to(x.dtype)
        else:
            x = embedded_rows(tokens, weights.embedding, masks)
        new_state: list[LayerState] = []
        for layer, before in enumerate(state):
            x = layer_input(layer, x, batch_sizes, masks)
            if as_modules:
                x, after = self._call_layer(layer, x, batch_sizes, before, masks)
            else:
                x, after, _, _ = self._run_layer(layer, x, batch_sizes, before, weights, masks)
            new_state.append(after)
        return x, new_state

    def _call_layer(
        self, layer: int, x: Tensor, batch_sizes: Tensor, state: LayerState, masks: DropoutMasks | None
    ) -> tuple[Tensor, LayerState]:
        rnn = self.rnns[layer]
        if not isinstance(rnn, QRNNLayer):
            packed, after = rnn(PackedSequence(x, batch_sizes), state)
            return packed.data, after
        before = rnn.training, rnn.weight_dropout  # a call's masks say what is dropped, whatever the layer's mode
        rnn.training, rnn.weight_dropout = masks is not None, 0.0 if masks is None else masks.weight_p
        try:
            seed = None if masks is None else masks.seeds[layer]
            packed, after = rnn(PackedSequence(x, batch_sizes), state, seed=seed)
        finally:
            rnn.training, rnn.weight_dropout = before
        return packed.data, after

    def _run_layer(
        self, layer: int, x: Tensor, batch_sizes: Tensor, state: LayerState, weights: QRNNWeights,
        masks: DropoutMasks | None, bptt: int = 0, pooled: PooledState | None = None, rows: Tensor | None = None,
    ) -> tuple[Tensor, LayerState, LayerState, PooledState | None]:  # fmt: skip
        weight, bias = weights.layers[layer]
        drop = weight_drop(layer, masks)
        return run_layer(
            x, batch_sizes, state, dropped_weight(weight, drop["weight_dropout"], drop["seed"]), bias, len(state),
            bptt=bptt, pooled=pooled, boundary_rows=rows,
        )  # fmt: skip

    def calls_modules(self) -> bool:
        """Whether a layer must be called as a module: it has hooks, or computes something else than what stood there.

        Otherwise the ops are called on the layers' weights, which needs less memory.
        """
        simple = self.simple_embedding() and all(
            computes(rnn, QRNNLayer) and rnn.window == (2 if i == 0 else 1) and rnn.output_gate
            for i, rnn in enumerate(self._layers)
        )
        return not simple or any(has_hooks(module) for module in (self, self.encoder, *self.rnns))

    def _run(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: DropoutMasks | None,
        pooled: PooledState | None, weights: QRNNWeights | None, bptt: int, boundary_rows: Tensor | None,
    ) -> tuple[Tensor, PooledState | None, list[LayerState], list[LayerState]]:  # fmt: skip
        sparse = weights is not None and tokens.is_cpu  # where torch adds sparse gradients in no fixed order
        weights = weights or self.weights()
        x = embedded_rows(tokens, weights.embedding, masks, sparse)
        new_state: list[LayerState] = []
        boundaries: list[LayerState] = []
        rows = None if boundary_rows is None else on_device(boundary_rows, x.device)
        for layer, before in enumerate(state):
            x = layer_input(layer, x, batch_sizes, masks)
            into = pooled if layer + 1 == len(state) else None
            x, after, at_rows, new_pooled = self._run_layer(
                layer, x, batch_sizes, before, weights, masks, bptt, into, rows
            )
            pooled = new_pooled or pooled
            new_state.append(after)
            if rows is not None:
                boundaries.append(at_rows)
        return x, pooled, new_state, boundaries

    def weights(self) -> QRNNWeights:
        """What the layers compute with now: each computed once, with its graph, where a parameter is parametrized."""
        compute_weights([self.encoder, *self.rnns])
        return QRNNWeights(self.encoder.weight, [(rnn.weight, rnn.bias) for rnn in self._layers])

    def activation_bytes(self) -> int:
        """About how much one token's activations take that are kept for backward, with autocast as it is now."""
        weight = self._like
        dtype = autocast_dtype(weight.device.type)
        item = weight.element_size() if dtype is None else min(weight.element_size(), dtype.itemsize)
        # Of each layer the gates, the output, the cell state and the product's input, the first one's twice as wide.
        return sum(
            (4 * r.hidden_size + (2 * r.window - 1) * r.input_size) * item + r.hidden_size * max(4, item)
            for r in self._layers
        )
