"""Models of fastai trained there for a few steps, in and out again: the same logits."""

from __future__ import annotations

import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.cli.command_line import assert_one_line
from tests.interop.test_fastai import SPECIAL, _Trap, logits, state_by_hand
from ulmfit_fast import InputError, TrainedClassifier, TrainedLanguageModel, import_classifier, import_language_model
from ulmfit_fast.cli.main import main
from ulmfit_fast.interop.fastai_export import save_fastai
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.dropout import Dropout
from ulmfit_fast.nn.stacked import CLASSIFIER_DROPOUTS

WORDS = [*SPECIAL, "the", "film", "was", "fine", "bad"]
LABELS = ["bad", "fine", "good"]
SIZES = {"emb_sz": 6, "n_hid": 10, "n_layers": 3}


def learner(folder: Path, classifier: bool, **more: Any) -> Any:
    """fastai's own, on a few batches of random tokens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        core = pytest.importorskip("fastai.text.models.core", reason="fastai is not installed")
        from fastai.data.core import DataLoaders
        from fastai.losses import CrossEntropyLossFlat
        from fastai.text.learner import TextLearner
        from fastai.text.models.awdlstm import AWD_LSTM, awd_lstm_clas_config, awd_lstm_lm_config

    tokens = torch.randint(2, len(WORDS), (16, 9))
    targets = torch.randint(0, 3, (16,)) if classifier else tokens.roll(-1, 1)
    batches = torch.utils.data.DataLoader(list(zip(tokens, targets, strict=True)), batch_size=4)
    if classifier:
        model = core.get_text_classifier(AWD_LSTM, len(WORDS), 3, config=awd_lstm_clas_config | SIZES, **more)
    else:
        model = core.get_language_model(AWD_LSTM, len(WORDS), config=awd_lstm_lm_config | SIZES)
    return TextLearner(
        DataLoaders(batches, batches, device="cpu"), model, loss_func=CrossEntropyLossFlat(), path=folder
    )


def trained(folder: Path, classifier: bool, **more: Any) -> Any:
    learn = learner(folder, classifier, **more)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, 0.05)
    learn.model.eval()
    return learn


def plain(path: Path, values: Any) -> Path:
    path.write_bytes(pickle.dumps(values))
    return path


def their_logits(model: Any, tokens: Tensor) -> Tensor:
    model.eval()
    model.reset()
    with torch.no_grad():
        found: Tensor = model(tokens)[0]
        return found


def our_logits(model: TrainedClassifier, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.model.eval()(tokens, torch.full((len(tokens),), tokens.shape[1]))
        return found


TOKENS = torch.randint(2, len(WORDS), (3, 11), generator=torch.Generator().manual_seed(1))
CLOSE = {"rtol": 0.0, "atol": 1e-5}


@pytest.mark.parametrize("with_optimizer", [True, False])
def test_a_classifier_there_and_back(with_optimizer: bool, tmp_path: Path) -> None:
    learn = trained(tmp_path, classifier=True)
    file = learn.save("clf", with_opt=with_optimizer)
    expected = their_logits(learn.model, TOKENS)
    ours = import_classifier(file, plain(tmp_path / "vocab.pkl", WORDS), plain(tmp_path / "labels.pkl", LABELS))
    assert ours.labels == LABELS
    torch.testing.assert_close(our_logits(ours, TOKENS), expected, **CLOSE)

    save_fastai(tmp_path / "models", ours)
    assert pickle.loads((tmp_path / "models" / "vocab.pkl").read_bytes()) == WORDS
    assert pickle.loads((tmp_path / "models" / "labels.pkl").read_bytes()) == LABELS
    about = json.loads((tmp_path / "models" / "fastai.json").read_text())
    assert (about["config"], about["lin_ftrs"]) == (SIZES, [50])
    again = learner(tmp_path, classifier=True)
    assert not torch.allclose(their_logits(again.model, TOKENS), expected, **CLOSE)
    again.load("model", device="cpu")
    torch.testing.assert_close(their_logits(again.model, TOKENS), expected, **CLOSE)


def test_a_language_model_and_its_encoder_there_and_back(tmp_path: Path) -> None:
    learn = trained(tmp_path, classifier=False)
    expected = their_logits(learn.model, TOKENS)
    ours = import_language_model(learn.save("lm"), plain(tmp_path / "vocab.pkl", WORDS))
    torch.testing.assert_close(logits(ours.model, TOKENS.T).transpose(0, 1), expected, **CLOSE)
    save_fastai(tmp_path / "models", ours)
    again = learner(tmp_path, classifier=False)
    again.load("model", device="cpu")
    torch.testing.assert_close(their_logits(again.model, TOKENS), expected, **CLOSE)

    with pytest.raises(InputError, match="already holds a model for fastai"):
        save_fastai(tmp_path / "models", ours)
    save_fastai(tmp_path / "models", ours, encoder_only=True, overwrite=True)
    assert not (tmp_path / "models" / "model.pth").exists()
    classifier = learner(tmp_path, classifier=True)
    classifier.load_encoder("encoder", device="cpu")
    for module in (classifier.model, learn.model):
        module.eval()
        module.reset()
    with torch.no_grad():
        torch.testing.assert_close(classifier.model[0].module(TOKENS), learn.model[0](TOKENS), **CLOSE)


@pytest.mark.parametrize("version", ["1", "0.7"])
def test_names_and_biases_of_earlier_versions(version: str, tmp_path: Path) -> None:
    """Their heads had biases: compared with the head computed from the file's tensors by torch's functions."""
    torch.manual_seed(0)
    body = {name: tensor for name, tensor in state_by_hand(len(WORDS)).items() if not name.startswith("decoder")}
    for name in [name for name in body if name.endswith("weight_hh_l0")]:
        del body[name]
    if version == "1":
        body = {
            f"0.module.{name.replace('module.weight_hh_l0_raw', 'weight_hh_l0_raw')}": x for name, x in body.items()
        }
        body["0.module.encoder_dp.emb.weight"] = body["0.module.encoder.weight"]
        parts = {"bn1": "0", "lin1": "2", "bn2": "4", "lin2": "6"}
    else:
        body = {f"0.{name}": tensor for name, tensor in body.items()}
        body["0.encoder_with_dropout.embed.weight"] = body["0.encoder.weight"]
        parts = {"lin1": "0.lin", "bn1": "0.bn", "lin2": "1.lin", "bn2": "1.bn"}
    head = {}
    for part, name in parts.items():
        inputs, outputs = (18, 7) if part[-1] == "1" else (7, 3)
        prefix = f"1.layers.{name}."
        if part.startswith("lin"):
            head[prefix + "weight"], head[prefix + "bias"] = torch.randn(outputs, inputs), torch.randn(outputs)
        else:
            head |= {prefix + x: torch.randn(inputs) for x in ("weight", "bias", "running_mean")}
            head[prefix + "running_var"] = torch.rand(inputs) + 0.5
    torch.save(body | head, tmp_path / "clf.h5")
    ours = import_classifier(tmp_path / "clf.h5", WORDS, LABELS)
    with torch.no_grad():
        x = ours.model.bpt3c(TOKENS, torch.full((3,), TOKENS.shape[1]))
        for i, part in enumerate("12"):
            bn, lin = (f"1.layers.{parts[kind + part]}." for kind in ("bn", "lin"))
            x = torch.nn.functional.batch_norm(
                x, head[bn + "running_mean"], head[bn + "running_var"], head[bn + "weight"], head[bn + "bias"]
            )
            x = torch.nn.functional.linear(x, head[lin + "weight"], head[lin + "bias"])
            x = x.relu() if i == 0 else x
    torch.testing.assert_close(our_logits(ours, TOKENS), x, rtol=1e-5, atol=1e-5)


def test_what_is_refused(tmp_path: Path) -> None:
    file = learner(tmp_path, classifier=True).save("clf", with_opt=False)
    deep = learner(tmp_path, classifier=True, lin_ftrs=[8, 8]).save("deep", with_opt=False)
    hostile = plain(tmp_path / "hostile.pkl", [_Trap()])
    torch.save({"model": _Trap()}, tmp_path / "hostile.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    for weights, vocabulary, labels, message in [
        (file, WORDS, LABELS[:2], "has 3 outputs, but there are 2 labels"),
        (file, WORDS, ["a", "a", "b"], "a label occurs twice"),
        (file, WORDS[1:], LABELS, "do not belong together"),
        (file, hostile, LABELS, "it refers to builtins.exec"),
        (file, WORDS, hostile, "it refers to builtins.exec"),
        (tmp_path / "hostile.pth", WORDS, LABELS, "would have to be unpickled and could run code"),
        (tmp_path / "whole.pt", WORDS, LABELS, "torch.save(model.state_dict(), ...)"),
        (deep, WORDS, LABELS, "its head has 3 linear layers and 3 BatchNorms"),
    ]:
        with pytest.raises(InputError) as caught:
            import_classifier(weights, vocabulary, labels)
        assert message in str(caught.value)


def test_command_line(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours to fastai's files and in again; probabilities with their temperature, as logits then hold it."""
    out, back = tmp_path / "out", tmp_path / "back"
    assert main(["convert", str(models / "clf"), "--to", "fastai", "--output", str(out)]) == 0
    assert "model.pth of" in capsys.readouterr().out
    files = ["--vocabulary", str(out / "vocab.pkl"), "--labels", str(out / "labels.pkl"), "--output", str(back)]
    assert main(["import-classifier", str(out / "model.pth"), *files]) == 0
    before, after = TrainedClassifier.load(models / "clf"), TrainedClassifier.load(back)
    assert after.labels == before.labels
    assert after.tokenizer.vocabulary == before.tokenizer.vocabulary
    tokens = torch.randint(2, len(before.tokenizer), (3, 12))
    expected = before.task.activate(our_logits(before, tokens))
    torch.testing.assert_close(after.task.activate(our_logits(after, tokens)), expected, **CLOSE)
    assert main(["predict", str(models / "train.csv"), "--model", str(back), "--output", str(tmp_path / "p.csv")]) == 0
    capsys.readouterr()
    assert main(["import-classifier", str(out / "model.pth"), *files]) == 2
    assert_one_line(capsys, "already holds a model")

    lm = tmp_path / "lm"
    assert main(["convert", str(models / "lm"), "--to", "fastai-encoder", "--output", str(lm)]) == 0
    found = import_language_model(lm / "encoder.pth", lm / "vocab.pkl")
    assert torch.equal(found.model.decoder_weight, TrainedLanguageModel.load(models / "lm").model.decoder_weight)


@pytest.mark.parametrize("drop_mult", [0.5, 1.0])
def test_dropouts_are_fastai_s(tmp_path: Path, drop_mult: float) -> None:
    """``drop_mult`` scales all of them but the one before the head's last layer."""
    theirs = learner(tmp_path, True, drop_mult=drop_mult).model
    config = AWDLSTMConfig(len(WORDS)).with_dropouts(CLASSIFIER_DROPOUTS, drop_mult)
    ours = TextClassifier(AWDLSTM(config), 3)
    assert [m.p for m in ours.head if isinstance(m, Dropout)] == [
        m.p for m in theirs[1].modules() if isinstance(m, nn.Dropout)
    ]
    encoder = theirs[0].module
    assert (config.embed_p, config.input_p, config.weight_p) == (
        encoder.encoder_dp.embed_p, encoder.input_dp.p, encoder.rnns[0].weight_p,
    )  # fmt: skip
    assert {config.hidden_p} == {dropout.p for dropout in encoder.hidden_dps}
