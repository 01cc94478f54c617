"""Folders of int8 models: a quarter of the size, the same bits again, read by what knows float32 alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, TextClassifier, Tokenizer
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.storage.compact import restored
from ulmfit_fast.storage.model_folder import load_classifier, read_config, save_model
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.text.batching import pack_documents

TASK = SingleLabel(["a", "b", "c"])
BATCH = pack_documents([torch.arange(9), torch.arange(3)])


@pytest.fixture
def model() -> TextClassifier:
    return TextClassifier(AWDLSTM(AWDLSTMConfig(len(tokenizer()), 80, 200, 2)), 3, bptt=33).eval()


def tokenizer() -> Tokenizer:
    return Tokenizer.train_words(["one two three four"] * 3)


def predict(model: TextClassifier) -> torch.Tensor:
    with torch.inference_mode():
        return model(BATCH)


def pool(model: TextClassifier) -> torch.Tensor:
    """Without the head, whose last bit depends on where BLAS finds its weights in memory."""
    with torch.inference_mode():
        return model.bpt3c(BATCH)


def test_a_quarter_of_the_size_and_the_same_bits(model: TextClassifier, tmp_path: Path) -> None:
    quantized = model.quantize()
    for name, each in (("float32", model), ("int8", quantized)):
        save_model(tmp_path / name, each, tokenizer(), TASK)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("int8", "float32")]
    assert sizes[0] < 0.3 * sizes[1]
    assert read_config(tmp_path / "int8")["precision"] == "int8"
    assert "precision" not in read_config(tmp_path / "float32")
    loaded, _, task = load_classifier(tmp_path / "int8")
    assert is_quantized(loaded)
    assert not any(p.requires_grad for p in loaded.bpt3c.encoder.parameters())
    assert loaded.bpt3c.bptt == 33
    assert task.labels == TASK.labels
    assert torch.equal(pool(loaded), pool(quantized))
    torch.testing.assert_close(predict(loaded.eval()), predict(quantized))
    save_model(tmp_path / "again", loaded, tokenizer(), TASK)
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (tmp_path / "int8" / "model.safetensors").read_bytes()


def test_the_form_is_the_one_of_convert(model: TextClassifier, tmp_path: Path) -> None:
    """A version that knows nothing of int8 models reads such a folder as float32 weights."""
    save_model(tmp_path / "int8", model.quantize(), tokenizer(), TASK)
    save_model(tmp_path / "compact", model, tokenizer(), TASK, weights="int8")
    tensors = [safetensors.torch.load_file(tmp_path / name / "model.safetensors") for name in ("int8", "compact")]
    assert tensors[0].keys() <= tensors[1].keys()
    for name, tensor in tensors[0].items():
        if "head" not in name:
            assert torch.equal(tensor, tensors[1][name])
    restored_state = restored(tensors[0])
    assert restored_state.keys() == model.state_dict().keys()
    config = json.loads((tmp_path / "int8" / "config.json").read_text())
    config.pop("precision")
    (tmp_path / "int8" / "config.json").write_text(json.dumps(config))
    as_float, _, _ = load_classifier(tmp_path / "int8")
    assert not is_quantized(as_float)
    assert (predict(as_float.eval()) - predict(model)).abs().max() < 0.1
    assert not is_quantized(load_classifier(tmp_path / "compact")[0])
    # Quantized again, the stored numbers are found again.
    wanted = predict(load_classifier(tmp_path / "compact")[0].eval().quantize())
    assert (wanted - predict(model.quantize())).abs().max() < 1e-2


def test_another_precision_is_of_another_version(model: TextClassifier, tmp_path: Path) -> None:
    save_model(tmp_path / "m", model, tokenizer(), TASK)
    config = json.loads((tmp_path / "m" / "config.json").read_text()) | {"precision": "int4"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="precision 'int4', which this version lacks"):
        load_classifier(tmp_path / "m")


def test_damage_is_said(model: TextClassifier, tmp_path: Path) -> None:
    save_model(tmp_path / "m", model.quantize(), tokenizer(), TASK)
    path = tmp_path / "m" / "model.safetensors"
    tensors = safetensors.torch.load(path.read_bytes())  # no mapping of the file, which is written again
    without = {name: x for name, x in tensors.items() if name != "bpt3c.encoder.rnns.0.weight_hh_l0.scale"}
    path.write_bytes(safetensors.torch.save(without))
    with pytest.raises(InputError, match="damaged, or not this model's weights"):
        load_classifier(tmp_path / "m")
    wrong = {name: x.float() if x.dtype == torch.int8 else x for name, x in tensors.items()}
    path.write_bytes(safetensors.torch.save(wrong))
    with pytest.raises(InputError, match=r"damaged: .* must be torch\.int8, got torch\.float32"):
        load_classifier(tmp_path / "m")
