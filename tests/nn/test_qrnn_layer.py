"""One QRNN layer against a loop over time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from tests.nn.plain_qrnn import qrnn
from ulmfit_fast import QRNNLayer, ops
from ulmfit_fast.nn.qrnn_layer import last_inputs, previous_inputs


@pytest.mark.parametrize("window", [1, 2])
def test_dense_and_packed_equal_the_loop(window: int) -> None:
    layer = QRNNLayer(5, 7, window).double()
    documents = [torch.randn(n, 5).double().requires_grad_() for n in (9, 9, 4, 1)]
    packed, state = layer(pack_sequence(documents))
    expected = [qrnn(document, layer.weight, layer.bias, window) for document in documents]
    for mine, (right, (c, last)), row in zip(unpacked(packed), expected, range(4), strict=True):
        torch.testing.assert_close(mine, right, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(state[0][row], c, atol=1e-12, rtol=1e-12)
        assert len(state) == window
        assert window == 1 or torch.equal(state[1][row], last)
    inputs = [*documents, layer.weight, layer.bias]
    mine = torch.autograd.grad(packed.data.sin().sum() + state[0].cos().sum(), inputs)
    loss = sum(output.sin().sum() + c.cos().sum() for output, (c, _) in expected)
    for ours, right in zip(mine, torch.autograd.grad(loss, inputs), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(ours, right, atol=1e-10, rtol=1e-10)
    dense, _ = layer(torch.stack(documents[:2], 1))
    torch.testing.assert_close(dense[:, 1], expected[1][0], atol=1e-12, rtol=1e-12)


def unpacked(packed: PackedSequence) -> list[Tensor]:
    rows = packed.data.split(packed.batch_sizes.tolist())
    return [torch.stack([step[i] for step in rows if len(step) > i]) for i in range(len(rows[0]))]


@pytest.mark.parametrize("window", [1, 2])
def test_a_text_goes_on_to_the_bit(window: int) -> None:
    layer, x = QRNNLayer(33, 70, window), torch.randn(50, 3, 33)
    whole, end = layer(x)
    state, parts = None, []
    for part in x.split([1, 20, 3, 26]):
        output, state = layer(part, state)
        parts.append(output)
    assert torch.equal(torch.cat(parts), whole)
    assert all(torch.equal(a, b) for a, b in zip(state or (), end, strict=True))
    assert torch.equal(layer(x[:, 1:2])[0], whole[:, 1:2])


@pytest.mark.parametrize("lengths", [(5, 5, 5), (7, 5, 2, 1), (4,)])
def test_inputs_of_the_step_before(lengths: tuple[int, ...]) -> None:
    documents = [torch.randn(n, 2) for n in lengths]
    packed, before = pack_sequence(documents), torch.randn(len(lengths), 2)
    mine = previous_inputs(packed.data, packed.batch_sizes, before)
    expected = pack_sequence([torch.cat([b.unsqueeze(0), d[:-1]]) for b, d in zip(before, documents, strict=True)])
    assert torch.equal(mine, expected.data)
    assert torch.equal(last_inputs(packed.data, packed.batch_sizes), torch.stack([d[-1] for d in documents]))


@pytest.mark.parametrize("lengths", [(9, 9), (9, 5, 2)])
def test_gradients_of_the_inputs_stop_at_chunks(lengths: tuple[int, ...]) -> None:
    documents = [torch.randn(n, 2, requires_grad=True) for n in lengths]
    packed, before = pack_sequence(documents), torch.randn(len(lengths), 2, requires_grad=True)
    previous = previous_inputs(packed.data, packed.batch_sizes, before, bptt=4)
    grads = torch.autograd.grad(previous.sum(), [*documents, before])
    for grad, length in zip(grads, lengths, strict=False):
        crossing = [t + 1 < length and (t + 1) % 4 != 0 for t in range(length)]
        assert grad[:, 0].tolist() == [float(x) for x in crossing]
    assert torch.equal(grads[-1], torch.ones(len(lengths), 2))


def test_weight_dropout() -> None:
    layer, x = QRNNLayer(6, 8, 2, weight_dropout=0.5), torch.randn(4, 2, 6)
    seed = torch.tensor(5)
    keep = ops.dropconnect_mask(seed, 24, 12, 0.5)
    output, _ = layer(x, seed=seed)
    (grad,) = torch.autograd.grad(output.sum(), layer.weight)
    assert torch.equal(grad == 0, ~keep)
    expected = QRNNLayer(6, 8, 2)
    expected.load_state_dict({"weight": layer.weight * keep * 2, "bias": layer.bias})
    torch.testing.assert_close(output, expected(x)[0])
    assert not torch.equal(layer(x)[0], layer(x)[0])
    assert torch.equal(layer.eval()(x)[0], layer(x)[0])


def test_f_pooling() -> None:
    layer = QRNNLayer(4, 6, output_gate=False).double()
    x = torch.randn(5, 1, 4).double()
    output, (c,) = layer(x)
    gates = torch.cat([layer.weight, torch.zeros(6, 4)]), torch.cat([layer.bias, torch.full((6,), 40.0)])
    torch.testing.assert_close(output[:, 0], qrnn(x[:, 0], *gates, 1)[0])
    assert torch.equal(output[-1], c)


def test_in_bfloat16_and_without_steps() -> None:
    layer, x = QRNNLayer(16, 32, 2), torch.randn(7, 2, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, (c, last) = layer(x)
    assert (output.dtype, c.dtype, last.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(output.float(), layer(x)[0], atol=3e-2, rtol=3e-2)
    half = QRNNLayer(16, 32, 2).bfloat16()
    assert half(x.bfloat16())[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 5, 3), "window must be 1 or 2, got 3"),
        ((0, 5), "sizes must be positive"),
        ((4, 5, 1, True, 1.0), r"weight_dropout must be in \[0, 1\), got 1.0"),
    ],
)
def test_bad_options(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=f"QRNNLayer: {message}"):
        QRNNLayer(*arguments)


def test_bad_input() -> None:
    layer = QRNNLayer(4, 5, 2)
    with pytest.raises(ValueError, match="must have 4 features, got 3"):
        layer(torch.ones(2, 2, 3))
    with pytest.raises(ValueError, match=r"must be \[T, B, F\] or a PackedSequence"):
        layer(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"c0 must have batch_sizes\[0\] = 2 rows, got 3"):
        layer(torch.ones(2, 2, 4), (torch.zeros(3, 5), torch.zeros(2, 4)))
