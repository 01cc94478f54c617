"""Weights that a layer packs once: the same results, never stale, never in the way."""

from __future__ import annotations

import copy
import io
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, TextClassifier, WeightDropLSTM, ops
from ulmfit_fast.text.batching import pack_documents

X = 120  # features; 4 * X * (X + X) weights are enough to be kept


def make_layer(**options: Any) -> WeightDropLSTM:
    return WeightDropLSTM(X, X, **options).eval()


def run(layer: nn.Module, x: Tensor, **options: Any) -> Tensor:
    with torch.inference_mode():
        return layer(x, **options)[0].clone()


def expected(layer: WeightDropLSTM, x: Tensor) -> Tensor:
    """By the call that packs for itself, as a gradient is wanted."""
    return copy.deepcopy(layer).requires_grad_()(x)[0].detach()


def pointers(layer: WeightDropLSTM) -> dict[Any, int]:
    return {key: entry.packed.data_ptr() for key, entry in layer._packed._entries.items()}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 2, X)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"proj_size": 100}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_packed_once_with_the_same_bits(options: dict[str, Any], dtype: torch.dtype) -> None:
    layer, x = make_layer(**options).to(dtype), torch.randn(4, 2, X, dtype=dtype)
    first, kept = run(layer, x), pointers(layer)
    assert len(kept) == len(layer._all_weights)
    assert torch.equal(first, expected(layer, x))
    assert torch.equal(run(layer, x), first)
    assert pointers(layer) == kept
    weights = sum(w.numel() * 4 for n, w in layer.named_parameters() if n.startswith("weight"))
    if dtype == torch.float32:
        assert weights <= layer._packed.nbytes <= 1.6 * weights


def test_autocast_has_its_own(x: Tensor) -> None:
    layer = make_layer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, wanted = run(layer, x), expected(layer, x)
    assert torch.equal(half, wanted)
    assert torch.equal(run(layer, x), expected(layer, x))
    assert {dtype for _, dtype in pointers(layer)} == {torch.bfloat16, torch.float32}


CHANGES = {
    "in place": lambda layer: layer.weight_hh_l0.detach().mul_(1.5),
    "one element": lambda layer: layer.weight_ih_l0.detach()[3, 4].fill_(9.0),
    "in inference mode": lambda layer: torch.inference_mode()(lambda: layer.weight_hh_l0.mul_(1.5))(),
    "whole, through data": lambda layer: layer.weight_hh_l0.data.mul_(1.5),
    "data exchanged": lambda layer: setattr(layer.weight_ih_l0, "data", layer.weight_ih_l0.data * 1.5),
    "another parameter": lambda layer: setattr(layer, "weight_hh_l0", nn.Parameter(layer.weight_hh_l0.detach() * 1.5)),
    "load_state_dict": lambda layer: layer.load_state_dict({n: v * 1.5 for n, v in layer.state_dict().items()}),
    "assigned": lambda layer: layer.load_state_dict({n: v * 1.5 for n, v in layer.state_dict().items()}, assign=True),
    "optimizer": lambda layer: _step(layer),
    "numpy": lambda layer: layer.weight_ih_l0.detach().numpy().__imul__(1.5),
    "reset": lambda layer: layer.reset_parameters(),
}


def _step(layer: WeightDropLSTM) -> None:
    layer(torch.ones(3, 1, X))[0].sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str, x: Tensor) -> None:
    layer = make_layer()
    before = run(layer, x)
    CHANGES[change](layer)
    after = run(layer, x)
    assert not torch.equal(after, before)
    assert torch.equal(after, expected(layer, x))


def test_memory_of_another_tensor_is_not_taken_for_the_same() -> None:
    """A tensor that is freed and one made where it lay: same address, same version."""
    layer, x = make_layer(), torch.randn(4, 2, X)
    for _ in range(5):
        layer.weight_hh_l0.data = torch.randn(4 * X, X)
        assert torch.equal(run(layer, x), expected(layer, x))


def test_dropped_by_training_and_conversion(x: Tensor) -> None:
    for drop in ("train", "double", "load"):
        layer = make_layer()
        run(layer, x)
        run(layer.eval(), x)  # which prediction calls again and again
        assert pointers(layer)
        if drop == "train":
            layer.train()
        elif drop == "double":
            layer.double()
        else:
            layer.load_state_dict(layer.state_dict())
        assert layer._packed.nbytes == 0
    layer = make_layer().train()
    run(layer, x)
    assert not pointers(layer)


def test_not_where_a_gradient_is_wanted(x: Tensor) -> None:
    layer = make_layer()
    layer(x)[0].sum().backward()
    assert layer.weight_hh_l0.grad is not None
    assert not pointers(layer)
    layer.requires_grad_(False)
    layer(x)
    assert pointers(layer)
    wanted = x.clone().requires_grad_()
    layer(wanted)[0].sum().backward()
    assert wanted.grad is not None


def test_small_layers_pack_for_themselves() -> None:
    layer = WeightDropLSTM(16, 16).eval()
    run(layer, torch.randn(3, 1, 16))
    assert not pointers(layer)


def test_computed_weights_are_not_kept(x: Tensor) -> None:
    """Each call has new tensors of them."""
    pruned = make_layer()
    prune.l1_unstructured(pruned, "weight_hh_l0", 0.5)
    parametrized = make_layer()

    class Doubled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * weight

    parametrize.register_parametrization(parametrized, "weight_ih_l0", Doubled())
    for layer in (pruned, parametrized):
        with torch.no_grad():
            before = layer(x)[0]
            for parameter in layer.parameters():
                parameter.mul_(1.1)
            assert not torch.equal(layer(x)[0], before)
        assert not pointers(layer)


def test_functional_call_takes_its_own_weights(x: Tensor) -> None:
    layer = make_layer()
    plain = run(layer, x)
    with torch.no_grad():
        doubled = {name: 2 * value for name, value in layer.named_parameters()}
        other = torch.func.functional_call(layer, doubled, (x,))[0]
        assert not torch.equal(other, plain)
        assert torch.equal(layer(x)[0], plain)


def test_inference_parameters_have_no_version(x: Tensor) -> None:
    with torch.inference_mode():
        layer = make_layer()
        before = layer(x)[0].clone()
        layer.weight_hh_l0[3].mul_(2)
        assert not torch.equal(layer(x)[0], before)
    assert not pointers(layer)


def test_copies_and_files_begin_without(x: Tensor) -> None:
    layer = make_layer()
    wanted = run(layer, x)
    file = io.BytesIO()
    torch.save(layer, file)
    assert file.tell() < 1.2 * sum(w.nbytes for w in layer.parameters()) + 10_000
    file.seek(0)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert not pointers(other)
        assert torch.equal(run(other, x), wanted)
    assert set(layer.state_dict()) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    state = layer.__dict__ | {"_flat_weight_refs": []}
    old = WeightDropLSTM.__new__(WeightDropLSTM)  # pickled before there was a cache
    old.__setstate__({name: value for name, value in state.items() if name != "_packed"})
    assert torch.equal(run(old, x), wanted)


def test_compile_and_export_leave_it_alone(x: Tensor) -> None:
    layer = make_layer()
    wanted = run(layer, x)
    kept = pointers(layer)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x)[0], wanted)
        layer.weight_hh_l0.mul_(1.5)
        assert torch.equal(compiled(x)[0], run(layer, x))
        program = torch.export.export(layer, (x,)).module()
        traced = torch.jit.trace(layer, (x,), check_trace=False)
        assert torch.equal(program(x)[0], run(layer, x))
        assert torch.equal(traced(x)[0], run(layer, x))
    assert pointers(layer).keys() == kept.keys()


def test_threads_share_one_copy(x: Tensor) -> None:
    layer = make_layer(num_layers=2)
    wanted, results = expected(layer, x), [None] * 8
    seen: list[dict[Any, int]] = []

    def work(index: int) -> None:
        results[index] = run(layer, x)  # type: ignore[call-overload]
        seen.append(pointers(layer))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result is not None and torch.equal(result, wanted) for result in results)
    assert all(each == seen[0] for each in seen if len(each) == 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_classifier_and_stream(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TextClassifier(AWDLSTM(AWDLSTMConfig(40, X, X, 2)), 3).to(dtype).eval()
    documents = pack_documents([torch.randint(0, 40, (n,)) for n in (30, 1, 7)])
    wanted = model(documents).detach()
    packings = []
    pack = ops.lstm_pack
    monkeypatch.setattr(ops, "lstm_pack", lambda *a, **k: packings.append(1) or pack(*a, **k))
    with torch.inference_mode():
        for _ in range(3):
            assert torch.equal(model(documents), wanted)
    stream = model.stream()
    for token in (3, 4, 5):
        stream.feed([token])
        logits = stream.logits()
    with torch.no_grad():
        assert torch.equal(logits, model(pack_documents([torch.tensor([3, 4, 5])]))[0])
    assert len(packings) == 2
