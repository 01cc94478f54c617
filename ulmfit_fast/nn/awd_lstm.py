"""The AWD-LSTM encoder and its dropouts (Merity et al., arXiv 1708.02182).

The encoder works on packed rows (see ``ops.lstm``), and its dropout masks are explicit: given the same ``DropoutMasks``
it computes the same thing again, which is how BPT3C recomputes a chunk.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast import ops
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.random import current_generator
from ulmfit_fast.nn.encoder import LayerState, compute_weights, has_hooks, on_device, refuse_tracing
from ulmfit_fast.nn.lstm import WeightDropLSTM, drops


@dataclass(frozen=True)
class AWDLSTMConfig:
    """Sizes and dropout probabilities. The defaults are the paper's sizes (1152 for 1150) and fastai's LM dropouts.

    Args:
        vocab_size: tokens V of the embedding.
        embedding_size: features of a token, and of the last layer's output.
        hidden_size: features of the other layers' states.
        num_layers: LSTM layers.
        pad_id: the padding token's id.
        embed_p: dropout of whole words of the embedding, in [0, 1) like all of these.
        input_p: dropout of the embedded text.
        hidden_p: dropout between layers.
        weight_p: dropout of recurrent weights (DropConnect).
        output_p: dropout after the last layer.

    Raises:
        ValueError: a size that is not a positive whole number, a probability outside [0, 1).
    """

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

    embedding: Tensor | None  # [V]: whole rows of the embedding
    locked: list[Tensor | None]  # per layer: [B, its input size], the same at every step
    seeds: list[Tensor]  # per layer: DropConnect seed of its recurrent weight
    weight_p: float  # DropConnect's probability

    def of_rows(self, rows: Tensor) -> DropoutMasks:
        """The masks of a batch whose sequence i was sequence ``rows[i]``."""
        masks = [None if mask is None else mask.index_select(0, on_device(rows, mask.device)) for mask in self.locked]
        return self._replace(locked=masks)

    def first(self, batch: int) -> DropoutMasks:
        """The masks of the first sequences."""
        return self._replace(locked=[None if m is None else m[:batch] for m in self.locked])


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


class AWDLSTM(nn.Module):
    """Embedding and a stack of weight-dropped LSTMs; the last layer's output has the embedding's size.

    The layers hold the parameters; what is dropped is a call's ``DropoutMasks``, drawn by ``config``.

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
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def output_p(self) -> float:
        return self.config.output_p

    def layer_groups(self) -> list[nn.Module]:
        """[embedding], [first LSTM], ..., [last LSTM]."""
        return [self.encoder, *self.rnns]

    @property
    def _like(self) -> Tensor:
        """Has the weights' device and dtype; ``encoder.weight`` may be computed anew each time it is read."""
        return next(self.encoder.parameters())

    @property
    def _layers(self) -> list[WeightDropLSTM]:
        return cast(list[WeightDropLSTM], list(self.rnns))

    def set_dropouts(self, config: AWDLSTMConfig) -> None:
        """Take over the probabilities of ``config`` (its sizes must be this encoder's)."""
        self.config = config
        for rnn in self._layers:
            rnn.weight_dropout = config.weight_p

    def draw_masks(self, batch: int) -> DropoutMasks | None:
        """Masks for ``batch`` sequences, from torch's generator or the run's; None in eval mode."""
        return self.new_masks(batch, current_generator(self.encoder.weight.device)) if self.training else None

    def new_masks(self, batch: int, generator: torch.Generator | None = None) -> DropoutMasks:
        """Masks for ``batch`` sequences in either mode, from ``generator`` if one is given."""
        config, weight = self.config, self._like
        embedding = scaled_mask((config.vocab_size,), config.embed_p, weight, generator)
        probabilities = [config.input_p, *[config.hidden_p] * (config.num_layers - 1)]
        locked = [
            scaled_mask((batch, rnn.input_size), p, weight, generator)
            for p, rnn in zip(probabilities, self._layers, strict=True)
        ]
        seeds = [ops.draw_seed(weight.device, generator) for _ in self.rnns]
        return DropoutMasks(embedding, locked, seeds, config.weight_p)

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
        x = _embed(tokens, weights.embedding, masks)
        new_state: list[LayerState] = []
        for layer, (h, c) in enumerate(state):
            x, h = _layer_input(layer, x, h, batch_sizes, masks)
            x, h_n, c_n = ops.lstm(
                x, batch_sizes, h, c, *weights.layers[layer], **_weight_drop(layer, masks), packed=weights.packed[layer]
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
            x, h = _layer_input(layer, x, h, batch_sizes, masks)
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
        embedding = self.encoder
        known = embedding.max_norm is None and embedding.padding_idx is None and not embedding.scale_grad_by_freq
        return (
            not (known and _computes(embedding, nn.Embedding))
            or not all(_computes(rnn, WeightDropLSTM) and _is_simple(rnn) for rnn in self._layers)
            or any(has_hooks(module) for module in (self, embedding, *self.rnns))
        )

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the embedding, [..., E], by calling its module: hooks run. Nothing is dropped."""
        return self.encoder(tokens)

    def pool(
        self,
        tokens: Tensor,
        batch_sizes: Tensor,
        state: list[LayerState],
        masks: DropoutMasks | None,
        pooled: ops.PooledState,
        *,
        weights: AWDLSTMWeights | None = None,
        bptt: int = 0,
        boundary_rows: Tensor | None = None,
    ) -> tuple[ops.PooledState, list[LayerState], list[LayerState]]:
        """Encode packed rows into the pooled state of their documents; the last layer's output is never held.

        Args:
            tokens, batch_sizes, state, masks: as ``forward``.
            pooled: the documents' pooled state so far; row r belongs to document r.
            weights: to use in place of the encoder's own; on CPU the embedding's gradient is then sparse.
            bptt: if positive, gradients do not cross multiples of this many steps.
            boundary_rows: int64, packed rows whose states to return (without a graph). For a call without a graph.

        Returns:
            The new pooled state, each layer's state after each sequence's last step, and each layer's states at
            ``boundary_rows``.
        """
        sparse = weights is not None and not tokens.is_cuda  # where torch adds sparse gradients in no fixed order
        weights = weights or self.weights()
        x = _embed(tokens, weights.embedding, masks, sparse)
        new_state: list[LayerState] = []
        boundaries: list[LayerState] = []
        rows = None if boundary_rows is None else on_device(boundary_rows, x.device)
        for layer, (h, c) in enumerate(state):
            x, h = _layer_input(layer, x, h, batch_sizes, masks)
            arguments = (x, batch_sizes, h, c, *weights.layers[layer])
            drop = _weight_drop(layer, masks) | {"packed": weights.packed[layer]}
            if layer + 1 == len(state):
                result = ops.lstm_pool(*arguments, pooled, **drop, bptt=bptt, keep_states=rows is not None)
                pooled, h_n, c_n, x, cells = result
            elif rows is not None:
                x, h_n, c_n, cells = ops.lstm_with_cells(*arguments, **drop)
            else:
                x, h_n, c_n = ops.lstm(*arguments, **drop, bptt=bptt)
            new_state.append((h_n, c_n))
            if rows is not None:
                boundaries.append((x[rows], cells[rows]))
        return pooled, new_state, boundaries

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


def _computes(module: nn.Module, as_class: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what ``as_class`` does: no subclass's or wrapper's forward."""
    return type(module).forward is as_class.forward and "forward" not in vars(module)


def _is_simple(rnn: WeightDropLSTM) -> bool:
    return bool(rnn.bias) and rnn.num_layers == 1 and not rnn.bidirectional and not rnn.proj_size


def _embed(tokens: Tensor, embedding: Tensor, masks: DropoutMasks | None, sparse: bool = False) -> Tensor:
    mask = None if masks is None else masks.embedding
    if not sparse:
        return ops.embedding(tokens, embedding, mask)
    x = F.embedding(tokens, embedding, sparse=True)
    return x if mask is None else x * mask[tokens].unsqueeze(1).to(x.dtype)


def _layer_input(
    layer: int, x: Tensor, h: Tensor, batch_sizes: Tensor, masks: DropoutMasks | None
) -> tuple[Tensor, Tensor]:
    """A layer's input after dropout, and its state in the same dtype."""
    mask = None if masks is None else masks.locked[layer]
    if mask is not None:
        x = ops.locked_dropout(x, mask, batch_sizes)
    return x, h.to(x.dtype)


def _weight_drop(layer: int, masks: DropoutMasks | None) -> dict[str, Any]:
    if masks is None:
        return {"weight_dropout": 0.0, "seed": None}
    return {"weight_dropout": masks.weight_p, "seed": masks.seeds[layer]}


def scaled_mask(
    shape: tuple[int, ...], p: float, like: Tensor, generator: torch.Generator | None = None
) -> Tensor | None:
    """0 or 1 / (1 - p), float32 (float64 beside float64) on the device of ``like``; None where nothing is dropped."""
    if p == 0:
        return None
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.empty(shape, dtype=dtype, device=like.device).bernoulli_(1 - p, generator=generator).div_(1 - p)
