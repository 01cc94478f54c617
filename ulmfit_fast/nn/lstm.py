"""``WeightDropLSTM``: ``torch.nn.LSTM`` with dropped recurrent weights, and packed sequences without padding."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from ulmfit_fast import ops
from ulmfit_fast.nn.packed_weights import PackedWeights

State = tuple[Tensor, Tensor]


class WeightDropLSTM(nn.RNNBase):
    """A drop-in for ``torch.nn.LSTM`` with DropConnect on every ``weight_hh``.

    Same arguments, parameter names, state dict, initialisation, inputs and outputs as ``torch.nn.LSTM``; a state dict
    loads both ways. In training mode each call drops the elements of every recurrent weight with probability
    ``weight_dropout`` and scales the rest by ``1 / (1 - weight_dropout)``, one mask for all time steps. The parameter
    itself stays whole: its gradient is zero exactly where it was dropped. Packed sequences are computed as packed:
    without padding. Works inside ``torch.compile(fullgraph=True)`` and ``torch.export``; ``torch.fx.symbolic_trace``
    keeps it whole, as it does ``torch.nn.LSTM``; ``torch.jit.trace`` records it for any lengths. Parameters and input
    in float32, float64, bfloat16 or float16 (on a CPU computed in float32), under autocast in any of them (on a CPU not
    in float16). No second derivatives, no ``torch.jit.script``, no quantized form.

    >>> lstm = WeightDropLSTM(400, 1152, num_layers=2, weight_dropout=0.5)
    >>> output, (h_n, c_n) = lstm(torch.randn(70, 64, 400))  # [70, 64, 1152], ([2, 64, 1152], [2, 64, 1152])

    Args:
        input_size: features of a time step.
        hidden_size: features of the state.
        num_layers: stacked layers.
        bias: whether the layers have biases.
        batch_first: dense input and output are [B, T, features] instead of [T, B, features].
        dropout: probability of dropping an element of the output of every layer but the last, in [0, 1].
        bidirectional: a second set of weights runs from the end; outputs are concatenated.
        proj_size: if positive, the state h is projected to this size.
        device, dtype: of the parameters.
        weight_dropout: probability of dropping an element of ``weight_hh``, in [0, 1).

    Shape:
        As ``torch.nn.LSTM``: input [T, B, F], unbatched [T, F], or a ``PackedSequence`` (sorted or not); optional
        state (h0 [layers * directions, B, P or H], c0 [layers * directions, B, H]).

    Raises:
        ValueError: ``weight_dropout`` outside [0, 1), and where ``torch.nn.LSTM`` raises one.
        RuntimeError: shapes or devices that do not fit, with ``torch.nn.LSTM``'s messages.
        TypeError: dtypes that do not fit, ``hx`` that is one tensor.

    Source: Merity et al., arXiv 1708.02182, section 2 (weight-dropped LSTM).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
        *,
        weight_dropout: float = 0.0,
    ) -> None:
        if isinstance(device, float):
            raise TypeError(
                f"WeightDropLSTM: device must be a device or its name, got {device}; weight_dropout goes by keyword"
            )
        if not 0 <= weight_dropout < 1:
            raise ValueError(f"WeightDropLSTM: weight_dropout must be in [0, 1), got {weight_dropout}")
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.weight_dropout = weight_dropout
        self._packed = PackedWeights()

    def flatten_parameters(self) -> None:
        """Nothing to do: the kernels take the parameters where they are."""

    def train(self, mode: bool = True) -> Self:
        """As ``torch.nn.Module``; a change of the mode, and ``train()``, drop the packed weights."""
        if mode or self.training:
            self._packed.drop()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        self._packed.drop()
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._packed.drop()
        super()._load_from_state_dict(*args, **kwargs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_packed", PackedWeights())  # pickled by a version without it

    def packed_weights(self, index: int, weights: Sequence[Tensor], *inputs: Tensor) -> Tensor | None:
        """``ops.lstm_pack`` of one layer and direction for a call on these inputs; None where the call packs itself.

        Args:
            index: layer times directions plus direction.
            weights: its parameters, or what parametrizations made of them, in torch's order.
            inputs: input and states of the call, the input first.
        """
        if self.training:
            return None
        packed = (*weights[:2], weights[-1]) if self.proj_size else tuple(weights[:2])
        return self._packed.of_parameters(index, inputs, packed)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", weight_dropout={self.weight_dropout}" if self.weight_dropout else "")

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        seeds: list[Tensor] | None = None,
    ) -> tuple[Any, State]:
        """Run all layers.

        Args:
            input: as ``torch.nn.LSTM``.
            hx: initial state, two tensors (h0, c0); zeros where None.
            seeds: one DropConnect seed (int64 []) for each layer and direction; drawn where None. Giving them repeats
                a mask.

        Returns:
            output (Tensor or PackedSequence, as the input was), (h_n, c_n).
        """
        p = self.weight_dropout if self.training else 0.0
        if isinstance(input, fx.Proxy):
            return _as_leaf(self, input.tracer, input, hx, seeds)
        masks = self.num_layers * (2 if self.bidirectional else 1)
        if seeds is not None and len(seeds) != masks:
            raise ValueError(
                f"WeightDropLSTM: seeds must have one seed a layer and direction ({masks}), got {len(seeds)}"
            )
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, unsorted_indices = input
            # In a trace an int would be a constant.
            batch = cast(int, batch_sizes[0]) if torch.jit.is_tracing() else int(batch_sizes[0])
            state = self._initial_state(hx, data, batch, sorted_indices, batch_sizes, unbatched=False)
            output, (h_n, c_n) = self._run_layers(data, batch_sizes, state, seeds, p)
            packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
            return packed, (_permute(h_n, unsorted_indices), _permute(c_n, unsorted_indices))

        if input.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {input.dim()}D instead")
        unbatched = input.dim() == 2
        x = input.unsqueeze(1) if unbatched else input.transpose(0, 1) if self.batch_first else input
        steps, batch = x.shape[0], x.shape[1]
        state = self._initial_state(hx, x, batch, None, None, unbatched)
        if not torch.jit.is_tracing() and steps == 0:  # the op says it, too
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        batch_sizes = torch.full((steps,), batch, dtype=torch.int64, device="cpu")
        output, (h_n, c_n) = self._run_layers(x.reshape(steps * batch, x.shape[2]), batch_sizes, state, seeds, p)
        output = output.view(steps, batch, output.shape[1])
        if unbatched:
            return output.squeeze(1), (h_n.squeeze(1), c_n.squeeze(1))
        return output.transpose(0, 1) if self.batch_first else output, (h_n, c_n)

    @property
    def qconfig(self) -> Any:
        """Set by ``torch.ao.quantization`` on what it is to convert; it knows no quantized form of this layer."""
        if "_qconfig" not in self.__dict__:
            raise AttributeError("WeightDropLSTM has no qconfig")
        return self.__dict__["_qconfig"]

    @qconfig.setter
    def qconfig(self, value: Any) -> None:
        remedy = "load its state dict into torch.nn.LSTM and quantize that"
        if value is not None:
            raise NotImplementedError(
                "WeightDropLSTM: torch.ao.quantization cannot quantize this layer and would leave it as it is; "
                f"{remedy}, or leave the layer out (its type out of qconfig_spec, or layer.qconfig = None)"
            )
        if "_qconfig" not in self.__dict__:
            warnings.warn(
                f"torch.ao.quantization leaves WeightDropLSTM in {self.weight_ih_l0.dtype}; to quantize it, {remedy}",
                stacklevel=2,
            )
        self.__dict__["_qconfig"] = value

    @qconfig.deleter
    def qconfig(self) -> None:
        self.__dict__.pop("_qconfig", None)

    def __prepare_scriptable__(self) -> WeightDropLSTM:
        """Called by ``torch.jit.script``, which would end in an error about some line of ``forward``."""
        raise NotImplementedError(
            "WeightDropLSTM: torch.jit.script cannot compile this layer; use torch.export, torch.compile or "
            "torch.jit.trace, or load its state dict into torch.nn.LSTM"
        )

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        h_size = self.get_expected_hidden_size(input, batch_sizes)
        return (h_size[0], h_size[1], self.hidden_size)

    def _initial_state(
        self,
        hx: State | None,
        x: Tensor,
        batch: int,
        sorted_indices: Tensor | None,
        batch_sizes: Tensor | None,
        unbatched: bool,
    ) -> State:
        """The given state checked and in packed order, or zeros. ``x`` is time-major (or packed data)."""
        layers = self.num_layers * (2 if self.bidirectional else 1)
        output_size = self.proj_size or self.hidden_size
        h_size, c_size = (layers, batch, output_size), (layers, batch, self.hidden_size)
        if hx is None:
            self.check_input(x, batch_sizes)
            return x.new_zeros(h_size), x.new_zeros(c_size)
        h0, c0 = _pair(hx)
        expected_dim = 2 if unbatched else 3
        if h0.dim() != expected_dim or c0.dim() != expected_dim:
            kind = "unbatched 2-D" if unbatched else "batched 3-D"
            raise RuntimeError(
                f"For {kind} input, hx and cx should also be {expected_dim}-D but got ({h0.dim()}-D, {c0.dim()}-D) "
                "tensors"
            )
        if unbatched:
            h0, c0 = h0.unsqueeze(1), c0.unsqueeze(1)
        self.check_input(x, batch_sizes)
        self.check_hidden_size(h0, h_size, "Expected hidden[0] size {}, got {}")
        self.check_hidden_size(c0, c_size, "Expected hidden[1] size {}, got {}")
        return _permute(h0, sorted_indices), _permute(c0, sorted_indices)

    def _run_layers(
        self, x: Tensor, batch_sizes: Tensor, state: State, seeds: list[Tensor] | None, p: float
    ) -> tuple[Tensor, State]:
        h0, c0 = state
        _check_devices("hidden", {"h0": h0, "c0": c0}, x)
        half = x.dtype == torch.float16 and x.device.type == "cpu"  # which the CPU's kernels do not know
        if half:
            x, h0, c0 = x.float(), h0.float(), c0.float()
        directions = 2 if self.bidirectional else 1
        h_n, c_n = [], []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                parameters = {name: getattr(self, name) for name in self._all_weights[index]}
                _check_devices("parameter", parameters, x)
                weights = [w.float() if half else w for w in parameters.values()]
                seed = seeds[index] if seeds is not None else None
                output, h, c = self._run_layer(index, weights, x, batch_sizes, h0[index], c0[index], seed, p)
                outputs.append(output)
                h_n.append(h)
                c_n.append(c.to(h.dtype))  # under autocast, as torch.nn.LSTM
            x = outputs[0] if directions == 1 else torch.cat(outputs, dim=1)
            if self.dropout and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        h, c = torch.stack(h_n), torch.stack(c_n)
        return (x.half(), (h.half(), c.half())) if half else (x, (h, c))

    def _run_layer(
        self, index: int, weights: list[Tensor], x: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor,
        seed: Tensor | None, p: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """One layer and direction on packed rows; ``weights`` are its parameters in torch's order."""
        weight_ih, weight_hh, *rest = weights
        bias_ih, bias_hh = rest[:2] if self.bias else (None, None)
        return ops.lstm(
            x, batch_sizes, h0, c0, weight_ih, weight_hh, bias_ih, bias_hh, rest[-1] if self.proj_size else None,
            weight_dropout=p, seed=seed, reverse=self.bidirectional and index % 2 == 1,
            packed=self.packed_weights(index, weights, x, h0, c0),
        )  # fmt: skip


@contextmanager
def drops(rnn: nn.Module, p: float) -> Iterator[None]:
    """Within it ``rnn`` drops with probability p, as a call's masks say, whatever its mode. Not a layer of others."""
    if not isinstance(rnn, WeightDropLSTM) or p == (rnn.weight_dropout if rnn.training else 0.0):
        yield
        return
    before = rnn.training, rnn.weight_dropout
    rnn.training, rnn.weight_dropout = p > 0, p
    try:
        yield
    finally:
        rnn.training, rnn.weight_dropout = before


def _as_leaf(layer: WeightDropLSTM, tracer: Any, *arguments: Any) -> Any:
    """One node of a graph, which ``torch.fx.symbolic_trace`` by itself makes of torch's own modules alone."""
    path = tracer.path_of_module(layer)
    if not path:
        raise TypeError(
            "WeightDropLSTM: torch.fx.symbolic_trace cannot look into this layer (nor into torch.nn.LSTM); trace a "
            "module that holds it, for example torch.nn.Sequential(layer)"
        )
    return tracer.create_proxy("call_module", path, arguments, {})


def _check_devices(kind: str, tensors: dict[str, Tensor], x: Tensor) -> None:
    """The op would refuse them, too, but not name the layer's parameter, nor in ``torch.nn.LSTM``'s words."""
    for name, tensor in tensors.items():
        if tensor.device != x.device:
            raise RuntimeError(
                f"Input and {kind} tensors are not at the same device, found input tensor at {x.device} and {kind} "
                f"tensor at {tensor.device} ({name})"
            )


def _pair(hx: State) -> State:
    if isinstance(hx, Tensor):
        raise TypeError(
            f"WeightDropLSTM: hx must be a tuple of two tensors (h0, c0), got one tensor of shape {tuple(hx.shape)}; "
            "give (hx[0], hx[1])"
        )
    if len(hx) != 2:
        raise RuntimeError(f"WeightDropLSTM: lstm expects two hidden states (h0, c0), got {len(hx)}")
    return hx


def _permute(state: Tensor, indices: Tensor | None) -> Tensor:
    return state if indices is None else state.index_select(1, indices)
