"""Models made without torch's own generator follow the laws that torch's own initialisation has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, LanguageModel, TextClassifier
from ulmfit_fast.nn.build import empty_module, load_copies, new_module

SIZES = AWDLSTMConfig(300, 40, 60, 2)


@pytest.mark.parametrize(
    "make", [lambda: LanguageModel(AWDLSTM(SIZES)), lambda: TextClassifier(AWDLSTM(SIZES), 3)], ids=["lm", "classifier"]
)
def test_the_laws_are_torch_s(make: type[nn.Module]) -> None:
    before = torch.get_rng_state()
    mine = new_module(make, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    theirs = make().state_dict()
    for name, tensor in mine.state_dict().items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape)
        if tensor.is_floating_point() and tensor.numel() > 1000:  # uniform: the same range and spread
            assert tensor.abs().max() == pytest.approx(float(theirs[name].abs().max()), rel=0.05, abs=1e-12)
            assert tensor.std() == pytest.approx(float(theirs[name].std()), rel=0.1, abs=1e-12)
        elif not tensor.is_floating_point() or "running" in name:
            assert torch.equal(tensor, theirs[name])
    again = new_module(make, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), again.parameters(), strict=True))


def test_copies_share_no_memory() -> None:
    model = LanguageModel(AWDLSTM(SIZES))
    copy = empty_module(lambda: LanguageModel(AWDLSTM(SIZES)))
    load_copies(copy, model.state_dict())
    with torch.no_grad():
        copy.decoder_bias.add_(1)
    assert not model.decoder_bias.any()


def test_an_unknown_module() -> None:
    with pytest.raises(TypeError, match="how to draw the parameters of a Conv1d is not known"):
        new_module(lambda: nn.Conv1d(2, 3, 1), torch.Generator())
