"""BPT3C's gradients where a layer's weight is not simply its parameter: against one autograd graph of torch's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.text.batching import pack_documents

NO_DROPOUT = {"embed_p": 0.0, "input_p": 0.0, "hidden_p": 0.0, "weight_p": 0.0}
LAYER_TENSORS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
WAYS = [("recompute", "exact"), ("recompute", "detached"), ("store", "exact")]


def make_encoder(hidden: int = 6, layers: int = 3) -> AWDLSTM:
    encoder = AWDLSTM(AWDLSTMConfig(20, 6, hidden, layers, **NO_DROPOUT)).double().eval()
    nn.init.normal_(encoder.encoder.weight)
    return encoder


def make_documents() -> list[Tensor]:
    return [torch.randint(20, (n,)) for n in (9, 5, 12, 1)]


def pool_by_modules(encoder: AWDLSTM, documents: list[Tensor], bptt: int | None = None) -> Tensor:
    """[h_last, max, mean], one document after another, by calling the modules as their authors do."""
    pooled = []
    for document in documents:
        states, outputs = [None] * len(encoder.rnns), []
        for chunk in document.split(bptt or len(document)):
            x = encoder.encoder(chunk)
            for layer, rnn in enumerate(encoder.rnns):
                x, state = rnn(x, states[layer])
                states[layer] = state if bptt is None else tuple(s.detach() for s in state)
            outputs.append(x)
        output = torch.cat(outputs)
        pooled.append(torch.cat([output[-1], output.max(0).values, output.mean(0)]))
    return torch.stack(pooled)


def gradients(encoder: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    encoder.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


class Squared(nn.Module):
    """A parametrization whose gradient depends on the parameter, and whose result is not contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.t() * x.t().abs()).t() if x.dim() == 2 else x * x.abs()


def parametrize_everything(encoder: AWDLSTM) -> None:
    for rnn in encoder.rnns:
        for name in LAYER_TENSORS:
            parametrize.register_parametrization(rnn, name, Squared())
    parametrize.register_parametrization(encoder.encoder, "weight", Squared())


def prune_everything(encoder: AWDLSTM) -> None:
    for rnn in encoder.rnns:
        for name in LAYER_TENSORS:
            prune.random_unstructured(rnn, name, 0.3)
    prune.random_unstructured(encoder.encoder, "weight", 0.5)


def prune_twice_and_normalize(encoder: AWDLSTM) -> None:
    prune.random_unstructured(encoder.encoder, "weight", 0.5)
    prune.random_unstructured(encoder.encoder, "weight", 0.2)
    parametrizations.weight_norm(encoder.rnns[0], "weight_hh_l0")


def tie_layers(encoder: AWDLSTM) -> None:
    for name in LAYER_TENSORS:
        setattr(encoder.rnns[1], name, getattr(encoder.rnns[0], name))


def tie_input_and_recurrent_weight(encoder: AWDLSTM) -> None:
    encoder.rnns[1].weight_hh_l0 = encoder.rnns[1].weight_ih_l0


def freeze_some(encoder: AWDLSTM) -> None:
    encoder.rnns[0].requires_grad_(False)
    encoder.rnns[2].bias_hh_l0.requires_grad_(False)


def freeze_the_embedding(encoder: AWDLSTM) -> None:
    encoder.encoder.requires_grad_(False)


def share_a_module(encoder: AWDLSTM) -> None:
    encoder.rnns[1] = encoder.rnns[0]


def older_norms(encoder: AWDLSTM) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(encoder.rnns[0], "weight_hh_l0")
    spectral_norm(encoder.rnns[1], "weight_ih_l0")
    spectral_norm(encoder.encoder, "weight")


CHANGES = [
    *(lambda e, name=name: prune.random_unstructured(e.rnns[1], name, 0.5) for name in LAYER_TENSORS),
    *(lambda e, name=name: parametrizations.weight_norm(e.rnns[1], name) for name in LAYER_TENSORS[:2]),
    *(lambda e, name=name: parametrizations.spectral_norm(e.rnns[0], name) for name in LAYER_TENSORS[:2]),
    lambda e: parametrizations.orthogonal(e.rnns[1], "weight_hh_l0"),
    lambda e: parametrizations.weight_norm(e.encoder, "weight"),
    parametrize_everything,
    prune_everything,
    prune_twice_and_normalize,
    older_norms,
    tie_layers,
    tie_input_and_recurrent_weight,
    share_a_module,
    freeze_some,
    freeze_the_embedding,
]


@pytest.mark.parametrize("change", CHANGES)
def test_gradients_are_torchs(change: Callable[[AWDLSTM], None]) -> None:
    encoder, documents = make_encoder(), make_documents()
    change(encoder)
    for memory, backprop in WAYS:
        bpt3c = BPT3C(encoder, bptt=4, memory=memory, backprop=backprop).eval()
        bpt3c.block_rows = 20
        expected = pool_by_modules(encoder, documents, 4 if backprop == "detached" else None)
        pooled = bpt3c(pack_documents(documents))
        torch.testing.assert_close(pooled, expected, atol=1e-12, rtol=1e-10)
        right = gradients(encoder, expected.sin().sum())
        found = gradients(encoder, pooled.sin().sum())
        assert found.keys() == right.keys()
        for name, grad in found.items():
            torch.testing.assert_close(grad, right[name], atol=1e-11, rtol=1e-9, msg=lambda m: f"{name}: {m}")  # noqa: B023


def test_pruned_weights_follow_the_optimizer() -> None:
    """torch computes a pruned weight as its module is called; BPT3C calls none, and must not use the old one."""
    encoder, documents = make_encoder(), make_documents()
    prune_everything(encoder)
    bpt3c = BPT3C(encoder, 4).eval()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        bpt3c(pack_documents(documents)).square().sum().backward()
        optimizer.step()
        torch.testing.assert_close(bpt3c(pack_documents(documents)), pool_by_modules(encoder, documents))
    with torch.no_grad():
        encoder.encoder.weight_orig.add_(1.0)
        torch.testing.assert_close(bpt3c(pack_documents(documents)), pool_by_modules(encoder, documents))


def test_a_language_model_with_pruned_and_normalized_layers_trains() -> None:
    model = LanguageModel(make_encoder()).double().eval()
    prune_twice_and_normalize(model.encoder)
    tokens = torch.randint(20, (7, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        logits = model.logits(model(tokens))
        logits.sin().sum().backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        x = model.encoder.encoder(tokens)
        for rnn in model.encoder.rnns:
            x, _ = rnn(x)
        expected = F.linear(x, model.encoder.encoder.weight, model.decoder_bias)
        torch.testing.assert_close(logits, expected)
        right = torch.autograd.grad(expected.sin().sum(), list(model.parameters()))
        for grad, (name, _) in zip(right, model.named_parameters(), strict=True):
            torch.testing.assert_close(found[name], grad, msg=lambda m: f"{name}: {m}")  # noqa: B023
        optimizer.step()


@pytest.mark.parametrize("memory", ["recompute", "store"])
def test_an_embedding_shared_with_the_loss_and_an_encoder_used_twice(memory: str) -> None:
    encoder, documents = make_encoder(), make_documents()
    first, second = (BPT3C(encoder, bptt, "exact", memory=memory).eval() for bptt in (4, 100))

    def loss(one: Tensor, two: Tensor) -> Tensor:
        return (F.linear(one[:, :6], encoder.encoder.weight).sin().sum(1) * two.cos().sum(1)).sum()

    expected = loss(pool_by_modules(encoder, documents), pool_by_modules(encoder, documents[::-1]))
    actual = loss(first(pack_documents(documents)), second(pack_documents(documents[::-1])))
    right, found = gradients(encoder, expected), gradients(encoder, actual)
    for name, grad in found.items():
        torch.testing.assert_close(grad, right[name], atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("memory", ["recompute", "store"])
def test_differences_with_other_tensors_in_place_of_the_parameters(memory: str) -> None:
    """torch's gradcheck goes backward several times, which BPT3C does not: central differences by hand."""
    encoder, documents = make_encoder(hidden=3, layers=2), pack_documents([torch.randint(20, (n,)) for n in (5, 2)])
    bpt3c = BPT3C(encoder, 2, "exact", memory=memory).eval()
    others = {name: torch.randn_like(p, requires_grad=True) for name, p in bpt3c.named_parameters()}
    weight = torch.randn(2, 18).double()

    def loss(given: dict[str, Tensor]) -> Tensor:
        return (functional_call(bpt3c, given, (documents,)) * weight).sum()

    found = torch.autograd.grad(loss(others), list(others.values()))
    assert all(p.grad is None for p in bpt3c.parameters())
    for (name, value), grad in zip(others.items(), found, strict=True):
        for _ in range(3):
            step = 1e-6 * torch.randn_like(value)
            with torch.no_grad():
                difference = loss({**others, name: value + step}) - loss({**others, name: value - step})
            torch.testing.assert_close((grad * step).sum() * 2, difference, atol=1e-13, rtol=1e-6, msg=name)


def test_spectral_norm_in_training_mode_iterates_once_a_call() -> None:
    """Its estimate is changed by every look at the weight: pass two must not look again."""
    encoder, documents = make_encoder(), make_documents()
    parametrizations.spectral_norm(encoder.rnns[0], "weight_hh_l0")
    parametrizations.spectral_norm(encoder.encoder, "weight")
    encoder.train()
    norm = encoder.rnns[0].parametrizations.weight_hh_l0[0]
    before = norm._u.clone(), norm._v.clone()
    pooled = BPT3C(encoder, 4, "exact", memory="recompute")(pack_documents(documents))
    found = gradients(encoder, pooled.sin().sum())
    after = norm._u.clone()
    with torch.no_grad():
        norm._u.copy_(before[0])
        norm._v.copy_(before[1])
        encoder.rnns[0].weight_hh_l0  # noqa: B018
    assert torch.equal(norm._u, after)
    encoder.eval()  # the same estimate from here on
    right = gradients(encoder, pool_by_modules(encoder, documents).sin().sum())
    torch.testing.assert_close(found["rnns.2.weight_ih_l0"], right["rnns.2.weight_ih_l0"])
    original = "rnns.0.parametrizations.weight_hh_l0.original"
    torch.testing.assert_close(found[original], right[original])


def test_a_change_between_the_passes_is_an_error() -> None:
    encoder = make_encoder()
    parametrizations.weight_norm(encoder.rnns[0], "weight_hh_l0")
    pooled = BPT3C(encoder, 4)(pack_documents(make_documents()))
    with torch.no_grad():
        encoder.rnns[1].weight_hh_l0.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        pooled.sum().backward()


def test_a_classifier_with_pruned_layers_streams_what_it_predicts() -> None:
    model = TextClassifier(make_encoder(), 3).double().eval()
    prune_everything(model.bpt3c.encoder)
    with torch.no_grad():
        model.bpt3c.encoder.encoder.weight_orig.mul_(2.0)
        document = torch.randint(20, (11,))
        stream = model.stream()
        stream.feed(document)
        assert torch.equal(stream.logits(), model(pack_documents([document]))[0])
        torch.testing.assert_close(stream.logits(), model.classify(pool_by_modules(model.bpt3c.encoder, [document]))[0])
