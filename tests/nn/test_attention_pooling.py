"""Attention pooling against a plain softmax in one autograd graph, and BPT3C's promises with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.nn.one_graph import states_of_one_graph
from tests.nn.test_bpt3c import make_documents, make_encoder
from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, TextClassifier, ops
from ulmfit_fast.nn.attention_pooling import AttentionPooling
from ulmfit_fast.nn.pooling import ConcatPooling
from ulmfit_fast.nn.qrnn import QRNN, QRNNConfig
from ulmfit_fast.nn.two_pass import masks_of_seed
from ulmfit_fast.text.batching import pack_documents

FEW = (11, 3, 25, 8, 1, 25, 4)
ATTENTION: dict[str, Any] = {"pooling": "attention", "attention_heads": 3}


def learned(bpt3c: BPT3C, spread: float = 2.0) -> BPT3C:
    """With scores that differ: a new context is zero."""
    with torch.no_grad():
        for parameter in bpt3c.pooling.parameters():
            parameter.normal_(0, spread)
    return bpt3c


def make_model(encoder: nn.Module | None = None, spread: float = 2.0, **options: Any) -> TextClassifier:
    encoder = encoder or AWDLSTM(AWDLSTMConfig(40, 12, 20, 2))
    model = TextClassifier(encoder, 3, **(ATTENTION | options))
    learned(model.bpt3c, spread)
    return model.eval()


def attend(states: Tensor, pooling: AttentionPooling) -> Tensor:
    """[T, heads], each column a plain softmax."""
    return (torch.tanh(states @ pooling.projection.T + pooling.bias) @ pooling.context.T).softmax(0)


def of_states(states: Tensor, pooling: AttentionPooling) -> Tensor:
    """[h_last, max, weighted mean of each head] of one document's pooled states [T, E], by the definition."""
    return torch.cat([states[-1], states.max(0).values, (attend(states, pooling).T @ states).flatten()])


def of_one_graph(bpt3c: BPT3C, documents: list[Tensor], seed: int) -> Tensor:
    encoder, masks = bpt3c.encoder, None
    torch.manual_seed(seed)
    if encoder.training and bpt3c.mask_scope == "chunk":
        chunks = -(-max(map(len, documents)) // bpt3c.bptt)
        masks = [
            masks_of_seed(encoder, int(ops.draw_seed()), len(documents), torch.device("cpu")) for _ in range(chunks)
        ]
    elif encoder.training:
        masks = [encoder.draw_masks(len(documents))]
    rows = {index: row for row, index in enumerate(pack_documents(documents).sorted_indices.tolist())}
    pooled = []
    for index, document in enumerate(documents):
        states = states_of_one_graph(
            encoder, document, bpt3c.bptt, bpt3c.backprop == "detached", masks, rows[index]
        )  # fmt: skip
        pooled.append(of_states(states[-(bpt3c.pool_window or 0) :], bpt3c.pooling))
    return torch.stack(pooled)


def assert_equals_one_graph(encoder: AWDLSTM, documents: list[Tensor], spread: float = 2.0, **settings: Any) -> None:
    """Values and the gradients of all parameters; stored and recomputed, in blocks of many sizes."""
    one = learned(BPT3C(encoder, **ATTENTION, **settings).double(), spread).train(encoder.training)
    expected = of_one_graph(one, documents, 7)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).view_as(expected)
    right = torch.autograd.grad((expected * weight).sum(), list(one.parameters()))
    for memory, block_rows in (("recompute", 1), ("recompute", 60), ("store", 60), ("store", 4608)):
        one.memory, one.block_rows = memory, block_rows
        torch.manual_seed(7)
        pooled = one(pack_documents(documents))
        torch.testing.assert_close(pooled, expected, atol=1e-10, rtol=1e-10)
        found = torch.autograd.grad((pooled * weight).sum(), list(one.parameters()))
        for (name, _), ours, theirs in zip(one.named_parameters(), found, right, strict=True):
            where = f"memory={memory}, block_rows={block_rows}, {name}"
            torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10, msg=lambda m: f"{where}: {m}")  # noqa: B023
            assert ours.any(), name


@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("bptt", [1, 7, 1000])
def test_gradients_are_those_of_one_graph(bptt: int, backprop: str, mask_scope: str) -> None:
    assert_equals_one_graph(
        make_encoder().train(), make_documents(FEW), bptt=bptt, backprop=backprop, mask_scope=mask_scope
    )


@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("window", [1, 5])
def test_gradients_of_a_pool_window(window: int, backprop: str) -> None:
    assert_equals_one_graph(
        make_encoder().train(), make_documents(FEW), bptt=4, backprop=backprop, pool_window=window
    )  # fmt: skip


@pytest.mark.parametrize("backprop", ["detached", "exact"])
def test_gradients_in_eval_mode_of_scores_far_apart(backprop: str) -> None:
    """Scores of hundreds: exponentials without a running maximum would be infinite or all zero."""
    assert_equals_one_graph(make_encoder().eval(), make_documents((30, 12, 5)), 40.0, bptt=5, backprop=backprop)


@pytest.mark.parametrize("memory", ["recompute", "store"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
def test_gradients_of_a_qrnn(backprop: str, memory: str) -> None:
    encoder = QRNN(QRNNConfig(30, 6, 9, 3)).double().eval()
    bpt3c = learned(BPT3C(encoder, 4, backprop, memory=memory, **ATTENTION).double()).eval()
    documents, bpt3c.block_rows = make_documents(FEW), 40
    pooled = bpt3c(pack_documents(documents))
    sizes = [torch.ones(len(d), dtype=torch.int64) for d in documents]
    expected = torch.stack(
        [of_states(encoder(d, s)[0], bpt3c.pooling) for d, s in zip(documents, sizes, strict=True)]
    )  # fmt: skip
    torch.testing.assert_close(pooled, expected, atol=1e-12, rtol=1e-12)
    of_pooling = list(bpt3c.pooling.parameters())
    parameters = list(bpt3c.parameters()) if backprop == "exact" else of_pooling
    found, right = (torch.autograd.grad(x.sin().sum(), parameters) for x in (pooled, expected))
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("memory", ["recompute", "store"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
def test_the_pooling_alone_trains_over_frozen_layers(backprop: str, memory: str) -> None:
    """What the first epoch of gradual unfreezing does."""
    encoder, documents = make_encoder().eval().requires_grad_(False), make_documents(FEW)
    bpt3c = learned(BPT3C(encoder, 4, backprop, memory=memory, **ATTENTION).double()).eval()
    expected = of_one_graph(bpt3c, documents, 7)
    parameters = list(bpt3c.pooling.parameters())
    right = torch.autograd.grad(expected.sin().sum(), parameters)
    found = torch.autograd.grad(bpt3c(pack_documents(documents)).sin().sum(), parameters)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)
    bpt3c.pooling.requires_grad_(False)
    assert not bpt3c(pack_documents(documents)).requires_grad


def test_hooks_and_embedded_documents_get_the_same() -> None:
    model, documents = make_model().double(), make_documents(FEW)
    packed = pack_documents(documents)
    expected = model(packed)
    tokens = nn.utils.rnn.pad_sequence(documents, batch_first=True)
    lengths = torch.tensor([len(d) for d in documents])
    found = []
    for frozen in (False, True):
        embedded = model.embed(tokens).detach().requires_grad_()
        logits = model.forward_embedded(embedded, lengths, frozen)
        torch.testing.assert_close(logits, expected)
        found.append(torch.autograd.grad(logits.sin().sum(), embedded)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-10, rtol=1e-10)
    seen: list[Tensor] = []
    model.bpt3c.pooling.register_forward_hook(lambda module, inputs, output: seen.append(output))
    torch.testing.assert_close(model(packed), expected)
    assert len(seen) == 1
    with pytest.raises(ValueError, match="the pooling has hooks"):
        model.stream()


def test_even_weights_are_concat_pooling() -> None:
    """What training begins with: the mean once for each head."""
    encoder, documents = make_encoder(torch.float32).eval(), pack_documents(make_documents((300, 40, 1)))
    with torch.no_grad():
        last, maximum, mean = BPT3C(encoder)(documents).chunk(3, 1)
        found = BPT3C(encoder, **ATTENTION)(documents)
    torch.testing.assert_close(found, torch.cat([last, maximum, mean, mean, mean], 1))
    assert torch.equal(found[:, : 2 * 6], torch.cat([last, maximum], 1))


def test_weights_are_a_plain_softmax_and_sum_to_one() -> None:
    """By way of states that are the identity: each weighted mean then is its weights."""
    pooling = AttentionPooling(9, heads=2, size=5).double()
    nn.init.normal_(pooling.context, std=30)
    states, exact = torch.eye(9).double(), attend(torch.eye(9).double(), pooling)
    lengths, begin = torch.tensor([9]), torch.tensor([0])
    shares = pooling(states.unsqueeze(0), lengths, begin)[0, 18:].view(2, 9).T
    torch.testing.assert_close(shares, exact, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(shares.sum(0), torch.ones(2).double(), atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("spread", [0.5, 20.0])
def test_a_document_has_the_same_bits_in_any_batch_and_cut_anywhere(dtype: torch.dtype, spread: float) -> None:
    model = make_model(spread=spread).to(dtype)
    lengths = (700, 3, 256, 70, 1, 71, 300)
    documents = [torch.randint(0, 40, (n,)) for n in lengths]
    with torch.no_grad():
        together = model(pack_documents(documents))
        for block_rows, bptt in ((1, 1), (50, 7), (4608, 70)):
            model.bpt3c.block_rows, model.bpt3c.bptt = block_rows, bptt
            assert torch.equal(model(pack_documents(documents[::-1])).flip(0), together)
            if bptt > 1:
                alone = [model(pack_documents([document]))[0] for document in documents]
                assert torch.equal(torch.stack(alone), together)
        stream, begin = model.stream(), 0
        for length in (1, 2, 255, 257, 700):
            stream.feed(documents[0][begin:length])
            begin = length
            assert torch.equal(stream.logits(), model(pack_documents([documents[0][:length]]))[0])


def test_gradients_under_autocast_and_of_a_bfloat16_model_are_near() -> None:
    documents = pack_documents(make_documents(FEW))
    exact = learned(BPT3C(make_encoder(torch.float32).eval(), 4, "exact", **ATTENTION).float(), 0.5).eval()
    right = torch.autograd.grad(exact(documents).sum(), list(exact.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        under = torch.autograd.grad(exact(documents).sum(), list(exact.parameters()))
    half = torch.autograd.grad(exact.bfloat16()(documents).sum(), list(exact.parameters()))
    for expected, ours, rounded in zip(right, under, half, strict=True):
        assert ours.dtype == torch.float32
        assert rounded.dtype == torch.bfloat16
        for found in (ours, rounded.float()):
            assert (found - expected).norm() < 0.05 * expected.norm() + 1e-3


def test_int8_and_its_stream_are_near() -> None:
    model = make_model(AWDLSTM(AWDLSTMConfig(40, 60, 120, 2)), 0.3)
    ours, documents = model.quantize(), [torch.randint(0, 40, (n,)) for n in (300, 1, 20)]
    assert not any(p.requires_grad for p in ours.parameters())
    with torch.no_grad():
        found = ours(pack_documents(documents))
        assert (found.softmax(1) - model(pack_documents(documents)).softmax(1)).abs().max() < 0.05
        stream = ours.stream()
        stream.feed(documents[0])
        assert torch.equal(stream.logits(), found[0])


def test_concat_pooling_learns_nothing_and_changes_no_names() -> None:
    model = TextClassifier(make_encoder(), 3)
    assert isinstance(model.bpt3c.pooling, ConcatPooling)
    assert not [name for name in model.state_dict() if "pooling" in name]
    assert model.layer_groups()[-1] is model.head
    own = {id(p) for p in make_model().layer_groups()[-1].parameters()}
    assert len(own) == 3 + len(list(model.head.parameters()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "sum"}, "pooling must be 'concat' or 'attention', got 'sum'"),
        ({"attention_heads": 2}, "attention_heads=2 goes with pooling='attention'"),
        ({"pooling": "attention", "attention_heads": 0}, "attention_heads must be 1 to 1000, got 0"),
        ({"pooling": "attention", "attention_heads": 10**9}, "attention_heads must be 1 to 1000, got 1000000000"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BPT3C(make_encoder(), **options)
