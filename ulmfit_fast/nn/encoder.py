"""What BPT3C and the classifier ask of an encoder: a stack of recurrent layers over packed rows of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ulmfit_fast.ops import PooledState

# What a layer carries from step to step, each [B, size]; of an LSTM h and c. A document's stretch can start from it.
LayerState = tuple[Tensor, ...]

# torch's own hooks that compute a weight from other parameters; they ignore the layer's input.
_WEIGHT_HOOKS = (BasePruningMethod, SpectralNorm, WeightNorm)


class EncoderMasks(Protocol):
    """All that is random in one pass over a batch."""

    def of_rows(self, rows: Tensor) -> Self:
        """The masks of a batch whose sequence i was sequence ``rows[i]``."""

    def first(self, batch: int) -> Self:
        """The masks of the first sequences."""


class EncoderWeights(Protocol):
    """The tensors that an encoder computes with: parameters, or what parametrizations made of them."""

    def flat(self) -> list[Tensor]:
        """All of them, in one order; one that two layers share comes twice."""

    def detached(self) -> Self:
        """The same values as leaves of a graph of their own."""

    def over(self, embedding: Tensor) -> Self | None:
        """The same layers, without gradients of their own, behind other rows [V', E] of an embedding.

        None where the layers have no form that is differentiated.
        """

    def first_trainable(self) -> int:
        """The first layer that gradients flow into; the number of layers if there is none."""


class Encoder(Protocol):
    """Tokens to states, which are pooled over a document's tokens. Also an ``nn.Module``.

    Beside what the two passes need there are ``embed`` and the call, through which layers run that somebody watches
    (``calls_modules``), and what a classifier around the encoder and its folder must know: ``vocab_size``,
    ``output_p``, ``layer_groups``, ``config``.
    """

    training: bool
    config: Any  # a dataclass of sizes and dropouts, which makes the encoder again

    @property
    def output_size(self) -> int:
        """Features of the last layer's output."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def output_p(self) -> float:
        """Dropout of what is made of the output."""

    def layer_groups(self) -> list[nn.Module]:
        """The embedding, then each layer."""

    def initial_state(self, batch: int) -> list[LayerState]:
        """What ``batch`` sequences start from."""

    def draw_masks(self, batch: int) -> Any:
        """``EncoderMasks`` of ``batch`` sequences from torch's generator; None in eval mode."""

    def new_masks(self, batch: int, generator: torch.Generator | None = None) -> Any:
        """``EncoderMasks`` of ``batch`` sequences in either mode, from ``generator`` if one is given."""

    def weights(self) -> Any:
        """``EncoderWeights``: what the parameters are now, with their graph."""

    def activation_bytes(self) -> int:
        """About how much one token's activations take that are kept for backward."""

    def pool(
        self,
        tokens: Tensor,
        batch_sizes: Tensor,
        state: list[LayerState],
        masks: Any,
        pooled: PooledState,
        *,
        weights: Any = None,
        bptt: int = 0,
        boundary_rows: Tensor | None = None,
    ) -> tuple[PooledState, list[LayerState], list[LayerState]]:
        """Run packed rows; see ``AWDLSTM.pool``."""

    def states(
        self,
        tokens: Tensor,
        batch_sizes: Tensor,
        state: list[LayerState],
        masks: Any,
        *,
        weights: Any = None,
        bptt: int = 0,
        boundary_rows: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerState], list[LayerState]]:
        """The same with the last layer's output [N, output_size] first, for poolings that take the states."""

    def calls_modules(self) -> bool:
        """Whether a layer must be called as a module: it has hooks, or is not what ``pool`` knows how to compute."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Rows of the embedding by calling its module, [..., E]; nothing is dropped."""

    def __call__(
        self, tokens: Tensor, batch_sizes: Tensor, state: Any = None, masks: Any = None, embedded: Tensor | None = None
    ) -> tuple[Tensor, list[LayerState]]:
        """The last layer's output [N, output_size] and the new states; ``embedded`` in place of ``embed(tokens)``."""


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody is to be told when ``module`` runs. Hooks that compute a weight do not count."""
    watching = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, _WEIGHT_HOOKS)]
    return bool(watching or module._forward_hooks or module._backward_hooks or module._backward_pre_hooks)


def compute_weights(modules: Sequence[nn.Module]) -> None:
    """Set the weights that are computed as a module is called: pruned ones, the older weight and spectral norm."""
    for module in modules:
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _WEIGHT_HOOKS):
                hook(module, ())


def refuse_tracing(name: str) -> None:
    """torch.jit.trace would hold on to the lengths of its example, and its own check would not see it."""
    if torch.jit.is_tracing():
        raise RuntimeError(
            f"{name}: torch.jit.trace cannot follow sequences of other lengths than its example's and would give wrong "
            "values for them; use torch.export (ulmfit_fast.interop.torch_export) or ONNX (ulmfit_fast.interop.onnx, "
            "torch.onnx.export with dynamo=True)"
        )
