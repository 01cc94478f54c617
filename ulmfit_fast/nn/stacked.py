"""What the encoders share: an embedding and a stack of recurrent layers, their sizes, dropouts and masks.

An encoder works on packed rows (see ``ops.lstm``), and its dropout masks are explicit: given the same ``DropoutMasks``
it computes the same thing again, which is how BPT3C recomputes a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ulmfit_fast import ops
from ulmfit_fast.core.device import on_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.random import current_generator
from ulmfit_fast.nn.encoder import LayerState

_MOST_LAYERS = 1000


@dataclass(frozen=True)
class StackConfig:
    """Sizes and dropout probabilities of a stack of recurrent layers over an embedding.

    Args:
        vocab_size: tokens V of the embedding.
        embedding_size: features of a token, and of the last layer's output.
        hidden_size: features of the other layers' states.
        num_layers: recurrent layers.
        pad_id: the padding token's id.
        embed_p: dropout of whole words of the embedding, in [0, 1) like all of these.
        input_p: dropout of the embedded text.
        hidden_p: dropout between layers.
        weight_p: dropout of the layers' weights (DropConnect).
        output_p: dropout after the last layer.

    Raises:
        ValueError: a size that is not a positive whole number, more than 1,000 layers, a probability outside [0, 1).
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
        name = type(self).__name__
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_p") and not 0 <= value < 1:
                raise ValueError(f"{name}: {field.name} must be in [0, 1), got {value}")
        sizes = [getattr(self, f.name) for f in fields(self) if not f.name.endswith("_p")]
        if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            raise ValueError(f"{name}: sizes and num_layers must be whole numbers, got {self}")
        if min(self.vocab_size, self.embedding_size, self.hidden_size, self.num_layers) < 1:
            raise ValueError(f"{name}: sizes and num_layers must be positive, got {self}")
        if self.num_layers > _MOST_LAYERS:  # each takes memory before a weight is there
            raise ValueError(f"{name}: num_layers must be at most {_MOST_LAYERS}, got {self.num_layers}")

    def with_dropouts(self, dropouts: dict[str, float], drop_mult: float) -> Self:
        """The same sizes with other probabilities, each times ``drop_mult``."""
        for name, p in dropouts.items():
            if not 0 <= p * drop_mult < 1:
                raise InputError(f"drop_mult={drop_mult:g} makes {name} {p * drop_mult:g}; dropouts must be in [0, 1)")
        changed: dict[str, Any] = {name: p * drop_mult for name, p in dropouts.items()}
        return replace(self, **changed)

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)

    def layer_sizes(self) -> list[int]:
        """Features of the first layer's input, then of each layer's output."""
        return [self.embedding_size, *[self.hidden_size] * (self.num_layers - 1), self.embedding_size]


# fastai 2.8's dropouts for the two tasks (its awd_lstm_lm_config and awd_lstm_clas_config).
LM_DROPOUTS = {"embed_p": 0.02, "input_p": 0.25, "hidden_p": 0.15, "weight_p": 0.2, "output_p": 0.1}
CLASSIFIER_DROPOUTS = {"embed_p": 0.05, "input_p": 0.4, "hidden_p": 0.3, "weight_p": 0.5, "output_p": 0.4}


class DropoutMasks(NamedTuple):
    """All that is random in one pass of the encoder; masks are scaled by 1 / (1 - p)."""

    embedding: Tensor | None  # [V]: whole rows of the embedding
    locked: list[Tensor | None]  # per layer: [B, its input size], the same at every step
    seeds: list[Tensor]  # per layer: DropConnect seed of its weight
    weight_p: float  # DropConnect's probability

    def of_rows(self, rows: Tensor) -> DropoutMasks:
        """The masks of a batch whose sequence i was sequence ``rows[i]``."""
        masks = [None if mask is None else mask.index_select(0, on_device(rows, mask.device)) for mask in self.locked]
        return self._replace(locked=masks)

    def first(self, batch: int) -> DropoutMasks:
        """The masks of the first sequences."""
        return self._replace(locked=[None if m is None else m[:batch] for m in self.locked])


class StackedEncoder(nn.Module):
    """An embedding ``encoder`` and layers ``rnns``; the last layer's output has the embedding's size.

    The layers hold the parameters; what is dropped is a call's ``DropoutMasks``, drawn by ``config``.

    Args:
        config: sizes and dropout probabilities.
        layer: makes layer i of them; inputs and outputs are ``config.layer_sizes()``.
    """

    config: Any

    def __init__(self, config: StackConfig, layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.encoder = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=None)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        self.rnns = nn.ModuleList(layer(i) for i in range(config.num_layers))

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
        """[embedding], [first layer], ..., [last layer]."""
        return [self.encoder, *self.rnns]

    @property
    def _like(self) -> Tensor:
        """Has the weights' device and dtype; ``encoder.weight`` may be computed anew each time it is read."""
        return next(self.encoder.parameters())

    def set_dropouts(self, config: StackConfig) -> None:
        """Take over the probabilities of ``config`` (its sizes must be this encoder's)."""
        self.config = config
        for rnn in self.rnns:
            rnn.weight_dropout = config.weight_p  # type: ignore[assignment]

    def draw_masks(self, batch: int) -> DropoutMasks | None:
        """Masks for ``batch`` sequences, from torch's generator or the run's; None in eval mode."""
        return self.new_masks(batch, current_generator(self.encoder.weight.device)) if self.training else None

    def new_masks(self, batch: int, generator: torch.Generator | None = None) -> DropoutMasks:
        """Masks for ``batch`` sequences in either mode, from ``generator`` if one is given."""
        config, weight = self.config, self._like
        embedding = scaled_mask((config.vocab_size,), config.embed_p, weight, generator)
        probabilities = [config.input_p, *[config.hidden_p] * (config.num_layers - 1)]
        locked = [
            scaled_mask((batch, int(rnn.input_size)), p, weight, generator)  # type: ignore[arg-type]
            for p, rnn in zip(probabilities, self.rnns, strict=True)
        ]
        seeds = [ops.draw_seed(weight.device, generator) for _ in self.rnns]
        return DropoutMasks(embedding, locked, seeds, config.weight_p)

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the embedding, [..., E], by calling its module: hooks run. Nothing is dropped."""
        return self.encoder(tokens)

    # What each kind of encoder does in its own way (``nn.encoder.Encoder``).

    def initial_state(self, batch: int) -> list[LayerState]:
        raise NotImplementedError

    def weights(self) -> Any:
        raise NotImplementedError

    def calls_modules(self) -> bool:
        raise NotImplementedError

    def activation_bytes(self) -> int:
        raise NotImplementedError

    def _run(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: Any, pooled: ops.PooledState | None,
        weights: Any, bptt: int, boundary_rows: Tensor | None,
    ) -> tuple[Tensor, ops.PooledState | None, list[LayerState], list[LayerState]]:  # fmt: skip
        """``pool``, or without a pooled state ``states``; the first result is the output of the last layer, if held."""
        raise NotImplementedError

    def pool(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: Any, pooled: ops.PooledState, *,
        weights: Any = None, bptt: int = 0, boundary_rows: Tensor | None = None,
    ) -> tuple[ops.PooledState, list[LayerState], list[LayerState]]:  # fmt: skip
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
        ran = self._run(tokens, batch_sizes, state, masks, pooled, weights, bptt, boundary_rows)
        _, new_pooled, new_state, boundaries = ran
        assert new_pooled is not None
        return new_pooled, new_state, boundaries

    def states(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: Any, *, weights: Any = None,
        bptt: int = 0, boundary_rows: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerState], list[LayerState]]:  # fmt: skip
        """As ``pool``, but the first of the results is the last layer's output [N, E]."""
        ran = self._run(tokens, batch_sizes, state, masks, None, weights, bptt, boundary_rows)
        output, _, new_state, boundaries = ran
        return output, new_state, boundaries

    def simple_embedding(self) -> bool:
        """Whether the embedding is what ``embedded_rows`` computes, apart from hooks."""
        embedding = self.encoder
        known = embedding.max_norm is None and embedding.padding_idx is None and not embedding.scale_grad_by_freq
        return known and computes(embedding, nn.Embedding)


def computes(module: nn.Module, as_class: type[nn.Module]) -> bool:
    """Whether calling ``module`` does what ``as_class`` does: no subclass's or wrapper's forward."""
    return type(module).forward is as_class.forward and "forward" not in vars(module)


def embedded_rows(tokens: Tensor, embedding: Tensor, masks: DropoutMasks | None, sparse: bool = False) -> Tensor:
    """Rows [N, E] of the tokens after dropout of words; ``sparse``: with a sparse gradient."""
    mask = None if masks is None else masks.embedding
    if not sparse:
        return ops.embedding(tokens, embedding, mask)
    x = F.embedding(tokens, embedding, sparse=True)
    return x if mask is None else x * mask[tokens].unsqueeze(1).to(x.dtype)


def layer_input(layer: int, x: Tensor, batch_sizes: Tensor, masks: DropoutMasks | None) -> Tensor:
    """A layer's input after dropout."""
    mask = None if masks is None else masks.locked[layer]
    return x if mask is None else ops.locked_dropout(x, mask, batch_sizes)


def weight_drop(layer: int, masks: DropoutMasks | None) -> dict[str, Any]:
    """How a layer's weight is dropped: the arguments of the ops."""
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
