"""Hooks on a model's layers run, and gradients with respect to embeddings are exact: what explains a prediction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from ulmfit_fast import AWDLSTM, BPT3C, AWDLSTMConfig, LanguageModel, TextClassifier, WeightDropLSTM
from ulmfit_fast.text.batching import pack_documents

CONFIG = AWDLSTMConfig(
    30, embedding_size=6, hidden_size=9, num_layers=3, embed_p=0.2, input_p=0.3, hidden_p=0.3, weight_p=0.5
)
LENGTHS = (11, 3, 25, 8, 1, 25, 4)


def make_classifier(dtype: torch.dtype = torch.float64, **options: object) -> TextClassifier:
    model = TextClassifier(AWDLSTM(CONFIG), 3, **options).to(dtype).eval()  # type: ignore[arg-type]
    nn.init.normal_(model.bpt3c.encoder.encoder.weight)
    return model


def make_documents(lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    return [torch.randint(0, 30, (length,)) for length in lengths]


def padded(documents: list[Tensor]) -> tuple[Tensor, Tensor]:
    tokens = nn.utils.rnn.pad_sequence(documents, batch_first=True, padding_value=7)
    return tokens, torch.tensor([len(document) for document in documents])


KINDS: dict[str, Callable[[nn.Module, Callable], RemovableHandle]] = {
    "forward": lambda module, f: module.register_forward_hook(f),
    "forward_pre": lambda module, f: module.register_forward_pre_hook(f),
    "backward": lambda module, f: module.register_full_backward_hook(f),
    "backward_pre": lambda module, f: module.register_full_backward_pre_hook(f),
}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # ids have no gradient
@pytest.mark.parametrize("kind", KINDS)
def test_hooks_of_every_kind_run_on_every_module(kind: str) -> None:
    model, documents = make_classifier(), pack_documents(make_documents())
    encoder = model.bpt3c.encoder
    # torch's own nn.LSTM gives a backward hook no gradients of a PackedSequence, either: the embedding has tensors.
    modules = [encoder, encoder.encoder, *encoder.rnns, model.head[2]] if "forward" in kind else [encoder.encoder]
    expected = model(documents)
    for module in modules:
        seen: list[nn.Module] = []
        handle = KINDS[kind](module, lambda m, *_: seen.append(m))  # noqa: B023
        logits = model(documents)
        torch.testing.assert_close(logits, expected, atol=1e-12, rtol=1e-12)
        logits.sum().backward()
        assert seen == [module]
        seen.clear()
        with torch.no_grad():
            model(documents)
        assert seen == ([module] if "forward" in kind else [])
        handle.remove()
        assert torch.equal(model(documents), expected)


def test_what_hooks_see_is_the_documents_row_by_row_and_packed_states() -> None:
    model, documents = make_classifier(), make_documents()
    seen: dict[str, tuple] = {}
    encoder = model.bpt3c.encoder
    encoder.encoder.register_forward_hook(lambda _, given, result: seen.update(embedding=(given[0], result)))
    encoder.rnns[1].register_forward_hook(lambda _, given, result: seen.update(layer=(given[0], result)))
    model(pack_documents(documents))
    ids, embedded = seen["embedding"]
    assert embedded.shape == (len(documents), 25, 6)
    for row, document in enumerate(documents):
        assert torch.equal(ids[row, : len(document)], document)
    given, (output, (h, c)) = seen["layer"]
    assert isinstance(given, PackedSequence)
    assert output.data.shape == (sum(LENGTHS), 9)
    assert h.shape == c.shape == (1, len(LENGTHS), 9)


def test_a_hook_that_changes_a_layers_output_changes_the_prediction() -> None:
    model, documents = make_classifier(), pack_documents(make_documents())
    model.bpt3c.encoder.encoder.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    assert torch.equal(model(documents), model(pack_documents([torch.zeros_like(d) for d in make_documents()])))


@pytest.mark.parametrize("mask_scope", ["document", "chunk"])
@pytest.mark.parametrize("backprop", ["detached", "exact"])
@pytest.mark.parametrize("window", [None, 6])
def test_a_hook_does_not_change_training(mask_scope: str, backprop: str, window: int | None) -> None:
    """The same masks for the same seed, and the same gradients by another way: one graph, and the two passes."""
    model = make_classifier(bptt=4, mask_scope=mask_scope, backprop=backprop, pool_window=window, memory="recompute")
    bpt3c, documents = model.bpt3c.train(), pack_documents(make_documents())
    results = []
    for hooked in (False, True):
        if hooked:
            bpt3c.encoder.encoder.register_forward_hook(lambda *_: None)
        torch.manual_seed(3)
        pooled = bpt3c(documents)
        results.append([pooled, *torch.autograd.grad(pooled.sin().sum(), list(bpt3c.parameters()))])
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-11, rtol=1e-9)
    assert all(rnn.training and rnn.weight_dropout == 0.5 for rnn in bpt3c.encoder.rnns)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hook_does_not_change_a_language_model(dtype: torch.dtype) -> None:
    model, tokens = LanguageModel(AWDLSTM(CONFIG)).to(dtype), torch.randint(30, (7, 3))
    outputs = []
    for hooked in (False, True):
        seen: list[nn.Module] = []
        if hooked:
            for module in (model.encoder.encoder, *model.encoder.rnns):
                module.register_forward_hook(lambda m, *_: seen.append(m))  # noqa: B023
        torch.manual_seed(3)
        outputs.append(model(tokens))
        assert len(seen) == 4 * hooked
    assert torch.equal(outputs[0].dropped, outputs[1].dropped)
    for (h, c), (other_h, other_c) in zip(outputs[0].state, outputs[1].state, strict=True):
        assert torch.equal(h, other_h)
        assert c.dtype == other_c.dtype == torch.float32
        torch.testing.assert_close(c, other_c, atol=0.0, rtol=0.0 if dtype == torch.float32 else 2**-8)


def test_a_layer_with_a_forward_of_its_own_is_called() -> None:
    class Doubled(nn.Embedding):
        def forward(self, tokens: Tensor) -> Tensor:
            return 2 * super().forward(tokens)

    model, documents = make_classifier(), pack_documents(make_documents())
    encoder = model.bpt3c.encoder
    doubled = Doubled(30, 6, _weight=encoder.encoder.weight.detach() / 2)
    expected, encoder.encoder = model(documents), doubled
    torch.testing.assert_close(model(documents), expected)
    encoder.encoder.forward = lambda tokens: torch.zeros(*tokens.shape, 6, dtype=torch.float64)
    assert not torch.allclose(model(documents), expected)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: WeightDropLSTM(9, 9, bias=False),
        lambda: WeightDropLSTM(9, 12, proj_size=9),
        lambda: nn.LSTM(9, 9),
        lambda: nn.LSTM(9, 12, proj_size=9),
    ],
)
def test_a_layer_of_another_make_computes_what_it_says(layer: Callable[[], nn.RNNBase]) -> None:
    """Its weights are not what the ops are called on: they were, in silence, whatever else it had."""
    model, document = make_classifier(), torch.randint(30, (12,))
    encoder = model.bpt3c.encoder
    encoder.rnns[1] = layer().double()
    x = encoder.encoder(document)
    for rnn in encoder.rnns:
        x, _ = rnn(x)
    expected = torch.cat([x[-1], x.max(0).values, x.mean(0)])
    torch.testing.assert_close(model.bpt3c(pack_documents([document]))[0], expected)
    torch.testing.assert_close(LanguageModel(encoder).eval()(document[:, None]).raw[:, 0], x)
    model.train()(pack_documents(make_documents())).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize("layer", [lambda: WeightDropLSTM(9, 9, 2), lambda: WeightDropLSTM(9, 9, bidirectional=True)])
def test_a_layer_with_several_states_is_refused(layer: Callable[[], nn.RNNBase]) -> None:
    model = make_classifier()
    model.bpt3c.encoder.rnns[1] = layer().double()
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(2, 7, 9\), got \[1, 7, 9\]"):
        model(pack_documents(make_documents()))


def test_an_embedding_with_padding_gets_no_gradient_there() -> None:
    model = make_classifier()
    encoder, documents = model.bpt3c.encoder, pack_documents([torch.tensor([3, 4, 5])])
    encoder.encoder.padding_idx = 4
    model(documents).sin().sum().backward()
    grad = encoder.encoder.weight.grad
    assert (grad[4] == 0).all()
    assert (grad[[3, 5]] != 0).all()


def test_a_stream_refuses_what_it_would_not_call() -> None:
    model = make_classifier()
    handle = model.bpt3c.encoder.rnns[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"has hooks.*which a stream does not call"):
        model.stream()
    handle.remove()
    model.stream()


@pytest.mark.parametrize("options", [{}, {"pool_window": 6}, {"pool_window": 6, "keep": "first"}, {"bptt": 3}])
def test_forward_embedded_goes_on_where_embed_ends(options: dict) -> None:
    model, (tokens, lengths) = make_classifier(**options), padded(make_documents())
    expected = model(tokens, lengths)
    embedded = model.embed(tokens).detach().requires_grad_()
    logits = model.forward_embedded(embedded, lengths)
    torch.testing.assert_close(logits, expected, atol=1e-12, rtol=1e-12)
    (grad,) = torch.autograd.grad(logits.sum(), embedded)
    inside = torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)
    assert (grad[~inside] == 0).all()
    if not options:
        assert (grad[inside] != 0).all()
    with pytest.raises(ValueError, match=r"embedded must be \[B, T, E\], got \[7, 25\]"):
        model.forward_embedded(tokens, lengths)
    with pytest.raises(ValueError, match="forward_embedded: is for eval mode"):
        model.train().forward_embedded(embedded, lengths)


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("options", [{}, {"pool_window": 6}, {"pool_window": 6, "keep": "first"}])
def test_frozen_layers_give_the_same_gradients_in_two_passes(options: dict, memory: str) -> None:
    model, (tokens, lengths) = make_classifier(**options, bptt=3, memory=memory), padded(make_documents())
    model.bpt3c.block_rows = 12  # a few chunks at a time
    found = []
    for frozen in (False, True):
        embedded = model.embed(tokens).detach().requires_grad_()
        logits = model.forward_embedded(embedded, lengths, frozen)
        logits[:, 1].sum().backward()
        found.append((logits.detach(), embedded.grad))
        assert (model.bpt3c.encoder.rnns[0].weight_hh_l0.grad is None) == frozen
        model.zero_grad(set_to_none=True)
    torch.testing.assert_close(found[1], found[0], atol=1e-12, rtol=1e-12)


def test_gradients_of_embeddings_are_exact_whatever_backprop_says() -> None:
    model = make_classifier(bptt=2, backprop="detached")
    embedded = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([5, 3])
    assert torch.autograd.gradcheck(lambda x: model.forward_embedded(x, lengths), embedded)


def integrated_gradients(model: TextClassifier, document: Tensor, baseline: Tensor, target: int, steps: int) -> Tensor:
    """[T] by the definition (Sundararajan et al., arXiv 1703.01365), midpoint rule, through plain modules."""
    head, encoder = model.head, model.bpt3c.encoder
    start, end = encoder.encoder.weight[baseline].detach(), encoder.encoder.weight[document].detach()
    total = torch.zeros_like(end)
    for step in range(steps):
        x = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
        states = x
        for rnn in encoder.rnns:
            states, _ = rnn(states)
        pooled = torch.cat([states[-1], states.max(0).values, states.mean(0)])
        total += torch.autograd.grad(head(pooled.unsqueeze(0))[0, target], x)[0]
    return ((end - start) * total / steps).sum(1)


def test_integrated_gradients_by_forward_embedded() -> None:
    model, document = make_classifier(), torch.randint(9, 30, (12,))
    baseline, steps = torch.ones_like(document), 30
    expected = integrated_gradients(model, document, baseline, 1, steps)
    start, end = model.embed(baseline[None]).detach(), model.embed(document[None]).detach()
    alphas = ((torch.arange(steps) + 0.5) / steps).view(-1, 1, 1).double()
    path = (start + alphas * (end - start)).requires_grad_()
    logits = model.forward_embedded(path, torch.full((steps,), 12))
    (grad,) = torch.autograd.grad(logits[:, 1].sum(), path)
    torch.testing.assert_close(((end - start)[0] * grad.mean(0)).sum(1), expected)
    whole = model(document[None], torch.tensor([12])) - model(baseline[None], torch.tensor([12]))
    torch.testing.assert_close(expected.sum(), whole[0, 1], atol=1e-2, rtol=0.02)  # completeness


def test_captum() -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, documents = make_classifier(), make_documents((12, 5, 9))
    tokens, lengths = padded(documents)
    tokens = tokens.clamp(min=9)
    explained = attr.LayerIntegratedGradients(model, model.bpt3c.encoder.encoder)
    found = explained.attribute(
        tokens, baselines=torch.ones_like(tokens), additional_forward_args=(lengths,), target=1, n_steps=400,
        method="riemann_middle",
    ).sum(2)  # fmt: skip
    for row, length in enumerate(lengths.tolist()):
        document = tokens[row, :length]
        expected = integrated_gradients(model, document, torch.ones_like(document), 1, 400)
        torch.testing.assert_close(found[row, :length], expected, atol=1e-9, rtol=1e-6)
        assert (found[row, length:] == 0).all()
    activation = attr.LayerActivation(model, model.head[2]).attribute(tokens, additional_forward_args=(lengths,))
    assert activation.shape == (3, 50)


def test_captum_with_packed_documents() -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, document = make_classifier(), torch.randint(9, 30, (1, 12))
    explained = attr.LayerIntegratedGradients(lambda ids: model(pack_documents(list(ids))), model.bpt3c.encoder.encoder)
    found = explained.attribute(
        document, baselines=torch.ones_like(document), target=1, n_steps=40, method="riemann_middle"
    )
    expected = integrated_gradients(model, document[0], torch.ones_like(document[0]), 1, 40)
    torch.testing.assert_close(found.sum(2)[0], expected, atol=1e-9, rtol=1e-6)


def test_hooks_and_progress() -> None:
    bpt3c = BPT3C(AWDLSTM(CONFIG), 4).eval()
    done: list[float] = []
    bpt3c.on_progress = done.append
    bpt3c.encoder.encoder.register_forward_hook(lambda *_: None)
    bpt3c(pack_documents(make_documents()))
    assert sum(done) == sum(LENGTHS)
