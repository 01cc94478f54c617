"""Weights that a layer packs once and not in each call, while it only predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ulmfit_fast import ops
from ulmfit_fast.core.fork import lock_that_forks_wait_for
from ulmfit_fast.ops.lstm_pack import compute_dtype
from ulmfit_fast.ops.shared import wants_gradient

_LEAST_ELEMENTS = 100_000  # of both weights: packing fewer takes no longer than looking whether they have changed
_SAMPLES = 61  # of each weight


class _Entry(NamedTuple):
    packed: Tensor
    versions: tuple[int, ...]
    places: tuple[tuple[Any, ...], ...]  # each weight's address, shape and strides
    kept: tuple[Tensor, ...]  # the weights' memory, which is then not another's at the same address
    views: tuple[Tensor, ...]  # some elements of each, and as they were
    samples: tuple[Tensor, ...]

    def fits(self, weights: tuple[Tensor, ...]) -> bool:
        return (
            tuple(map(_version, weights)) == self.versions
            and tuple(map(_place, weights)) == self.places
            and all(map(torch.equal, self.views, self.samples))
        )


class PackedWeights:
    """A layer's packed weights, for each direction and dtype of computation; one copy for all threads.

    An entry is of the weights' memory and version, and is made anew where either has changed. What is written through
    ``.data``, or by another process into shared memory, does not raise a version: a few dozen elements of each weight
    are compared, too, which sees every change of a whole weight, but not one of some elements. ``drop`` forgets all.
    Copies and pickles of the layer begin empty.
    """

    def __init__(self) -> None:
        self._lock = lock_that_forks_wait_for()
        self._entries: dict[tuple[int, torch.dtype], _Entry] = {}

    def __reduce__(self) -> tuple[type[PackedWeights], tuple[()]]:
        return PackedWeights, ()

    def drop(self) -> None:
        self._entries = {}

    @property
    def nbytes(self) -> int:
        """What the packed weights take."""
        return sum(entry.packed.nbytes for entry in self._entries.values())

    def of_parameters(self, index: int, inputs: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> Tensor | None:
        """``ops.lstm_pack`` of the weights, for a call on ``inputs``; None where they are better packed by the call.

        Args:
            index: of layer and direction.
            inputs: input and states of the call, the input first.
            weights: weight_ih, weight_hh and perhaps weight_hr.
        """
        if not _are_constant(inputs, weights):
            return None
        dtype = compute_dtype(inputs[0])
        return self.of(index, dtype, weights, lambda: ops.lstm_pack(*weights, dtype=dtype), samples=_SAMPLES)

    def of(
        self, index: int, dtype: torch.dtype, weights: tuple[Tensor, ...], pack: Callable[[], Tensor], samples: int = 0
    ) -> Tensor:
        """What ``pack`` made of the weights as they are now; ``samples`` elements of each are compared, too."""
        key = index, dtype
        entry = self._entries.get(key)
        if entry is None or not entry.fits(weights):
            with self._lock:
                entry = self._entries.get(key)
                if entry is None or not entry.fits(weights):
                    entry = _packed(weights, pack, samples)
                    self._entries[key] = entry
        return entry.packed


def _are_constant(inputs: tuple[Tensor, ...], weights: tuple[Tensor, ...]) -> bool:
    """Whether the weights are plain parameters of which no gradient is wanted and no trace is taken."""
    weight = weights[0]
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or weight.device.type != "cpu":
        return False
    if weight.numel() + weights[1].numel() < _LEAST_ELEMENTS or torch._C._len_torch_dispatch_stack() > 0:
        return False
    # What parametrizations and functional_call put in a parameter's place is new in each call. Tensors of inference
    # mode have no version.
    plain = all(type(w) is nn.Parameter and not w.is_inference() for w in weights)
    dtype = compute_dtype(inputs[0])
    known = dtype in (torch.float32, torch.float64, torch.bfloat16)
    fits = all(w.dtype == dtype or (w.dtype == torch.float32 and dtype == torch.bfloat16) for w in weights)
    return plain and known and fits and not wants_gradient((*inputs, *weights))


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version  # which those of inference mode do not have


def _place(weight: Tensor) -> tuple[Any, ...]:
    return weight.data_ptr(), weight.shape, weight.stride()


def _packed(weights: tuple[Tensor, ...], pack: Callable[[], Tensor], samples: int) -> _Entry:
    with torch.inference_mode(False), torch.no_grad():  # outlives the caller's mode
        # Read before packing: a change meanwhile makes the entry a stale one, not a wrong one.
        versions = tuple(map(_version, weights))
        kept = tuple(w.detach() for w in weights)
        views = tuple(_sampled(w, samples) for w in kept) if samples else ()
        as_they_were = tuple(view.clone() for view in views)
        return _Entry(pack(), versions, tuple(map(_place, weights)), kept, views, as_they_were)


def _sampled(weight: Tensor, samples: int) -> Tensor:
    """A view of about so many elements all over a matrix, in many rows and columns."""
    if not weight.is_contiguous():
        return weight[:: max(1, weight.shape[0] // samples), weight.shape[1] // 2]
    flat = weight.view(-1)
    return flat[:: max(1, flat.numel() // samples) | 1]
