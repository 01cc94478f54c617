"""Weights stored in less: how far the numbers move, and folders that are read as any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, LanguageModel, Tokenizer
from ulmfit_fast.storage.compact import FORMATS, compacted, restored
from ulmfit_fast.storage.model_folder import load_language_model, save_model


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {
        "matrix": torch.randn(7, 33) * torch.logspace(-6, 3, 7).unsqueeze(1),
        "zero rows": torch.cat([torch.zeros(2, 5), torch.ones(1, 5)]),
        "vector": torch.randn(9),
        "count": torch.tensor(3),
    }


@pytest.mark.parametrize("format", FORMATS)
def test_how_far_numbers_move(state: dict[str, Tensor], format: str) -> None:
    back = restored(compacted(state, format))
    assert list(back) == list(state)
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        if not tensor.is_floating_point() or format == "float32":
            assert torch.equal(back[name], tensor)
        elif format == "float16":
            torch.testing.assert_close(back[name], tensor, rtol=2**-11, atol=2**-24)
        elif tensor.dim() == 2:
            half_a_scale = tensor.abs().amax(1, keepdim=True) / 127 / 2
            assert ((back[name] - tensor).abs() <= half_a_scale * 1.001).all()
        else:
            assert torch.equal(back[name], tensor)


def test_what_was_restored_is_stored_alike(state: dict[str, Tensor]) -> None:
    """Nothing is lost by writing a compact folder again."""
    for format in FORMATS:
        once = restored(compacted(state, format))
        twice = restored(compacted(once, format))
        for name, tensor in once.items():
            torch.testing.assert_close(twice[name], tensor, rtol=1e-6, atol=0)


def test_a_folder(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train_words(["one two three four"] * 3)
    model = LanguageModel(AWDLSTM(AWDLSTMConfig(len(tokenizer), 40, 60, 2))).eval()
    sizes = {}
    tokens = torch.tensor([[9], [10], [11]])
    expected = model.logits(model(tokens))
    for format in FORMATS:
        save_model(tmp_path / format, model, tokenizer, weights=format)
        loaded, _ = load_language_model(tmp_path / format)
        torch.testing.assert_close(loaded.eval().logits(loaded(tokens)), expected, rtol=0, atol=2e-3)
        sizes[format] = (tmp_path / format / "model.safetensors").stat().st_size
    assert sizes["float16"] < 0.56 * sizes["float32"]
    assert sizes["int8"] < 0.36 * sizes["float32"]
    with pytest.raises(InputError, match="stored as one of float32, float16, int8, not 'int4'"):
        save_model(tmp_path / "int4", model, tokenizer, weights="int4")


def test_a_scale_that_is_missing(state: dict[str, Tensor]) -> None:
    tensors = compacted(state, "int8")
    del tensors["matrix.scale"]
    with pytest.raises(InputError, match="matrix: is stored in int8 without a scale for each row"):
        restored(tensors)
