"""``replace_lstm`` on models of fastai and awd-lstm-lm: their weight drop wrappers, and the keys of their files."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nn.weight_drop_wrappers import (
    AwdLanguageModel,
    E,
    H,
    V,
    WeightDrop,
    fastai_classifier,
    fastai_language_model,
)
from ulmfit_fast import InputError, WeightDropLSTM, ops, replace_lstm, to_nn_lstm


def tokens(*shape: int) -> Tensor:
    return torch.randint(3, V, shape)


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Of a model without dropout, whose state (if it has one) starts from zero."""
    getattr(model, "reset", lambda: None)()
    output = model(x)
    output = output if isinstance(output, Tensor) else output[0]
    loss = (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum()
    return output.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize(
    "make",
    [
        lambda: fastai_language_model(),
        lambda: fastai_language_model(bidir=True, weight_p=0),
        lambda: fastai_classifier(),
        lambda: AwdLanguageModel(),
    ],
    ids=["fastai's language model", "bidirectional", "fastai's classifier", "awd-lstm-lm"],
)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
def test_outputs_gradients_and_keys(make: Any, used: bool) -> None:
    torch.manual_seed(1)
    model = make().double()
    x = tokens(4, 20)
    getattr(model, "reset", lambda: None)()  # fastai's state is float32 until then
    if used:  # in training mode fastai breaks its own reset() where weight_p is 0
        model.train(all(getattr(module, "weight_p", 1) for module in model.modules()))
        model(x)
        model(x)
    model.eval()
    expected, parameters = gradients(model, x), list(model.parameters())
    keys = [key for key in model.state_dict() if not key.endswith("module.weight_hh_l0")]
    assert replace_lstm(model) is model
    layers = [module for module in model.modules() if isinstance(module, WeightDropLSTM)]
    assert len(layers) == (2 if isinstance(model, AwdLanguageModel) else 3)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == keys
    actual = gradients(model, x)
    for mine, theirs in zip([actual[0], *actual[1]], [expected[0], *expected[1]], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def test_a_model_trained_with_weight_p_0() -> None:
    """In training fastai then makes the raw weight itself the copy, a second Parameter, and cannot reset any more."""
    model = fastai_language_model(weight_p=0)
    x = tokens(4, 9)
    model.train()(x)
    assert model[0].rnns[0].module.weight_hh_l0 is model[0].rnns[0].weight_hh_l0_raw
    ours = replace_lstm(copy.deepcopy(model))
    fresh = fastai_language_model(weight_p=0)
    fresh.load_state_dict(ours.state_dict())
    assert_loads(fresh, ours, fresh.state_dict(), x)


@pytest.mark.parametrize("make", [fastai_language_model, AwdLanguageModel], ids=["fastai", "awd-lstm-lm"])
def test_the_probability_goes_over(make: Any) -> None:
    model = replace_lstm(make())
    p = {AwdLanguageModel: 0.3, fastai_language_model: 0.2}[make]
    layers = [module for module in model.modules() if isinstance(module, WeightDropLSTM)]
    assert {layer.weight_dropout for layer in layers} == {p}
    layer = layers[0]
    output, _ = layer(torch.randn(6, 4, E), seeds=[torch.tensor(7)])
    output.sum().backward()
    assert torch.equal(layer.weight_hh_l0.grad != 0, ops.dropconnect_mask(torch.tensor(7), 4 * H, H, p))


def test_an_optimizer_and_its_saved_state_go_on() -> None:
    """Training in eval mode, without random numbers, is that of the original from the same moments."""
    x = tokens(4, 12)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        results = []
        for _ in range(5):
            model.reset()
            loss = F.cross_entropy(model(x[:, :-1])[0].flatten(0, 1), x[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            results.append(loss.item())
        return results

    model = fastai_language_model().double().eval()
    state = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    train(model, optimizer)
    moments, middle = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    expected = train(model, optimizer)
    assert expected[-1] < 0.97 * expected[0]

    model.load_state_dict(state)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    train(model, optimizer)
    replace_lstm(model)
    assert train(model, optimizer) == pytest.approx(expected, rel=1e-8)

    model.load_state_dict(middle)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    optimizer.load_state_dict(moments)  # which knows parameters by their order
    assert train(model, optimizer) == pytest.approx(expected, rel=1e-8)


def assert_loads(source: nn.Module, target: nn.Module, state: dict[str, Tensor], x: Tensor) -> None:
    state = copy.deepcopy(state)
    for parameter in target.parameters():
        nn.init.constant_(parameter, 0.3)
    target.load_state_dict(state)
    results = []
    for model in (source, target):
        getattr(model, "reset", lambda: None)()
        output = model.eval()(x)
        results.append(output if isinstance(output, Tensor) else output[0])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("make", [fastai_language_model, AwdLanguageModel], ids=["fastai", "awd-lstm-lm"])
def test_files_in_and_out(make: Any) -> None:
    x, theirs, ours = tokens(4, 9), make(), replace_lstm(make())
    assert_loads(theirs, ours, theirs.state_dict(), x)
    assert_loads(ours, make(), ours.state_dict(), x)
    assert_loads(ours, replace_lstm(make()), ours.state_dict(), x)
    # By nn.LSTM's keys, in and out.
    plain = replace_lstm(make(), keep_keys=False)
    assert not any("_raw" in key or "module" in key for key in plain.state_dict())
    assert list(plain.state_dict()) == list(plain.state_dict(keep_vars=True))
    assert_loads(ours, plain, ours.state_dict(), x)
    assert_loads(plain, ours, plain.state_dict(), x)
    # Copies of it, too.
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert_loads(theirs, twin, theirs.state_dict(), x)
        assert list(twin.state_dict()) == list(ours.state_dict())


def test_a_file_with_the_dropped_copy() -> None:
    """Of awd-lstm-lm's later versions and of fastai 1; the raw weight counts. Or, renamed, with nothing else."""
    x = tokens(4, 9)
    theirs = AwdLanguageModel(as_parameter=True)
    theirs(x)
    state = theirs.state_dict()
    assert "rnns.0.module.weight_hh_l0" in state
    ours = replace_lstm(AwdLanguageModel())
    assert_loads(theirs.eval(), ours, state, x)
    assert_loads(theirs, replace_lstm(theirs), state, x)
    only_plain = OrderedDict((key.removesuffix("_raw").replace("module.", ""), v) for key, v in state.items()
                             if not key.endswith("module.weight_hh_l0"))  # fmt: skip
    assert_loads(ours, ours, only_plain, x)


@pytest.mark.parametrize("kind", ["fastai 1", "awd-lstm-lm"])
def test_encoder_files_of_other_versions(kind: str) -> None:
    encoder = fastai_language_model()[0]
    state = encoder.state_dict()
    other: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if not key.endswith("_raw"):
            other[key] = tensor
        elif kind == "fastai 1":
            other[key] = tensor
            other[key.replace("weight_hh_l0_raw", "module.weight_hh_l0")] = tensor * 0
        else:
            other[key.replace("weight_hh", "module.weight_hh")] = tensor
    ours = replace_lstm(fastai_language_model()[0])
    assert_loads(encoder, ours, other, tokens(4, 9))


def test_a_missing_tensor_is_still_missing() -> None:
    ours = replace_lstm(fastai_language_model())
    state = ours.state_dict()
    del state["0.rnns.1.weight_hh_l0_raw"]
    state["0.rnns.2.module.extra"] = torch.zeros(1)
    with pytest.raises(RuntimeError) as error:
        ours.load_state_dict(state)
    assert "0.rnns.1.weight_hh_l0" in str(error.value)
    assert "0.rnns.2.module.extra" in str(error.value)
    result = ours.load_state_dict(state, strict=False)
    assert result.missing_keys == ["0.rnns.1.weight_hh_l0"]


def test_fastais_own_functions(tmp_path: Any) -> None:
    """What its learners call: files, pretrained weights by order, groups of layers, freezing by them."""
    source = fastai_language_model().eval()
    ours = replace_lstm(fastai_language_model())
    from fastai.learner import load_model, save_model
    from fastai.text.learner import clean_raw_keys, load_ignore_keys, load_model_text
    from fastai.text.models.awdlstm import awd_lstm_lm_split

    x = tokens(4, 9)
    load_ignore_keys(ours, clean_raw_keys(source.state_dict()))
    assert_loads(source, ours, ours.state_dict(), x)
    save_model(tmp_path / "ours.pth", ours, None)
    theirs = fastai_language_model()
    load_model(tmp_path / "ours.pth", theirs, None)
    assert_loads(ours, theirs, theirs.state_dict(), x)
    save_model(tmp_path / "theirs.pth", source, None)
    load_model_text(tmp_path / "theirs.pth", ours, None)
    assert_loads(source, ours, ours.state_dict(), x)
    groups = [[p.shape for p in group] for group in awd_lstm_lm_split(ours)]
    assert groups == [[p.shape for p in group] for group in awd_lstm_lm_split(source)]


def test_fastais_learner_trains_and_its_encoder_goes_into_a_classifier(tmp_path: Any) -> None:
    model = replace_lstm(fastai_language_model(hidden_p=0, input_p=0, embed_p=0, output_p=0))
    from fastai.callback.rnn import ModelResetter
    from fastai.data.core import DataLoaders
    from fastai.losses import CrossEntropyLossFlat
    from fastai.text.learner import TextLearner
    from fastai.text.models.awdlstm import awd_lstm_lm_split

    x = tokens(1, 13).repeat(8, 1)
    batches = torch.utils.data.DataLoader([(row[:-1], row[1:]) for row in x], batch_size=4)
    both = DataLoaders(batches, batches)
    learner = TextLearner(
        both, model, path=tmp_path, loss_func=CrossEntropyLossFlat(), splitter=awd_lstm_lm_split
    )  # fmt: skip
    assert any(isinstance(callback, ModelResetter) for callback in learner.cbs)
    with learner.no_bar(), learner.no_logging():
        learner.fit(1, lr=0.01)
        before = learner.recorder.losses[0].item()
        learner.fit(12, lr=0.05)
    assert learner.recorder.losses[-1].item() < 0.8 * before
    learner.save_encoder("encoder")
    for classifier in (fastai_classifier(), replace_lstm(fastai_classifier())):
        classes = TextLearner(both, classifier, path=tmp_path, loss_func=F.cross_entropy)
        classes.load_encoder("encoder", device="cpu")
        assert_loads(model[0], classifier[0].module, classifier[0].module.state_dict(), tokens(4, 9))


def test_back_to_plain_layers() -> None:
    model = replace_lstm(fastai_language_model())
    x = tokens(4, 9)
    with pytest.raises(InputError, match=r"0\.rnns\.0, 0\.rnns\.1, 0\.rnns\.2 has"):
        to_nn_lstm(model)
    expected = model.eval()(x)[0]
    model.reset()
    to_nn_lstm(model, drop_weight_dropout=True)
    assert type(model[0].rnns[0]) is nn.LSTM
    torch.testing.assert_close(model(x)[0], expected)
    assert [key for key in model.state_dict() if ".rnns.0." in key] == [
        f"0.rnns.0.{name}" for name in ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0", "bias_hh_l0")
    ]
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="weight_hh_l0_raw"):
        model.load_state_dict(fastai_language_model().state_dict())


def test_hooks_on_the_wrapper_go_over() -> None:
    wrapper, seen = WeightDrop(nn.LSTM(4, 6), ["weight_hh_l0"], 0.5), []
    handle = wrapper.register_forward_hook(lambda module, *_: seen.append(module))
    layer = replace_lstm(wrapper)
    assert type(layer) is WeightDropLSTM
    layer(torch.zeros(2, 1, 4))
    assert seen == [layer]
    handle.remove()
    layer(torch.zeros(2, 1, 4))
    assert len(seen) == 1


def test_a_wrapper_of_something_else_stays() -> None:
    model = nn.Sequential(WeightDrop(nn.GRU(4, 6), ["weight_hh_l0"]), WeightDrop(nn.Linear(4, 6), ["weight"]))
    with pytest.raises(InputError, match=r"holds no torch\.nn\.LSTM"):
        replace_lstm(model)


def _all_of(layer: nn.LSTM) -> list[str]:
    return [name for name in layer._flat_weights_names if name.startswith("weight_hh")]


def test_several_layers_in_one_wrapper() -> None:
    lstm = nn.LSTM(4, 6, 2, dropout=0.3, bidirectional=True)
    wrapper = WeightDrop(lstm, _all_of(lstm), 0.4).eval()
    x = torch.randn(5, 3, 4)
    expected = wrapper(x)[0]
    layer = replace_lstm(wrapper)
    assert (layer.weight_dropout, layer.dropout, layer.training) == (0.4, 0.3, False)
    torch.testing.assert_close(layer(x)[0], expected)


class PlainEncoder(nn.Module):
    """Somebody's own encoder around ``nn.LSTM``, its modules named as fastai's."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(V, E)
        self.rnns = nn.ModuleList(nn.LSTM(i, o, batch_first=True) for i, o in ((E, H), (H, H), (H, E)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(x)
        for rnn in self.rnns:
            x, _ = rnn(x)
        return x


@pytest.mark.parametrize("keys", ["fastai", "awd-lstm-lm"])
def test_files_of_the_projects_into_models_of_plain_lstms(keys: str) -> None:
    """In by whatever keys, out by those that are asked for, from our layer and from nn.LSTM."""
    x = tokens(4, 9)
    theirs = fastai_language_model()[0].eval()
    state = {key: tensor for key, tensor in theirs.state_dict().items() if "encoder_dp" not in key}
    if keys == "awd-lstm-lm":
        state = {key.replace("weight_hh", "module.weight_hh"): tensor for key, tensor in state.items()}
    ours = replace_lstm(PlainEncoder(), keys=keys)
    assert_loads(theirs, ours, state, x)
    written = ours.state_dict()
    assert set(written) == set(state)
    if keys == "fastai":
        assert list(written) == list(state)  # its load_pretrained goes by the order
        assert_loads(
            ours, fastai_language_model()[0], written | {"encoder_dp.emb.weight": written["encoder.weight"]}, x
        )
    # By default our layers read these keys and write their own.
    plain = replace_lstm(PlainEncoder())
    assert_loads(theirs, plain, state, x)
    assert list(plain.state_dict()) == list(PlainEncoder().state_dict())
    assert_loads(plain, PlainEncoder(), plain.state_dict(), x)
    back = to_nn_lstm(ours, keys=keys)
    assert all(type(rnn) is nn.LSTM for rnn in back.rnns)  # type: ignore[union-attr]
    assert list(back.state_dict()) == list(written)
    assert_loads(back, back, written, x)
    assert_loads(back, replace_lstm(PlainEncoder()), back.state_dict(), x)
    for twin in (copy.deepcopy(back), pickle.loads(pickle.dumps(back))):
        assert list(twin.state_dict()) == list(written)
    assert list(to_nn_lstm(replace_lstm(back)).state_dict()) == list(PlainEncoder().state_dict())


def test_unknown_keys_are_refused() -> None:
    for function in (replace_lstm, to_nn_lstm):
        with pytest.raises(InputError, match=r"keys must be one of 'nn\.LSTM', 'fastai', 'awd-lstm-lm', got 'keras'"):
            function(PlainEncoder(), keys="keras")
