"""Models whose LSTM layers and embedding are int8: for prediction alone, a quarter of the memory traffic.

Nothing is calibrated: weights are rounded row by row (``ops.quantize_rows``), activations as they come
(``ops.lstm_quantized``). A classifier's head stays in float32.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from ulmfit_fast import ops
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoder import LayerState, has_hooks, refuse_tracing
from ulmfit_fast.nn.lstm import WeightDropLSTM
from ulmfit_fast.nn.qrnn import QRNN
from ulmfit_fast.nn.qrnn_layer import QRNNLayer

_ONLY_PREDICTS = "an int8 model only predicts; train, or differentiate, the float32 model it was made of"
SCALE = "_scale"  # after the name of an int8 buffer


class QuantizedLSTM(WeightDropLSTM):
    """A ``WeightDropLSTM`` in eval mode whose weights are int8; made by ``quantize``. Inputs as there, in float32.

    Weights are buffers: ``weight_ih_l0``, int8 [4H, F], and ``weight_ih_l0_scale``, float32 [4H]. Biases are float32
    parameters without a gradient. They are packed at the first call, which takes as much memory again.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, bidirectional: as ``torch.nn.LSTM``.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        bidirectional: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, bidirectional=bidirectional)
        for name, parameter in list(self.named_parameters()):
            if name.startswith("weight_"):
                delattr(self, name)
                self.register_buffer(name, parameter.new_zeros(parameter.shape, dtype=torch.int8))
                self.register_buffer(name + SCALE, parameter.new_zeros(parameter.shape[0]))
            else:
                parameter.requires_grad_(False)
        self._init_flat_weights()  # which hold on to the parameters
        self.training = False

    @classmethod
    def of(cls, layer: WeightDropLSTM) -> QuantizedLSTM:
        """The layer's weights in int8. Raises InputError for one with a projection."""
        if layer.proj_size:
            raise InputError("quantize: an LSTM with a projection (proj_size) has no int8 form; leave it in float32")
        sizes = (layer.input_size, layer.hidden_size, layer.num_layers, layer.bias, layer.batch_first)
        with torch.device("meta"):
            quantized = cls(*sizes, bidirectional=layer.bidirectional)
        state: dict[str, Tensor] = {}
        for name in (name for names in layer._all_weights for name in names):
            weight = cast(Tensor, getattr(layer, name)).detach()
            if name.startswith("weight_"):
                state[name], state[name + SCALE] = ops.quantize_rows(weight.cpu())
            else:
                state[name] = weight.cpu().float().clone()
        quantized.load_state_dict(state, assign=True)
        for bias in quantized.parameters():
            bias.requires_grad_(False)
        return quantized

    def train(self, mode: bool = True) -> Self:
        """Raises InputError for training mode."""
        if mode:
            raise InputError(f"QuantizedLSTM.train: {_ONLY_PREDICTS}")
        return super().train(mode)

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        if input.shape[-1] != self.input_size:  # in torch's words; the weights' dtype is not the input's
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {input.shape[-1]}"
            )

    def quantized_layer(self, index: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What ``ops.lstm_quantized`` takes of one layer and direction: packed weights and biases."""
        names = self._all_weights[index]
        buffers = [getattr(self, name + end) for name in names[:2] for end in ("", SCALE)]
        values_ih, scale_ih, values_hh, scale_hh = buffers
        if not values_ih.is_cpu:
            raise InputError(f"QuantizedLSTM: int8 layers run on the CPU alone, got weights on {values_ih.device}")
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            raise InputError(
                "QuantizedLSTM: an int8 layer cannot be exported, as its kernels' form is this processor's; export the "
                "float32 model"
            )

        def pack() -> Tensor:
            rows = ops.QuantizedRows(values_ih, scale_ih.float()), ops.QuantizedRows(values_hh, scale_hh.float())
            return ops.lstm_quantized_pack(*rows)

        packed = pack() if torch.compiler.is_compiling() else self._packed.of(index, torch.int8, tuple(buffers), pack)
        bias_ih, bias_hh = (getattr(self, name).float() for name in names[2:4]) if self.bias else (None, None)
        return packed, bias_ih, bias_hh

    def _run_layer(
        self, index: int, weights: list[Tensor], x: Tensor, batch_sizes: Tensor, h0: Tensor, c0: Tensor,
        seed: Tensor | None, p: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        reverse = self.bidirectional and index % 2 == 1
        output, h, c = ops.lstm_quantized(
            x.float(), batch_sizes, h0.float(), c0.float(), *self.quantized_layer(index), reverse=reverse
        )
        return output.to(x.dtype), h.to(h0.dtype), c.to(c0.dtype)


class QuantizedEmbedding(nn.Module):
    """An ``nn.Embedding`` in int8: buffers ``weight``, int8 [V, E], and ``weight_scale``, float32 [V]."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.register_buffer("weight", torch.zeros(num_embeddings, embedding_dim, dtype=torch.int8))
        self.register_buffer("weight" + SCALE, torch.zeros(num_embeddings))

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows [..., E] in float32 of token ids."""
        weight, scale = cast(Tensor, self.weight), cast(Tensor, self.weight_scale)
        return weight[tokens].float().mul_(scale[tokens].float().unsqueeze(-1))

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


class QuantizedWeights(NamedTuple):
    """What a quantized encoder computes with (``nn.encoder.EncoderWeights``)."""

    layers: list[tuple[Tensor, Tensor | None, Tensor | None]]  # packed weights, bias_ih, bias_hh

    def flat(self) -> list[Tensor]:
        return []  # nothing that has a gradient

    def detached(self) -> QuantizedWeights:
        return self

    def over(self, embedding: Tensor) -> None:
        """Nothing: int8 layers only predict."""

    def first_trainable(self) -> int:
        return len(self.layers)


class QuantizedAWDLSTM(AWDLSTM):
    """An ``AWDLSTM`` in eval mode in int8; made by ``quantize``."""

    def __init__(self, config: AWDLSTMConfig) -> None:
        super().__init__(config)
        self.encoder = QuantizedEmbedding(config.vocab_size, config.embedding_size)  # type: ignore[assignment]
        self.rnns = nn.ModuleList(QuantizedLSTM(rnn.input_size, rnn.hidden_size) for rnn in self._layers)
        self.training = False

    @classmethod
    def of(cls, encoder: AWDLSTM) -> QuantizedAWDLSTM:
        """The encoder's weights in int8. Raises InputError for layers that are not what an AWDLSTM makes."""
        if encoder.calls_modules():
            raise InputError(
                "quantize: the embedding or an LSTM layer has hooks, or a forward of its own, which int8 would not "
                "have; remove it"
            )
        weights = encoder.weights()  # what parametrizations make of the parameters
        with torch.device("meta"):
            quantized = cls(encoder.config)
        quantized.rnns = nn.ModuleList(QuantizedLSTM.of(rnn) for rnn in encoder._layers)
        rows = ops.quantize_rows(weights.embedding.detach().cpu())
        quantized.encoder.load_state_dict({"weight": rows.values, "weight" + SCALE: rows.scale}, assign=True)
        return quantized

    @property
    def _like(self) -> Tensor:
        return cast(Tensor, self.encoder.weight_scale)

    def train(self, mode: bool = True) -> Self:
        """Raises InputError for training mode."""
        if mode:
            raise InputError(f"QuantizedAWDLSTM.train: {_ONLY_PREDICTS}")
        return super().train(mode)

    def calls_modules(self) -> bool:
        return any(has_hooks(module) for module in (self, self.encoder, *self.rnns))

    def weights(self) -> QuantizedWeights:  # type: ignore[override]
        return QuantizedWeights([cast(QuantizedLSTM, rnn).quantized_layer(0) for rnn in self.rnns])

    def forward(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState] | None = None, masks: Any = None,
        embedded: Tensor | None = None,
    ) -> tuple[Tensor, list[LayerState]]:  # fmt: skip
        """As ``AWDLSTM``, without a gradient."""
        refuse_tracing("QuantizedAWDLSTM")
        state = state or self.initial_state(int(batch_sizes[0]))
        return self._call_modules(tokens, batch_sizes, state, None, embedded)

    def _run(
        self, tokens: Tensor, batch_sizes: Tensor, state: list[LayerState], masks: Any, pooled: ops.PooledState | None,
        weights: Any, bptt: int, boundary_rows: Tensor | None,
    ) -> tuple[Tensor, ops.PooledState | None, list[LayerState], list[LayerState]]:  # fmt: skip
        """Without a gradient, and so without the states that one begins from."""
        if boundary_rows is not None:
            raise InputError(f"QuantizedAWDLSTM: {_ONLY_PREDICTS}")
        x = self.embed(tokens)
        layers = (weights or self.weights()).layers
        new_state: list[LayerState] = []
        for index, ((h, c), (packed, *bias)) in enumerate(zip(state, layers, strict=True)):
            if pooled is not None and index + 1 == len(state):
                pooled, h_n, c_n, _, _ = ops.lstm_pool_quantized(x, batch_sizes, h, c, packed, bias[0], bias[1], pooled)
            else:
                x, h_n, c_n = ops.lstm_quantized(x, batch_sizes, h, c, packed, bias[0], bias[1])
            new_state.append((h_n, c_n))
        return x, pooled, new_state, []


def quantize(model: nn.Module) -> Any:
    """A copy for prediction in int8, of a ``TextClassifier``, an ``AWDLSTM`` or a ``WeightDropLSTM``, in eval mode.

    The model itself stays as it is and can be trained on; the copy refuses it. LSTM weights and the embedding are int8,
    the head float32: a quarter of the memory. On the CPU.

    Raises:
        InputError: another kind of model, a QRNN among them; an LSTM with a projection; an encoder with hooks.
    """
    with torch.no_grad(), torch.inference_mode(False):
        if is_quantized(model):
            return copy.deepcopy(model)
        if isinstance(model, WeightDropLSTM):
            return QuantizedLSTM.of(model)
        if isinstance(model, AWDLSTM):
            return QuantizedAWDLSTM.of(model)
        if isinstance(model, TextClassifier) and isinstance(model.bpt3c.encoder, AWDLSTM):
            encoder = model.bpt3c.encoder
            memo: dict[int, Any] = {id(encoder): QuantizedAWDLSTM.of(encoder)}  # in the encoder's place
            quantized = copy.deepcopy(model, memo)
            quantized.requires_grad_(False)
            return quantized.cpu().eval()
    if any(isinstance(module, QRNN | QRNNLayer) for module in model.modules()):
        raise InputError("quantize: a QRNN has no int8 form; it stays in float32 (bfloat16 where it predicts faster)")
    raise InputError(
        f"quantize: expected a TextClassifier, an AWDLSTM or a WeightDropLSTM, got {type(model).__name__}; a language "
        "model is trained further and stays in float32"
    )


def is_quantized(model: nn.Module) -> bool:
    """Whether the model is, or holds, one of int8."""
    return any(isinstance(module, QuantizedLSTM) for module in model.modules())
