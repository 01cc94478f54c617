"""The QRNN encoder: BPT3C's gradients against one autograd graph, and all that an encoder promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from tests.nn.plain_qrnn import MultiFiTEncoder, qrnn
from ulmfit_fast import BPT3C, QRNN, LanguageModel, QRNNConfig, TextClassifier
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.encoder import Encoder
from ulmfit_fast.nn.one_graph import encode
from ulmfit_fast.nn.two_pass import Plan
from ulmfit_fast.text.batching import pack_documents

NO_DROPOUT = dict.fromkeys(("embed_p", "input_p", "hidden_p", "weight_p", "output_p"), 0.0)
LENGTHS = (11, 3, 25, 8, 1, 25)


def make_encoder(layers: int = 3, **dropouts: float) -> QRNN:
    encoder = QRNN(QRNNConfig(20, 6, 9, layers, **(NO_DROPOUT | dropouts))).double()
    nn.init.normal_(encoder.encoder.weight)
    return encoder


def documents(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    return [torch.randint(20, (n,)) for n in lengths]


def pool_by_loop(encoder: QRNN, texts: list[Tensor], bptt: int | None) -> Tensor:
    """[h_last, max, mean] of each document alone, step by step; gradients stay within chunks of ``bptt``."""
    pooled = []
    for text in texts:
        states: list[Any] = [None] * len(encoder.rnns)
        outputs = []
        for chunk in text.split(bptt or len(text)):
            x = encoder.encoder(chunk)
            for i, rnn in enumerate(encoder.rnns):
                x, state = qrnn(x, rnn.weight, rnn.bias, rnn.window, states[i])  # type: ignore[arg-type]
                states[i] = state if bptt is None else tuple(s.detach() for s in state)
            outputs.append(x)
        output = torch.cat(outputs)
        pooled.append(torch.cat([output[-1], output.max(0).values, output.mean(0)]))
    return torch.stack(pooled)


def gradients(encoder: nn.Module, pooled: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    pooled.sin().sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("block_rows", [1, 60, 10_000])
@pytest.mark.parametrize("memory", ["recompute", "store"])
@pytest.mark.parametrize("backprop", ["exact", "detached"])
def test_gradients_are_those_of_one_graph(backprop: str, memory: str, block_rows: int) -> None:
    encoder, texts = make_encoder().train(), documents()
    bpt3c = BPT3C(encoder, 4, backprop, memory=memory)
    bpt3c.block_rows = block_rows
    pooled = bpt3c(pack_documents(texts))
    expected = pool_by_loop(encoder, texts, None if backprop == "exact" else 4)
    torch.testing.assert_close(pooled, expected, atol=1e-10, rtol=1e-10)
    mine, right = gradients(encoder, pooled), gradients(encoder, expected)
    assert mine.keys() == right.keys() == dict(encoder.named_parameters()).keys()
    for name, value in right.items():
        torch.testing.assert_close(mine[name], value, atol=1e-10, rtol=1e-10, msg=name)


@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("backprop", ["exact", "detached"])
def test_with_all_dropouts(backprop: str, mask_scope: str) -> None:
    """Against the layers called as modules on the same masks, chunk by chunk, in one graph."""
    encoder = make_encoder(embed_p=0.2, input_p=0.3, hidden_p=0.4, weight_p=0.5).train()
    packed = pack_documents(documents())
    for memory, block_rows in (("recompute", 1), ("recompute", 60), ("store", 60)):
        bpt3c = BPT3C(encoder, 4, backprop, mask_scope, memory=memory, pool_window=7)
        bpt3c.block_rows = block_rows
        torch.manual_seed(3)
        pooled = bpt3c(packed)
        torch.manual_seed(3)
        plan = Plan(4, backprop == "exact", mask_scope == "chunk", False, block_rows)
        expected = encode(encoder, packed, plan, bpt3c._pool_from(packed))[packed.unsorted_indices]
        torch.testing.assert_close(pooled, expected, atol=1e-12, rtol=1e-12)
        mine, right = gradients(encoder, pooled), gradients(encoder, expected)
        for name, value in right.items():
            torch.testing.assert_close(mine[name], value, atol=1e-10, rtol=1e-10, msg=name)
        assert (mine["rnns.1.weight"] == 0).sum() > 0


@pytest.mark.parametrize("frozen", [("encoder",), ("encoder", "rnns.0"), ("rnns.0",), ("rnns.2",)])
@pytest.mark.parametrize("way", [("recompute", "exact"), ("store", "exact"), ("recompute", "detached")])
def test_frozen_parts(frozen: tuple[str, ...], way: tuple[str, str]) -> None:
    encoder, texts = make_encoder().train(), documents()
    for name in frozen:
        encoder.get_submodule(name).requires_grad_(False)
    bpt3c = BPT3C(encoder, 4, way[1], memory=way[0])
    bpt3c.block_rows = 30
    mine = gradients(encoder, bpt3c(pack_documents(texts)))
    right = gradients(encoder, pool_by_loop(encoder, texts, None if way[1] == "exact" else 4))
    assert mine.keys() == right.keys()
    for name, value in right.items():
        torch.testing.assert_close(mine[name], value, atol=1e-10, rtol=1e-10, msg=name)


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs()


def test_pruned_and_parametrized_weights() -> None:
    encoder, texts = make_encoder().train(), documents()
    prune.random_unstructured(encoder.rnns[1], "weight", 0.4)
    parametrize.register_parametrization(encoder.rnns[0], "weight", Squared())
    mine = gradients(encoder, BPT3C(encoder, 4, "exact")(pack_documents(texts)))
    encoder.weights()  # pruned ones are computed anew
    right = gradients(encoder, pool_by_loop(encoder, texts, None))
    for name, value in right.items():
        torch.testing.assert_close(mine[name], value, atol=1e-10, rtol=1e-10, msg=name)


def test_a_document_does_not_depend_on_batch_padding_or_chunks() -> None:
    model = TextClassifier(QRNN(QRNNConfig(50, 24, 40, 3)), 3).eval()
    texts = [torch.randint(50, (n,)) for n in (90, 5, 33, 1, 90, 64)]
    with torch.no_grad():
        together = model(pack_documents(texts))
        for row, text in enumerate(texts):
            for bptt in (1, 7, 70):
                model.bpt3c.bptt = bptt
                model.bpt3c.block_rows = 1 + bptt
                assert torch.equal(model(pack_documents([text]))[0], together[row])
        padded = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=7)
        assert torch.equal(model(padded, torch.tensor([len(t) for t in texts])), together)


def test_streaming_token_by_token_to_the_bit() -> None:
    model = TextClassifier(QRNN(QRNNConfig(50, 24, 40, 3)), 3).eval()
    text, stream = torch.randint(50, (30,)), model.stream()
    with torch.no_grad():
        for end in range(1, 31):
            stream.feed([int(text[end - 1])])
            assert torch.equal(stream.logits(), model(pack_documents([text[:end]]))[0])


def test_a_language_model_goes_on_where_it_ended() -> None:
    model = LanguageModel(QRNN(QRNNConfig(30, 12, 20, 2))).eval()
    tokens = torch.randint(30, (40, 3))
    whole = model(tokens)
    state, parts = None, []
    for part in tokens.split(13):
        output = model(part, state)
        state = output.state
        parts.append(output.raw)
    assert torch.equal(torch.cat(parts), whole.raw)
    assert [len(layer) for layer in whole.state] == [2, 1]


def test_equals_multifits_encoder() -> None:
    theirs = MultiFiTEncoder(20, 6, 9, 4).double()
    ours = QRNN(QRNNConfig(20, 6, 9, 4)).double().eval()
    state = {"encoder.weight": theirs.encoder.weight}
    for i, rnn in enumerate(theirs.rnns):
        linear = rnn.layers[0].linear
        state |= {f"rnns.{i}.weight": linear.weight_raw, f"rnns.{i}.bias": linear.module.bias}
    ours.load_state_dict(state)
    for text in documents():
        mine, _ = ours(text, torch.ones(len(text), dtype=torch.int64))
        torch.testing.assert_close(mine, theirs(text)[0], atol=1e-12, rtol=1e-12)


def test_hooks_and_replaced_layers_run() -> None:
    encoder, texts = make_encoder().eval(), documents()
    plain = BPT3C(encoder, 4)(pack_documents(texts))
    seen: list[torch.Size] = []
    handle = encoder.rnns[1].register_forward_hook(lambda _m, _i, output: seen.append(output[0].data.shape))
    assert encoder.calls_modules()
    watched = BPT3C(encoder, 4)(pack_documents(texts))
    handle.remove()
    assert seen
    torch.testing.assert_close(watched, plain, atol=1e-12, rtol=1e-12)
    embedded = encoder.embed(nn.utils.rnn.pad_sequence(texts, batch_first=True)).detach().requires_grad_()
    pooled = BPT3C(encoder, 4).eval().forward_embedded(embedded, torch.tensor([len(t) for t in texts]))
    torch.testing.assert_close(pooled, plain, atol=1e-12, rtol=1e-12)
    (grad,) = torch.autograd.grad(pooled.sum(), embedded)
    assert grad[3, 8:].count_nonzero() == 0
    assert grad[3, :8].count_nonzero() > 0


def test_the_protocol() -> None:
    encoder: Encoder = make_encoder()
    assert (encoder.output_size, encoder.vocab_size, encoder.output_p) == (6, 20, 0.0)
    assert len(encoder.layer_groups()) == 4
    assert encoder.activation_bytes() == 8 * ((36 + 18 + 9) + (36 + 9 + 9) + (24 + 9 + 6))


@pytest.mark.parametrize("memory", ["recompute", "store"])
def test_autocast_trains(memory: str) -> None:
    encoder = QRNN(QRNNConfig(20, 16, 24, 2)).train()
    packed = pack_documents(documents())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = BPT3C(encoder, 4, memory=memory)(packed)
    pooled.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in encoder.parameters())
    encoder.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = BPT3C(encoder, 4)(packed)
    torch.testing.assert_close(half, BPT3C(encoder, 4)(packed), atol=3e-2, rtol=3e-2)


def test_what_a_qrnn_has_not_is_refused() -> None:
    model = TextClassifier(QRNN(QRNNConfig(20, 6, 9, 2)), 2).eval()
    from ulmfit_fast.interop.onnx import export_onnx
    from ulmfit_fast.interop.torch_export import export_classifier

    with pytest.raises(InputError, match="a QRNN has no int8 form"):
        model.quantize()
    for export in (lambda: export_classifier(model), lambda: export_onnx(model, "no.onnx")):
        with pytest.raises(InputError, match="a QRNN cannot be exported"):
            export()
    with pytest.raises(InputError, match=r"torch\.export does not take a QRNN"):
        torch.export.export(model, (torch.zeros(2, 5, dtype=torch.int64), torch.tensor([5, 3])))
    with pytest.raises(ValueError, match=r"QRNNConfig: hidden_p must be in \[0, 1\), got 1"):
        QRNNConfig(20, hidden_p=1)


def test_same_seed_same_bits_whatever_is_kept() -> None:
    encoder = QRNN(QRNNConfig(20, 16, 24, 2, weight_p=0.5, embed_p=0.1)).train()
    packed, results = pack_documents(documents()), []
    for memory in ("recompute", "recompute", "store"):
        torch.manual_seed(3)
        pooled = BPT3C(encoder, 4, memory=memory)(packed)
        results.append([pooled, *gradients(encoder, pooled).values()])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    for stored, recomputed in zip(results[2], results[0], strict=True):
        torch.testing.assert_close(stored, recomputed, atol=1e-5, rtol=1e-5)
