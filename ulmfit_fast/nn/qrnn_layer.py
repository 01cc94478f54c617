"""One layer of a quasi-recurrent neural network (Bradbury et al., arXiv 1611.01576)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast import ops
from ulmfit_fast.core.device import on_device
from ulmfit_fast.nn.encoder import LayerState
from ulmfit_fast.ops import PooledState


class QRNNLayer(nn.Module):
    """A convolution of width 1 or 2 over the inputs and a recurrence of element by element over what it gave.

    ``z, f, o = W [x_t, x_{t-1}] + b``; ``c_t = s(f) tanh(z) + (1 - s(f)) c_{t-1}``; ``h_t = s(o) c_t``. Parameters are
    ``weight`` [3H, window * F] and ``bias`` [3H], fastai's ``linear.weight`` and ``linear.bias``. In training mode each
    call drops the elements of the weight with probability ``weight_dropout``, one mask for all time steps. What comes
    before the first input is zero, or what the state holds.

    On the CPU a sequence's bits depend neither on the other sequences nor on where calls begin.

    >>> layer = QRNNLayer(400, 1550, window=2)
    >>> output, state = layer(torch.randn(70, 64, 400))  # [70, 64, 1550], (c [64, 1550], last input [64, 400])

    Args:
        input_size: features F of a time step.
        hidden_size: features H of the output.
        window: inputs that a step looks at, 1 or 2.
        output_gate: whether there is ``o``; without it ``h_t = c_t``, and the parameters have 2H rows.
        weight_dropout: probability of dropping an element of ``weight``, in [0, 1).

    Raises:
        ValueError: another window, sizes that are not positive, ``weight_dropout`` outside [0, 1).
    """

    def __init__(
        self, input_size: int, hidden_size: int, window: int = 1, output_gate: bool = True, weight_dropout: float = 0.0
    ) -> None:
        super().__init__()
        if window not in (1, 2):
            raise ValueError(f"QRNNLayer: window must be 1 or 2, got {window}")
        if min(input_size, hidden_size) < 1:
            raise ValueError(f"QRNNLayer: sizes must be positive, got input_size {input_size}, {hidden_size=}")
        if not 0 <= weight_dropout < 1:
            raise ValueError(f"QRNNLayer: weight_dropout must be in [0, 1), got {weight_dropout}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.window, self.output_gate, self.weight_dropout = window, output_gate, weight_dropout
        rows = (3 if output_gate else 2) * hidden_size
        self.weight = nn.Parameter(torch.empty(rows, window * input_size))
        self.bias = nn.Parameter(torch.empty(rows))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw weight and bias as ``nn.Linear`` does."""
        bound = 1 / math.sqrt(self.window * self.input_size)
        with torch.no_grad():
            self.weight.uniform_(-bound, bound, generator=generator)
            self.bias.uniform_(-bound, bound, generator=generator)

    def initial_state(self, batch: int) -> LayerState:
        """Zeros for ``batch`` sequences: c [B, H] in float32 or float64; with window 2 the last x [B, F], too."""
        weight = self.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        c = weight.new_zeros(batch, self.hidden_size, dtype=dtype)
        return (c,) if self.window == 1 else (c, weight.new_zeros(batch, self.input_size))

    def extra_repr(self) -> str:
        dropped = f", weight_dropout={self.weight_dropout}" if self.weight_dropout else ""
        gate = "" if self.output_gate else ", output_gate=False"
        return f"{self.input_size}, {self.hidden_size}, window={self.window}{gate}{dropped}"

    def forward(
        self, input: Tensor | PackedSequence, state: LayerState | None = None, *, seed: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, LayerState]:
        """Run all steps.

        Args:
            input: [T, B, F], or a ``PackedSequence``, whose rows of state are then in its packed order.
            state: what the last call returned; zeros where None.
            seed: int64, chooses what is dropped; drawn where None.

        Returns:
            The output as the input came, [T, B, H] or packed, and the new state.

        Raises:
            ValueError, TypeError: shapes or dtypes that do not fit, with the ops' messages.
        """
        if isinstance(input, PackedSequence):
            x, sizes = input.data, input.batch_sizes
        elif input.dim() != 3:
            raise ValueError(f"QRNNLayer: input must be [T, B, F] or a PackedSequence, got shape {list(input.shape)}")
        else:
            x = input.flatten(0, 1)
            sizes = torch.full((len(input),), input.shape[1], dtype=torch.int64, device="cpu")
        if x.shape[-1] != self.input_size:
            raise ValueError(f"QRNNLayer: input must have {self.input_size} features, got {x.shape[-1]}")
        state = state or self.initial_state(int(sizes[0]) if len(sizes) else 0)
        p = self.weight_dropout if self.training else 0.0
        weight = dropped_weight(self.weight, p, seed)
        result = run_layer(x, sizes, state, weight, self.bias, self.window, output_gate=self.output_gate)
        if isinstance(input, PackedSequence):
            return PackedSequence(result.output, sizes, input.sorted_indices, input.unsorted_indices), result.state
        return result.output.view(*input.shape[:2], self.hidden_size), result.state


class LayerResult(NamedTuple):
    """What ``run_layer`` returns.

    Attributes:
        output: [N, H]; empty where it is pooled.
        state: after each sequence's last step.
        boundaries: the layer's states at the rows asked for, without a graph; empty where none were.
        pooled: the new pooled state; None where nothing is pooled.
    """

    output: Tensor
    state: LayerState
    boundaries: LayerState
    pooled: PooledState | None


def run_layer(
    x: Tensor, batch_sizes: Tensor, state: LayerState, weight: Tensor, bias: Tensor, window: int, *,
    output_gate: bool = True, bptt: int = 0, pooled: PooledState | None = None, boundary_rows: Tensor | None = None,
) -> LayerResult:  # fmt: skip
    """A layer over packed rows [N, F], with a weight that is dropped already.

    Args:
        x, batch_sizes, pooled, bptt: as ``gates`` for ``ops.forget_mult``.
        state: each sequence's, as ``QRNNLayer.initial_state``.
        boundary_rows: int64, rows whose states to return.
    """
    boundaries: tuple[Tensor, ...] = ()
    end = state[1:]
    source = x
    if window == 2:
        source = torch.cat([x, previous_inputs(x, batch_sizes, state[1].to(x.dtype), bptt)], 1)
        end = (last_inputs(x, batch_sizes).to(state[1].dtype),)
    gates = ops.linear(source, weight, bias)
    keep = boundary_rows is not None
    result = ops.forget_mult(
        gates, batch_sizes, state[0], output_gate=output_gate, state=pooled, bptt=bptt, keep_states=keep
    )
    if boundary_rows is not None:
        boundaries = (result.cells[boundary_rows].to(state[0].dtype),)
        if window == 2:
            boundaries += (x[boundary_rows].to(state[1].dtype),)
    return LayerResult(result.output, (result.c_n, *end), boundaries, result.state)


def dropped_weight(weight: Tensor, p: float, seed: Tensor | None) -> Tensor:
    """The weight after DropConnect: elements zero with probability p, the others times 1 / (1 - p)."""
    if p == 0:
        return weight
    seed = ops.draw_seed(weight.device) if seed is None else seed.to(weight.device)
    keep = ops.dropconnect_mask(seed, weight.shape[0], weight.shape[1], p)
    return weight * keep.to(weight.dtype).mul_(1 / (1 - p))


def previous_inputs(x: Tensor, batch_sizes: Tensor, before: Tensor, bptt: int = 0) -> Tensor:
    """Each packed row's input of the step before, [N, F]; ``before`` [B, F] is what precedes the first step.

    Args:
        bptt: if positive, gradients do not cross multiples of this many steps.
    """
    if batch_sizes[0] == batch_sizes[-1]:
        rows = int(batch_sizes[0])
        previous = torch.cat([before, x[: len(x) - rows]])
    else:
        offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
        first = torch.cat([offsets[:1], len(before) + offsets[:-1]])  # of the rows of the step before
        index = torch.arange(len(x), device="cpu") + (first - offsets).repeat_interleave(batch_sizes)
        previous = torch.cat([before, x]).index_select(0, on_device(index, x.device))
    if not bptt or len(batch_sizes) <= bptt or not previous.requires_grad:
        return previous
    steps = torch.arange(len(batch_sizes), device="cpu")
    begins = ((steps % bptt == 0) & (steps > 0)).repeat_interleave(batch_sizes).unsqueeze(1)
    return torch.where(on_device(begins, x.device), previous.detach(), previous)


def last_inputs(x: Tensor, batch_sizes: Tensor) -> Tensor:
    """Each sequence's last input, [B, F], of packed rows."""
    rows = int(batch_sizes[0])
    if batch_sizes[0] == batch_sizes[-1]:
        return x[len(x) - rows :]
    offsets = torch.cumsum(batch_sizes, 0) - batch_sizes
    last = offsets[ops.sequence_lengths(batch_sizes) - 1] + torch.arange(rows, device="cpu")
    return x.index_select(0, on_device(last, x.device))
