"""``replace_lstm`` and ``to_nn_lstm`` on models with plain ``nn.LSTM``."""

from __future__ import annotations

import copy
import io
import itertools
import logging
import pickle
import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from ulmfit_fast import InputError, WeightDropLSTM, replace_lstm, to_nn_lstm

OPTIONS = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional", "proj_size"), values, strict=True))
    for values in itertools.product((1, 2), (True, False), (False, True), (False, True), (0, 3))
]


class Tagger(nn.Module):
    """An LSTM in a list, one in a list of Python, one at two places."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.first = nn.LSTM(4, 6, **options)
        width = self.first(torch.zeros(1, 1, 4, dtype=self.first.weight_ih_l0.dtype))[0].shape[2]
        self.stack = nn.ModuleList([nn.LSTM(width, 5), nn.LSTM(5, 5)])
        self.order = [*self.stack, self.stack[1]]  # the second twice
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.first(self.embedding(tokens))[0]
        for lstm in self.order:
            x = lstm(x)[0]
        return self.head(x)


def tensors_of(value: Any) -> list[Tensor]:
    """Of outputs, states and packed sequences."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    return [tensor for item in value for tensor in tensors_of(item)]


def run(layer: nn.Module, x: Any) -> dict[str, Tensor]:
    """All that comes out and every gradient."""
    outputs = tensors_of(layer(x))
    loss = sum((v * torch.linspace(-1, 2, v.numel(), dtype=v.dtype).view_as(v)).sum() for v in outputs)
    gradients = torch.autograd.grad(loss, list(layer.parameters()))
    names = [name for name, _ in layer.named_parameters()]
    return {f"output {i}": v for i, v in enumerate(outputs)} | dict(zip(names, gradients, strict=True))


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("packed", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(str(int(v)) for v in o.values()))
def test_outputs_states_and_gradients_there_and_back(options: dict[str, Any], packed: bool) -> None:
    model = nn.Sequential(nn.LSTM(4, 6, **options, dtype=torch.float64))
    x: Any = torch.randn(5, 7, 4, dtype=torch.float64)
    if packed:
        lengths = torch.tensor([7, 2, 5, 5, 1] if options["batch_first"] else [5, 2, 3, 3, 1, 1, 4])
        x = pack_padded_sequence(x, lengths, options["batch_first"], enforce_sorted=False)
    expected, keys, parameters = run(model, x), list(model.state_dict()), list(model.parameters())
    assert replace_lstm(model) is model
    assert type(model[0]) is WeightDropLSTM
    assert_same(run(model, x), expected)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert to_nn_lstm(model) is model
    assert type(model[0]) is nn.LSTM
    assert_same(run(model, x), expected, 0)
    assert list(model.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


def test_every_place_of_a_model() -> None:
    """Lists of Python, too: train() and eval() do not reach what only those hold."""
    model = Tagger(bidirectional=True).double()
    tokens = torch.randint(20, (7, 3))
    expected = run(model, tokens)
    replace_lstm(model)
    assert all(type(lstm) is WeightDropLSTM for lstm in (model.first, *model.stack, *model.order))
    assert model.order[1] is model.order[2] is model.stack[1]
    assert_same(run(model, tokens), expected)
    model.eval()
    assert not any(lstm.training for lstm in model.order)
    to_nn_lstm(model)
    assert all(type(lstm) is nn.LSTM for lstm in (model.first, *model.stack, *model.order))


def test_other_attributes_that_hold_a_layer() -> None:
    model = nn.Module()
    model.lstm = nn.LSTM(4, 6)
    model.by_name, model.pair = {"lstm": model.lstm, "none": None}, (model.lstm, 1)
    model.nested = [[model.lstm], {"deep": (model.lstm, [])}]
    model.nested.append(model.nested)
    object.__setattr__(model, "hidden", model.lstm)
    replace_lstm(model)
    assert model.by_name == {"lstm": model.lstm, "none": None}
    assert model.pair == (model.lstm, 1)
    assert model.nested[0] == [model.lstm]
    assert model.nested[1] == {"deep": (model.lstm, [])}
    assert model.hidden is model.lstm
    assert isinstance(model.lstm, WeightDropLSTM)


def test_a_root_and_a_shared_layer() -> None:
    lstm = nn.LSTM(4, 6)
    assert type(new := replace_lstm(lstm)) is WeightDropLSTM
    assert new.weight_hh_l0 is lstm.weight_hh_l0
    assert type(to_nn_lstm(new)) is nn.LSTM
    shared = nn.ModuleDict({"source": nn.Sequential(lstm), "target": lstm})
    replace_lstm(shared)
    assert shared["source"][0] is shared["target"]
    assert isinstance(shared["target"], WeightDropLSTM)


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    generator, results = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        tokens = torch.randint(20, (7, 3), generator=generator)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten() % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        results.append(loss.item())
    return results


def test_an_optimizer_goes_on() -> None:
    """With its moments, and with the state of a checkpoint, which goes by the parameters' order."""
    model = Tagger().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses(model, optimizer, 3)
    other = copy.deepcopy(model)
    other_optimizer = torch.optim.Adam(other.parameters(), lr=0.05)
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    third = replace_lstm(copy.deepcopy(model))
    third_optimizer = torch.optim.Adam(third.parameters(), lr=0.05)
    third_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    replace_lstm(model)
    expected = losses(other, other_optimizer, 6)
    assert losses(model, optimizer, 6) == pytest.approx(expected, rel=1e-9)
    assert losses(third, third_optimizer, 6) == pytest.approx(expected, rel=1e-9)
    assert expected[-1] < expected[0]


def test_modes_and_what_is_frozen() -> None:
    model = Tagger(num_layers=2, dropout=0.25).eval()
    model.stack[0].train()
    model.first.weight_hh_l1.requires_grad_(False)
    model.first.weight_ih_l0.grad = torch.ones_like(model.first.weight_ih_l0)
    model.first.label = "mine"
    replace_lstm(model)
    assert [m.training for m in (model.first, *model.stack)] == [False, True, False]
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["first.weight_hh_l1"]
    assert model.first.weight_ih_l0.grad.sum() == 24 * 4
    assert (model.first.dropout, model.first.label) == (0.25, "mine")
    model.first.flatten_parameters()
    moved = model.to(torch.float64)
    assert moved(torch.zeros(2, 1, dtype=torch.int64)).dtype == torch.float64
    assert to_nn_lstm(model).first.dropout == 0.25


def test_neither_random_numbers_nor_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.LSTM(4, 6, dropout=0.5, device="meta"), nn.LSTM(6, 6, dtype=torch.bfloat16))
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace_lstm(model)
        to_nn_lstm(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert (model[0].weight_ih_l0.device.type, model[1].weight_ih_l0.dtype) == ("meta", torch.bfloat16)


def test_hooks_go_over_with_their_handles() -> None:
    layer, calls = nn.LSTM(4, 6), []
    handles = [
        layer.register_forward_hook(lambda module, *_: calls.append((type(module).__name__, "forward"))),
        layer.register_forward_pre_hook(lambda module, args, kwargs: calls.append(sorted(kwargs)), with_kwargs=True),
        layer.register_state_dict_post_hook(lambda module, state, prefix, _: state.update({prefix + "extra": 1})),
        layer.register_load_state_dict_pre_hook(lambda module, state, *_: calls.append(type(module).__name__)),
    ]
    model = nn.Sequential(layer)
    del layer  # what a hook holds weakly
    for there, name in ((replace_lstm, "WeightDropLSTM"), (to_nn_lstm, "LSTM"), (replace_lstm, "WeightDropLSTM")):
        there(model)
        model[0](torch.zeros(2, 1, 4), hx=None)
        state = model.state_dict()
        model.load_state_dict(state, strict=False)
        assert calls == [["hx"], (name, "forward"), name]
        assert state["0.extra"] == 1
        calls.clear()
    for handle in handles:
        handle.remove()
    model(torch.zeros(2, 1, 4))
    assert "0.extra" not in model.state_dict()
    assert calls == []


def test_copies_and_files() -> None:
    model = replace_lstm(Tagger())
    tokens = torch.randint(20, (7, 3))
    expected = model(tokens)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(tokens), expected)
    assert twin.first.weight_hh_l0 is not model.first.weight_hh_l0
    assert torch.equal(pickle.loads(pickle.dumps(model))(tokens), expected)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    plain = Tagger()
    plain.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(plain(tokens), expected)
    model.load_state_dict(plain.state_dict(), assign=True)
    assert torch.equal(model(tokens), expected)


def test_a_compiled_or_traced_graph_around_the_layer() -> None:
    model = Tagger()
    tokens = torch.randint(20, (7, 3))
    expected = model(tokens)
    compiled = torch.compile(model, backend="eager")
    compiled(tokens)
    replace_lstm(compiled)
    torch.testing.assert_close(compiled(tokens), expected)
    assert isinstance(model.first, WeightDropLSTM)
    graph = fx.symbolic_trace(Tagger().eval())
    expected = graph(tokens)
    torch.testing.assert_close(replace_lstm(graph)(tokens), expected)


def test_weight_dropout_for_all_and_none_back() -> None:
    model = replace_lstm(Tagger(), weight_dropout=0.5)
    tokens = torch.randint(20, (7, 3))
    assert not torch.equal(model(tokens), model(tokens))
    with pytest.raises(InputError, match=r"no weight dropout, first, stack\.0, stack\.1 has; say drop_weight_dropout"):
        to_nn_lstm(model)
    assert isinstance(model.first, WeightDropLSTM)
    expected = model.eval()(tokens)
    torch.testing.assert_close(to_nn_lstm(model, drop_weight_dropout=True)(tokens), expected)
    with pytest.raises(InputError, match=r"weight_dropout must be in \[0, 1\), got 1"):
        replace_lstm(model, weight_dropout=1)


def test_what_it_reports(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        replace_lstm(Tagger())
    assert caplog.messages == ["replace_lstm: 3 replaced: first, stack.0, stack.1"]


def test_nothing_to_replace() -> None:
    model = nn.Sequential(nn.GRU(4, 6))
    with pytest.raises(InputError, match=r"Sequential holds no torch.nn.LSTM"):
        replace_lstm(model)
    assert replace_lstm(model, strict=False) is model
    with pytest.raises(InputError, match=r"but 3 WeightDropLSTM already"):
        replace_lstm(replace_lstm(Tagger()))
    with pytest.raises(InputError, match="holds no WeightDropLSTM"):
        to_nn_lstm(Tagger())
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got dict"):
        replace_lstm({})  # type: ignore[arg-type]
    learner = types.SimpleNamespace(model=Tagger())
    with pytest.raises(TypeError, match="got SimpleNamespace; give its model"):
        replace_lstm(learner)  # type: ignore[arg-type]


def test_buffers_and_more_parameters_go_over() -> None:
    """A learned initial state on the layer itself is its owner's affair; the state dict keeps it."""
    layer = nn.LSTM(4, 6)
    layer.h0 = nn.Parameter(torch.ones(6))
    layer.register_buffer("count", torch.zeros(1))
    keys = list(layer.state_dict())
    new = replace_lstm(layer)
    assert list(new.state_dict()) == keys
    assert new.h0 is layer.h0


def test_a_freshly_scripted_model_after_going_back() -> None:
    model = to_nn_lstm(replace_lstm(nn.Sequential(nn.LSTM(4, 6))))
    x = torch.randn(5, 2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(model)
    torch.testing.assert_close(script(x), model(x))
    assert b"ulmfit" not in pickle.dumps(model)


def test_packed_weights_stay_with_their_layer() -> None:
    layer = WeightDropLSTM(400, 128).eval()
    with torch.no_grad():
        layer(torch.randn(1, 1, 400))
    assert layer._packed.nbytes > 0
    assert "_packed" not in vars(to_nn_lstm(layer))
