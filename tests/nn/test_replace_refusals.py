"""Wrappers that ``replace_lstm`` cannot take the place of, and what it says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from torch import nn

from tests.nn.weight_drop_wrappers import WeightDrop, fastai_language_model
from ulmfit_fast import InputError, WeightDropLSTM, replace_lstm


def wrapped(names: Sequence[str] = ("weight_hh_l0",), dropout: float = 0, **options: Any) -> Any:
    return WeightDrop(nn.LSTM(4, 6), names, dropout, **options)


def _hook_inside() -> nn.Module:
    wrapper = wrapped()
    wrapper.module.register_forward_hook(lambda *_: None)
    return wrapper


def _state_dict_hook() -> nn.Module:
    wrapper = wrapped()
    wrapper.register_state_dict_pre_hook(lambda *_: None)
    return wrapper


def _two_modes() -> nn.Module:
    wrapper = wrapped()
    wrapper.module.eval()
    return wrapper


def _used_outside() -> nn.Module:
    lstm = nn.LSTM(4, 6)
    return nn.ModuleList([lstm, WeightDrop(lstm, ["weight_hh_l0"])])


def _of_another_project() -> nn.Module:
    wrapper = wrapped()
    del wrapper.dropout
    return wrapper


def _unnamed_weight() -> nn.Module:
    wrapper = wrapped()
    del wrapper.module.weight_hh_l0_raw
    return wrapper


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: wrapped(["weight_hh_l0"], 0.5, variational=True), "variational=True drops whole rows"),
        (lambda: wrapped(["weight_hh_l0"], 1.0), r"its probability is 1.0, expected is one in \[0, 1\)"),
        (lambda: WeightDrop(nn.LSTM(4, 6, 2), ["weight_hh_l0"], 0.5), "it drops weight_hh_l0 alone, WeightDropLSTM"),
        (lambda: fastai_language_model(bidir=True), "it drops weight_hh_l0 alone, WeightDropLSTM all"),
        (lambda: wrapped(["weight_hh_l0", "weight_ih_l0"], 0.5), "it drops weight_hh_l0, weight_ih_l0 alone"),
    ],
    ids=["variational", "all", "one of two layers", "one of two directions", "inputs' weights"],
)  # fmt: skip
def test_another_kind_of_weight_dropout(make: Any, reason: str) -> None:
    model = make()
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(InputError, match=reason + r".*say replace_lstm\(model, weight_dropout="):
        replace_lstm(model)
    assert [type(module) for module in model.modules()] == kinds
    model = replace_lstm(model, weight_dropout=0.25)
    assert {m.weight_dropout for m in model.modules() if isinstance(m, WeightDropLSTM)} == {0.25}


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_hook_inside, "there are hooks on the LSTM inside; register them on the wrapper"),
        (_state_dict_hook, "it has hooks for state dicts"),
        (_two_modes, "in different modes"),
        (_used_outside, r"its LSTM is used outside of it, too \(in ModuleList\)"),
        (_of_another_project, "it is no WeightDrop of fastai or awd-lstm-lm"),
        (_unnamed_weight, "weight_hh_l0 is no parameter, neither as module.weight_hh_l0 nor as weight_hh_l0_raw"),
    ],
)
def test_wrappers_that_cannot_be_replaced(make: Any, reason: str) -> None:
    model = make()
    with pytest.raises(InputError, match=reason):
        replace_lstm(model)
    with pytest.warns(UserWarning, match=reason):
        assert replace_lstm(model, strict=False) is model
    assert not any(isinstance(module, WeightDropLSTM) for module in model.modules())
