"""Model folders: what is written, what is refused, and changing the vocabulary."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from ulmfit_fast import AWDLSTM, AWDLSTMConfig, InputError, LanguageModel, TextClassifier, Tokenizer
from ulmfit_fast.storage.model_folder import (
    load_classifier,
    load_language_model,
    read_config,
    remap_vocabulary,
    save_model,
)
from ulmfit_fast.storage.output_folder import check_output_folder
from ulmfit_fast.tasks.single_label import SingleLabel


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.train_words(["one two three four"] * 3)


def make_encoder(tokenizer: Tokenizer) -> AWDLSTM:
    return AWDLSTM(AWDLSTMConfig(len(tokenizer), 4, 6, 2, weight_p=0.3))


@pytest.fixture
def classifier_folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    model = TextClassifier(make_encoder(tokenizer), 3, hidden_size=5, bptt=9, backprop="exact")
    save_model(tmp_path / "clf", model, tokenizer, SingleLabel(["a", "b", 3]), {"lr": 0.1})
    return tmp_path / "clf"


def test_language_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = LanguageModel(make_encoder(tokenizer))
    save_model(tmp_path / "lm", model, tokenizer)
    assert sorted(p.name for p in (tmp_path / "lm").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "training_args.json",
    ]  # fmt: skip
    loaded, loaded_tokenizer = load_language_model(tmp_path / "lm")
    assert loaded.encoder.config == model.encoder.config
    assert loaded_tokenizer.vocabulary == tokenizer.vocabulary
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_loaded_model_predicts_the_same_bits(tokenizer: Tokenizer, tmp_path: Path, quantized: bool) -> None:
    """Sums over weights at addresses that are not a multiple of a vector's size are rounded differently."""
    model = TextClassifier(make_encoder(tokenizer), 3, hidden_size=5).eval()
    model = model.quantize() if quantized else model
    save_model(tmp_path / "clf", model, tokenizer, SingleLabel(["a", "b", 3]))
    loaded = load_classifier(tmp_path / "clf")[0].eval()
    assert {x.data_ptr() % 64 for x in loaded.state_dict().values()} == {0}
    documents, lengths = torch.randint(len(tokenizer), (3, 30)), torch.tensor([1, 5, 30])
    assert torch.equal(loaded(documents, lengths), model(documents, lengths))


def test_classifier(classifier_folder: Path) -> None:
    model, _, task = load_classifier(classifier_folder)
    assert task.labels == ["a", "b", 3]
    assert task.type == "single_label"
    assert (model.bpt3c.bptt, model.bpt3c.backprop, model.head[2].out_features) == (9, "exact", 5)
    assert json.loads((classifier_folder / "training_args.json").read_text()) == {"lr": 0.1}


def test_no_pickle_in_the_folder(classifier_folder: Path) -> None:
    for path in classifier_folder.iterdir():
        assert not path.read_bytes().startswith((b"\x80", b"PK"))


def test_a_failed_write_leaves_the_old_file(classifier_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (classifier_folder / "model.safetensors").read_bytes()
    model, tokenizer, task = load_classifier(classifier_folder)

    files = {path.name for path in classifier_folder.iterdir()}
    written = []

    def fail_at_the_third(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 3:
            raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail_at_the_third)
    with pytest.raises(OSError, match="disk full"):
        save_model(classifier_folder, model, tokenizer, task)
    assert (classifier_folder / "model.safetensors").read_bytes() == before
    assert {path.name for path in classifier_folder.iterdir()} == files


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "labels.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_damaged_folders(classifier_folder: Path, name: str, damage: str) -> None:
    path = classifier_folder / name
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    else:
        path.write_bytes(b"\x00\xffgarbage")
    with pytest.raises(InputError, match=name):
        load_classifier(classifier_folder)


def test_foreign_and_wrong_folders(classifier_folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model folder"):
        read_config(tmp_path / "gone")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="a foreign model folder"):
        load_classifier(tmp_path / "bert")
    with pytest.raises(InputError, match="holds a classifier; expected a language model"):
        load_language_model(classifier_folder)
    config = json.loads((classifier_folder / "config.json").read_text())
    (classifier_folder / "config.json").write_text(json.dumps(config | {"version": 99}))
    with pytest.raises(InputError, match="written by another version"):
        read_config(classifier_folder)


def test_a_language_model_that_replaces_a_classifier_has_no_labels(
    classifier_folder: Path, tokenizer: Tokenizer
) -> None:
    save_model(classifier_folder, LanguageModel(make_encoder(tokenizer)), tokenizer)
    assert not (classifier_folder / "labels.json").exists()
    load_language_model(classifier_folder)


@pytest.mark.parametrize("change", [{"kind": None}, {"encoder": {"vocab_size": 1.5}}, {"encoder": {}}, {"encoder": []}])
def test_damaged_configurations(classifier_folder: Path, change: dict) -> None:
    config = json.loads((classifier_folder / "config.json").read_text())
    (classifier_folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=r"config.json"):
        load_classifier(classifier_folder)


def test_weights_of_another_model(classifier_folder: Path, tokenizer: Tokenizer) -> None:
    config = json.loads((classifier_folder / "config.json").read_text())
    config["encoder"]["hidden_size"] = 8
    (classifier_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not this model's weights"):
        load_classifier(classifier_folder)


def test_tokenizer_of_another_model(classifier_folder: Path) -> None:
    (classifier_folder / "tokenizer.json").write_text(Tokenizer.train_words(["x y"] * 3).to_json())
    with pytest.raises(InputError, match=r"tokenizer.json has 11 tokens, the model 13"):
        load_classifier(classifier_folder)


def test_output_folder_checks(classifier_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already holds a model"):
        check_output_folder(classifier_folder)
    assert check_output_folder(classifier_folder, overwrite=True) == classifier_folder
    with pytest.raises(InputError, match="is a file"):
        check_output_folder(classifier_folder / "config.json")
    with pytest.raises(InputError, match="does not exist"):
        check_output_folder(tmp_path / "gone" / "deeper")
    assert not (tmp_path / "gone").exists()


def test_remapped_vocabulary(tokenizer: Tokenizer) -> None:
    model = LanguageModel(make_encoder(tokenizer))
    torch.nn.init.normal_(model.decoder_bias)
    new = Tokenizer.train_words(["four new two"] * 3)
    remapped = remap_vocabulary(model, tokenizer, new)
    old_weight, new_weight = model.decoder_weight, remapped.decoder_weight
    for token in ("two", "four", "xxbos"):
        old_id, new_id = tokenizer.vocabulary.index(token), new.vocabulary.index(token)
        assert torch.equal(new_weight[new_id], old_weight[old_id])
        assert remapped.decoder_bias[new_id] == model.decoder_bias[old_id]
    fresh = new.vocabulary.index("new")
    torch.testing.assert_close(new_weight[fresh], old_weight.mean(0))
    torch.testing.assert_close(remapped.decoder_bias[fresh], model.decoder_bias.mean())
    assert torch.equal(remapped.encoder.rnns[0].weight_hh_l0, model.encoder.rnns[0].weight_hh_l0)
