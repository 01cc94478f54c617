"""``WeightDropLSTM`` at the edges, beside ``torch.nn.LSTM``: empty batches, devices, dtypes, states, wrong shapes."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from tests.nn.test_lstm import LENGTHS, make_input, make_state, pair, run
from ulmfit_fast import WeightDropLSTM


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2, "batch_first": True, "proj_size": 3}])
def test_an_empty_batch(options: dict[str, Any], with_state: bool) -> None:
    """Shapes, and a graph: gradients of parameters are zeros, not missing."""
    theirs, ours = pair(torch.float64, **options)
    x = torch.zeros(0, 5, 4) if options.get("batch_first") else torch.zeros(5, 0, 4)
    layers = 4 if options else 1
    state = (torch.zeros(layers, 0, options.get("proj_size", 6)), torch.zeros(layers, 0, 6)) if with_state else None
    x, state = x.double(), None if state is None else (state[0].double(), state[1].double())
    expected, actual = run(theirs, x, state), run(ours, x, state)
    for name, value in expected.items():
        assert actual[name].shape == value.shape
        assert torch.equal(actual[name], value), name


@pytest.mark.parametrize("batch", [0, 3])
def test_results_are_nobody_elses_tensors(batch: int) -> None:
    state = torch.zeros(1, batch, 6), torch.zeros(1, batch, 6)
    output, (h_n, c_n) = WeightDropLSTM(4, 6).requires_grad_(False)(torch.zeros(5, batch, 4), state)
    for one, other in itertools.combinations((output, h_n, c_n, *state), 2):
        assert not torch._C._is_alias_of(one, other)


def test_on_the_meta_device() -> None:
    output, (h_n, _) = WeightDropLSTM(4, 6, device="meta")(torch.zeros(5, 3, 4, device="meta"))
    assert (output.shape, h_n.shape) == ((5, 3, 6), (1, 3, 6))


@pytest.mark.parametrize(
    "name", [name for name, _ in nn.LSTM(4, 6, 2, bidirectional=True, proj_size=3).named_parameters()]
)
def test_a_parameter_left_on_meta(name: str) -> None:
    """As after load_state_dict(strict=False, assign=True) of a file that lacks it: nn.LSTM's words, and the name."""
    options = {"num_layers": 2, "bidirectional": True, "proj_size": 3}
    state = {key: value for key, value in nn.LSTM(4, 6, **options).state_dict().items() if key != name}
    errors = []
    for kind in (nn.LSTM, WeightDropLSTM):
        layer = kind(4, 6, **options, device="meta")
        layer.load_state_dict(state, strict=False, assign=True)
        with pytest.raises(RuntimeError) as error, torch.no_grad():
            layer(torch.zeros(5, 3, 4))
        errors.append(str(error.value))
    assert errors[1] == f"{errors[0]} ({name})"


@pytest.mark.parametrize("index", [0, 1])
def test_a_state_on_another_device(index: int) -> None:
    state = [torch.zeros(1, 3, 6), torch.zeros(1, 3, 6)]
    state[index] = state[index].to("meta")
    with pytest.raises(RuntimeError, match=rf"found input tensor at cpu and hidden tensor at meta \({'hc'[index]}0\)"):
        WeightDropLSTM(4, 6)(torch.zeros(5, 3, 4), tuple(state))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_defaults_of_torch_do_not_reach_the_layer(dtype: torch.dtype) -> None:
    layer = WeightDropLSTM(4, 6, 2, bidirectional=True, weight_dropout=0.5)
    packed = pack_sequence([torch.randn(n, 4) for n in LENGTHS], enforce_sorted=False)
    inputs = (torch.randn(5, 3, 4), torch.randn(5, 4), packed)

    def outputs() -> list[Tensor]:
        torch.manual_seed(1)
        results = [layer(x) for x in inputs]
        return [v for output, state in results for v in (getattr(output, "data", output), *state)]

    expected, default = outputs(), torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            actual = outputs()
    finally:
        torch.set_default_dtype(default)
    for mine, value in zip(actual, expected, strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, value)


@pytest.mark.parametrize("kind", ["dense", "packed", "unbatched"])
def test_float16_on_a_cpu(kind: str) -> None:
    """Through float32, so nearer to the exact result than nn.LSTM, which rounds at every step."""
    options = {"num_layers": 2, "batch_first": False, "bidirectional": True, "proj_size": 0}
    theirs, ours = pair(**options)
    x, state = make_input(kind, False), make_state(kind, options)
    half = x.to(torch.float16), tuple(s.half() for s in state)
    exact = run(theirs.half().double(), half[0].to(torch.float64), tuple(s.double() for s in half[1]))
    actual = run(ours.half(), *half)
    for name, value in exact.items():
        assert actual[name].dtype == torch.float16
        torch.testing.assert_close(actual[name].double(), value, atol=2e-3, rtol=2e-3)


def test_autocast_to_float16_on_a_cpu_says_so() -> None:
    """nn.LSTM fails there, too, inside oneDNN."""
    layer = WeightDropLSTM(4, 6)
    with torch.autocast("cpu", dtype=torch.float16), pytest.raises(TypeError, match=r"dtype=torch\.bfloat16"):
        layer(torch.zeros(5, 3, 4))


@pytest.mark.parametrize("hx", [_zeros(2, 1, 3, 6), (_zeros(1, 3, 6),) * 3, (_zeros(1, 3, 6),)])
def test_a_state_that_is_no_pair(hx: Any) -> None:
    expected = TypeError if isinstance(hx, Tensor) else RuntimeError
    with pytest.raises(expected, match=r"two (tensors|hidden states) \(h0, c0\), got"):
        WeightDropLSTM(4, 6)(_zeros(5, 3, 4), hx)


def test_a_state_of_another_dtype() -> None:
    with pytest.raises(TypeError, match="h0 must have the dtype of input"):
        WeightDropLSTM(4, 6)(_zeros(5, 3, 4), (_zeros(1, 3, 6).double(), _zeros(1, 3, 6).double()))
    theirs, ours = pair(torch.float32)  # a list is as good as a tuple
    state = [torch.randn(1, 3, 6), torch.randn(1, 3, 6)]
    torch.testing.assert_close(ours(_zeros(5, 3, 4), state)[0], theirs(_zeros(5, 3, 4), state)[0])


def test_forward_mode_differentiation_says_so() -> None:
    layer = WeightDropLSTM(4, 6)
    x = torch.randn(5, 3, 4)
    with pytest.raises(NotImplementedError, match="forward-mode differentiation"):
        torch.func.jvp(lambda x: layer(x)[0], (x,), (torch.ones_like(x),))


def test_seeds_of_the_wrong_number() -> None:
    with pytest.raises(ValueError, match=r"one seed a layer and direction \(2\), got 1"):
        WeightDropLSTM(4, 6, 2)(torch.zeros(5, 3, 4), seeds=[torch.tensor(1)])


@pytest.mark.parametrize(
    ("x", "state"),
    [
        (_zeros(3), None),
        (_zeros(1, 2, 3, 4), None),
        (_zeros(5, 3, 7), None),
        (_zeros(5, 7), None),
        (_zeros(0, 3, 4), None),
        (_zeros(5, 3, 4), (_zeros(1, 2, 6), _zeros(1, 3, 6))),
        (_zeros(5, 3, 4), (_zeros(1, 3, 6), _zeros(1, 3, 5))),
        (_zeros(5, 3, 4), (_zeros(1, 6), _zeros(1, 6))),
        (_zeros(5, 4), (_zeros(1, 3, 6), _zeros(1, 3, 6))),
    ],
)
def test_wrong_shapes_raise_what_nn_lstm_raises(x: Any, state: Any) -> None:
    theirs, ours = pair(torch.float32)
    with pytest.raises((RuntimeError, ValueError)) as expected:
        theirs(x, state)
    with pytest.raises(type(expected.value)) as actual:
        ours(x, state)
    assert str(actual.value) == str(expected.value)


def test_wrong_packed_shapes_are_errors() -> None:
    """nn.LSTM of torch 2.13 computes something for both of these."""
    layer = WeightDropLSTM(4, 6)
    with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size. Expected 4, got 7"):
        layer(pack_sequence([_zeros(2, 7)]))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 1, 6\), got \[1, 2, 6\]"):
        layer(pack_sequence([_zeros(2, 4)]), (_zeros(1, 2, 6), _zeros(1, 1, 6)))


@pytest.mark.parametrize("p", [-0.1, 1.0, 2.0])
def test_weight_dropout_out_of_range(p: float) -> None:
    with pytest.raises(ValueError, match=r"weight_dropout must be in \[0, 1\), got"):
        WeightDropLSTM(4, 6, weight_dropout=p)
