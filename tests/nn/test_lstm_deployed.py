"""``WeightDropLSTM`` under what takes models apart: ``torch.fx``, ``torch.jit``, ``torch.ao.quantization``."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import pack_padded_sequence

from ulmfit_fast import WeightDropLSTM, ops

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated", "ignore::torch.jit.TracerWarning")


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(4, 6, 2, bidirectional=True, **options)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, (h_n, _) = self.rnn(x, None if h is None else (h, c))
        return self.head(output), h_n


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = WeightDropLSTM(4, 6, 2, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        output, (h, c) = self.rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
        return output.data, h, c


@pytest.mark.parametrize("with_state", [False, True])
def test_symbolic_trace_keeps_the_layer_whole(with_state: bool) -> None:
    """One node, as it makes of nn.LSTM; the graph runs, trains and saves like the model."""
    fixed = {} if with_state else {"h": None, "c": None}
    model = Tagger(WeightDropLSTM)
    graph = fx.symbolic_trace(model, concrete_args=fixed)
    theirs = fx.symbolic_trace(Tagger(nn.LSTM), concrete_args=fixed)
    modules = [[node.target for node in g.graph.nodes if node.op == "call_module"] for g in (graph, theirs)]
    assert modules == [["rnn", "head"]] * 2
    arguments = [torch.randn(5, 3, 4), *(torch.randn(4, 3, 6) for _ in range(2 if with_state else 0))]
    for mine, expected in zip(graph(*arguments), model(*arguments), strict=True):
        assert torch.equal(mine, expected)
    assert graph.state_dict().keys() == model.state_dict().keys()


def test_symbolic_trace_of_the_layer_alone_says_so() -> None:
    with pytest.raises(TypeError, match=r"cannot look into this layer .* torch\.nn\.Sequential\(layer\)"):
        fx.symbolic_trace(WeightDropLSTM(4, 6))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_traced_model_is_the_model(training: bool, grad: bool) -> None:
    """For other shapes, after saving, and its gradients."""
    model = Tagger(WeightDropLSTM).train(training)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(model, (torch.randn(6, 3, 4),))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for program in (traced, loaded, torch.jit.freeze(torch.jit.trace(model.eval(), (torch.randn(6, 3, 4),)))):
        for steps, batch in ((6, 3), (1, 1), (9, 2)):
            x = torch.randn(steps, batch, 4)
            torch.testing.assert_close(program(x), model(x))
    x = torch.randn(4, 2, 4)
    grads = [torch.autograd.grad(m(x)[0].sin().sum(), list(m.parameters())) for m in (loaded, model)]
    for mine, expected in zip(*grads, strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_traced_model_draws_new_masks() -> None:
    traced = torch.jit.trace(WeightDropLSTM(4, 6, weight_dropout=0.5), (torch.randn(6, 3, 4),), check_trace=False)
    x = torch.randn(5, 3, 4)
    assert not torch.equal(traced(x)[0], traced(x)[0])


def test_a_trace_over_packed_sequences_takes_any_lengths() -> None:
    model = Packed()
    traced = torch.jit.trace(model, (torch.randn(6, 3, 4), torch.tensor([6, 2, 4])))
    for lengths in ([6, 2, 4], [3, 9], [4, 1, 1, 4, 2], [1]):
        x = torch.randn(max(lengths), len(lengths), 4)
        torch.testing.assert_close(traced(x, torch.tensor(lengths)), model(x, torch.tensor(lengths)))


def test_every_differentiable_op_in_a_trace() -> None:
    """Recorded as itself and for any batch, with a gradient when it runs, though gradients were on when it was."""

    def program(tokens: Tensor, sizes: Tensor, weight: Tensor, *gates: Tensor) -> tuple[Tensor, Tensor]:
        x = ops.locked_dropout(ops.embedding(tokens, weight), torch.full((4, 4), 2.0), sizes)
        zeros = x.new_zeros(sizes[0], 6)
        state = ops.lstm_pool(x, sizes, zeros, zeros, *gates, None, None, ops.PooledState.empty(4, 6)).state
        return state.total.sum().float() + state.maximum[: zeros.shape[0]].sum(), state.count

    def arguments(sizes: list[int]) -> list[Tensor]:
        rows = sum(sizes)
        weights = [torch.randn(n, m, requires_grad=True) for n, m in ((9, 4), (24, 4), (24, 6))]
        return [torch.randint(9, (rows,)), torch.tensor(sizes), *weights]

    traced = torch.jit.trace(program, tuple(arguments([2, 2, 1])))
    recorded = str(traced.inlined_graph)
    for op in ("embedding", "locked_dropout", "lstm_pool"):
        assert f"ulmfit_fast::{op}(" in recorded
    for sizes in ([2, 2, 1], [4, 3, 1, 1, 1], [1]):
        given = arguments(sizes)
        results = [(*f(*given), *torch.autograd.grad(f(*given)[0], given[2:])) for f in (traced, program)]
        for mine, expected in zip(*results, strict=True):
            torch.testing.assert_close(mine, expected)


def test_a_loss_in_a_trace_says_so() -> None:
    target = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.trace cannot record this op"):
        torch.jit.trace(lambda x: ops.linear_cross_entropy(x, x, target), (torch.randn(3, 4),))


def test_script_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"torch\.jit\.script cannot compile this layer; use torch\.export"):
        torch.jit.script(Tagger(WeightDropLSTM))


@pytest.mark.parametrize("spec", [None, {nn.Linear}, {nn.LSTM, nn.Linear}])
def test_quantization_of_the_rest_says_that_the_layer_stays(spec: Any) -> None:
    model = Tagger(WeightDropLSTM)
    with pytest.warns(UserWarning, match=r"leaves WeightDropLSTM in torch\.float32; to quantize it, load its state"):
        quantized = torch.ao.quantization.quantize_dynamic(model, spec)
    assert isinstance(quantized.head, torch.ao.nn.quantized.dynamic.Linear)
    x = torch.randn(5, 3, 4)
    assert torch.equal(quantized.rnn(x)[0], model.rnn(x)[0])
    for layer in (model.rnn, quantized.rnn):
        assert not hasattr(layer, "qconfig")


def test_quantization_of_the_layer_is_refused() -> None:
    model = Tagger(WeightDropLSTM)
    with pytest.raises(NotImplementedError, match=r"cannot quantize this layer .* load its state dict into"):
        torch.ao.quantization.quantize_dynamic(model, {WeightDropLSTM, nn.Linear})
    theirs = Tagger(nn.LSTM)  # what the message advises
    theirs.load_state_dict(model.state_dict())
    quantized = torch.ao.quantization.quantize_dynamic(theirs, {nn.LSTM})
    assert isinstance(quantized.rnn, torch.ao.nn.quantized.dynamic.LSTM)
    with pytest.warns(UserWarning, match="leaves WeightDropLSTM"):
        model.rnn.qconfig = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {WeightDropLSTM})
