"""What ``replace_lstm`` and ``to_nn_lstm`` cannot replace, and say so."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, WeightDropLSTM, replace_lstm, to_nn_lstm


class WithConstructor(nn.LSTM):
    """Safe to replace."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size, batch_first=True)
        nn.init.orthogonal_(self.weight_hh_l0)


class WithForward(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0]


def test_subclasses() -> None:
    model = nn.Sequential(WithConstructor(4))
    x = torch.randn(2, 5, 4)
    expected = model(x)
    replace_lstm(model)
    assert type(model[0]) is WeightDropLSTM
    torch.testing.assert_close(model(x), expected)
    with pytest.raises(InputError, match=r"the model itself \(WithForward\): it is a subclass of nn.LSTM with forward"):
        replace_lstm(WithForward(4, 6))


def patched(layer: nn.LSTM) -> nn.LSTM:
    layer.forward = lambda x, hx=None: nn.LSTM.forward(layer, x * 2, hx)  # type: ignore[method-assign]
    return layer


def weight_normalized(layer: nn.LSTM) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer, "weight_hh_l0")


def compiled_in_place(layer: nn.LSTM) -> nn.LSTM:
    layer.compile(backend="eager")
    return layer


def prepared(layer: nn.LSTM) -> nn.LSTM:
    layer.qconfig = torch.ao.quantization.default_dynamic_qconfig
    return layer


def quantized(layer: nn.LSTM) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(layer))[0]


def scripted(layer: nn.LSTM) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(layer)


def traced(layer: nn.LSTM) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(nn.Sequential(layer), torch.zeros(2, 1, 4))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight_hh_l0", 0.5), r"weight_hh_l0 is no parameter .*prune\.rem"),
        (weight_normalized, r"weight_hh_l0 is no parameter .*remove_weight_norm"),
        (lambda layer: parametrizations.weight_norm(layer, "weight_hh_l0"), "it is parametrized; call .*remove_param"),
        (patched, "its forward was replaced"),
        (compiled_in_place, "it is compiled; replace it first"),
        (lambda layer: torch.compile(layer, backend="eager"), "it is compiled; replace it first"),
        (prepared, "it is prepared for quantization"),
        (quantized, "it is quantized"),
        (scripted, "it is TorchScript; replace it before"),
        (traced, "it is TorchScript; replace it before"),
        (lambda layer: torch.ao.nn.quantizable.LSTM.from_float(prepared(layer)), "it is quantized"),
    ],
    ids=["pruned", "normalized", "parametrized", "patched", "compiled in place", "compiled", "prepared", "quantized",
         "scripted", "traced", "quantizable"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_what_cannot_be_replaced(change: Callable[[nn.LSTM], nn.Module], reason: str) -> None:
    """Then nothing is, or with ``strict=False`` all else."""
    model = nn.Sequential(nn.LSTM(4, 6), nn.Identity(), change(nn.LSTM(4, 6)))
    before = list(model)
    with pytest.raises(InputError, match=rf"cannot replace 2[^ ]* \(\w+\): .*{reason}.*strict=False leaves"):
        replace_lstm(model)
    assert list(model) == before
    with pytest.warns(UserWarning, match=f"left as it is: .*{reason}"):
        replace_lstm(model, strict=False)
    assert isinstance(model[0], WeightDropLSTM)
    assert model[2] is before[2]
    assert not any(isinstance(module, WeightDropLSTM) for module in model[2].modules())


def test_what_stays_a_weight_drop_lstm() -> None:
    class Mine(WeightDropLSTM):
        pass

    with pytest.raises(InputError, match=r"the model itself .* it is a subclass of WeightDropLSTM"):
        to_nn_lstm(Mine(4, 6))
    encoder = AWDLSTM(AWDLSTMConfig(20, 4, 6, 1, weight_p=0))
    with pytest.raises(InputError, match=r"rnns.0 \(WeightDropLSTM\): AWDLSTM computes with its parameters by itself"):
        to_nn_lstm(nn.Sequential(encoder))
