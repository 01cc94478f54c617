"""Nine kinds of public models compute the same after ``replace_lstm``, and their benchmark still runs."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from benchmarks import zoo
from benchmarks.zoo_models import Kind, kinds
from ulmfit_fast import WeightDropLSTM


@pytest.mark.parametrize("kind", kinds(smoke=True), ids=lambda kind: kind.name)
def test_outputs_and_gradients_are_those_of_nn_lstm(kind: Kind) -> None:
    plain, ours, inputs = zoo.pair(kind, torch.float64)
    lstms = [name for name, module in plain.named_modules() if isinstance(module, nn.LSTM)]
    assert [name for name, module in ours.named_modules() if isinstance(module, WeightDropLSTM)] == lstms
    assert not any(isinstance(module, nn.LSTM) for module in ours.modules())
    expected, actual = zoo.results(plain, inputs), zoo.results(ours, inputs)
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert value.abs().max() > 0, name
        torch.testing.assert_close(actual[name], value, rtol=1e-8, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")


def test_a_difference_is_found() -> None:
    plain, ours, inputs = zoo.pair(kinds(smoke=True)[0])
    zoo.compare(plain, ours, inputs)
    with torch.no_grad():
        ours.lstm.weight_hh_l1[0] += 0.1
    with pytest.raises(AssertionError, match="relative error"):
        zoo.compare(plain, ours, inputs)


def test_the_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo", "--smoke"])
    zoo.main()
    table = capsys.readouterr().out
    assert table.count("| training |") == table.count("| inference |") == 9
