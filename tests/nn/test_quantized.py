"""Models in int8: the inputs and outputs of their float32 models, near their results, and only prediction."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, LanguageModel, TextClassifier, WeightDropLSTM, ops
from ulmfit_fast.interop.onnx import export_onnx
from ulmfit_fast.interop.torch_export import export_classifier
from ulmfit_fast.nn.quantized import QuantizedLSTM, is_quantized, quantize
from ulmfit_fast.text.batching import pack_documents


def make_model(**settings: Any) -> TextClassifier:
    return TextClassifier(AWDLSTM(AWDLSTMConfig(40, 60, 120, 3)), 3, **settings).eval()


def documents(*lengths: int) -> list[Tensor]:
    return [torch.randint(0, 40, (length,)) for length in lengths]


def near(ours: Tensor, expected: Tensor) -> bool:
    return bool((ours - expected).abs().max() < 0.05)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "batch_first": True}],
    ids=["plain", "deep, both directions", "no bias, batch first"],
)
def test_layer_takes_what_the_float32_layer_takes(options: dict[str, Any]) -> None:
    layer = WeightDropLSTM(30, 70, weight_dropout=0.5, **options).eval()
    ours = quantize(layer)
    x, directions = torch.randn(6, 5, 30), layer.num_layers * (2 if layer.bidirectional else 1)
    batch = 6 if layer.batch_first else 5
    state = torch.randn(directions, batch, 70), torch.randn(directions, batch, 70)
    packed = (
        pack_padded_sequence(x, torch.tensor([6, 1, 4, 3, 2])[:batch], enforce_sorted=False) if batch == 5 else None
    )
    with torch.no_grad():
        for given in [(x,), (x, state), (x[:, 0],), *([(packed, state)] if packed is not None else [])]:
            (output, (h, c)), (wanted, (wanted_h, wanted_c)) = ours(*given), layer(*given)
            if isinstance(output, PackedSequence):
                output, wanted = output.data, wanted.data
            assert output.shape == wanted.shape
            assert near(output, wanted)
            assert near(h, wanted_h)
            assert near(c, wanted_c)


def test_layer_is_the_op_on_its_rows() -> None:
    layer = WeightDropLSTM(30, 70).eval()
    x = torch.randn(6, 1, 30)
    packed = ops.lstm_quantized_pack(ops.quantize_rows(layer.weight_ih_l0), ops.quantize_rows(layer.weight_hh_l0))
    zeros = torch.zeros(1, 70)
    expected = ops.lstm_quantized(
        x[:, 0], torch.ones(6, dtype=torch.int64), zeros, zeros, packed, layer.bias_ih_l0.detach(),
        layer.bias_hh_l0.detach(),
    )  # fmt: skip
    assert torch.equal(quantize(layer)(x)[0][:, 0], expected[0])


def test_wrong_inputs_of_a_layer() -> None:
    layer = quantize(WeightDropLSTM(30, 70))
    with pytest.raises(RuntimeError, match="Expected 30, got 31"):
        layer(torch.randn(3, 2, 31))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 2, 70\)"):
        layer(torch.randn(3, 2, 30), (torch.zeros(1, 2, 71), torch.zeros(1, 2, 70)))
    with pytest.raises(InputError, match="projection"):
        quantize(WeightDropLSTM(30, 70, proj_size=20))


def test_classifier_is_near_its_float32_model() -> None:
    model = make_model()
    ours, batch = model.quantize(), pack_documents(documents(300, 1, 20, 150, 2))
    assert is_quantized(ours)
    assert not is_quantized(model)
    with torch.inference_mode():
        assert near(ours(batch).softmax(1), model(batch).softmax(1))
    matrices = [x for x in model.bpt3c.encoder.state_dict().values() if x.dim() == 2]
    state = ours.bpt3c.encoder.state_dict()
    assert sum(x.numel() for x in matrices) == sum(x.numel() for x in state.values() if x.dtype == torch.int8)
    assert all(x.dim() == 1 for x in state.values() if x.dtype != torch.int8)
    assert next(model.parameters()).requires_grad  # it can be trained on


def test_a_document_alone_in_a_batch_and_in_a_stream_has_the_same_bits() -> None:
    ours, texts = make_model(bptt=20).quantize(), documents(300, 1, 20, 150)
    with torch.inference_mode():
        together = ours(pack_documents(texts))
        ours.bpt3c.bptt, ours.bpt3c.block_rows = 7, 40
        for text, expected in zip(texts, together, strict=True):
            assert torch.equal(ours(pack_documents([text]))[0], expected)
    stream = ours.stream()
    for begin in range(0, 300, 90):
        stream.feed(texts[0][begin : begin + 90])
        stream.logits()
    assert torch.equal(stream.logits(), together[0])


def test_hooks_on_quantized_layers_run() -> None:
    ours, seen = make_model().quantize(), []
    batch = pack_documents(documents(5, 3))
    with torch.no_grad():
        expected = ours(batch)
        ours.bpt3c.encoder.rnns[1].register_forward_hook(lambda *_: seen.append(1))
        assert torch.allclose(ours(batch), expected, atol=1e-5)
    assert seen


def test_training_gradients_and_export_are_refused() -> None:
    model = make_model()
    ours = model.quantize()
    with pytest.raises(InputError, match="an int8 model only predicts"):
        ours.train()
    ours.eval()
    embedded = ours.embed(torch.randint(0, 40, (2, 5))).requires_grad_()
    logits = ours.forward_embedded(embedded, torch.tensor([5, 3]))
    with pytest.raises(RuntimeError, match="has no gradient; int8 layers only predict"):
        logits.sum().backward()
    assert not ours(pack_documents(documents(4))).requires_grad
    for export in (export_classifier, lambda m: export_onnx(m, "never.onnx")):
        with pytest.raises(InputError, match="int8"):
            export(ours)
    with pytest.raises(InputError, match="cannot be exported"):
        torch.jit.trace(quantize(WeightDropLSTM(3, 4)), (torch.randn(2, 1, 3),))
    with pytest.raises(InputError, match="a language model is trained further"):
        quantize(LanguageModel(model.bpt3c.encoder))
    model.bpt3c.encoder.rnns[0].register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match="hooks"):
        model.quantize()


def test_copies_have_the_same_bits_and_pack_for_themselves() -> None:
    ours, batch = make_model().quantize(), pack_documents(documents(5, 3))
    with torch.inference_mode():
        expected = ours(batch)
        for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours)), ours.quantize()):
            assert all(rnn._packed.nbytes == 0 for rnn in other.bpt3c.encoder.rnns)
            assert torch.equal(other(batch), expected)
        made = make_model().quantize()  # in inference mode, whose tensors have no version
        assert torch.equal(made(batch), made(batch))


def test_packed_once() -> None:
    ours = quantize(WeightDropLSTM(30, 70))
    assert isinstance(ours, QuantizedLSTM)
    x = torch.randn(2, 1, 30)
    before = ours(x)[0]
    kept = [entry.packed.data_ptr() for entry in ours._packed._entries.values()]
    ours(x)
    assert [entry.packed.data_ptr() for entry in ours._packed._entries.values()] == kept
    ours.load_state_dict(quantize(WeightDropLSTM(30, 70)).state_dict())
    assert not torch.equal(ours(x)[0], before)


def test_no_compile_graph_breaks() -> None:
    layer = quantize(WeightDropLSTM(30, 70))
    x = torch.randn(3, 2, 30)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(x)[0], layer(x)[0])


def test_memory() -> None:
    def nbytes(module: nn.Module) -> int:
        return sum(x.nbytes for x in module.state_dict().values())

    encoder = AWDLSTM(AWDLSTMConfig(3000, 100, 200, 2))
    assert nbytes(quantize(encoder)) < 0.28 * nbytes(encoder)
