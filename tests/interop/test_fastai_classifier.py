"""fastai's classifiers and trained language models read, and written again for fastai."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.cli.command_line import assert_one_line
from tests.interop.fastai_data import SIZES, import_fastai, loaders, make_table, quietly
from ulmfit_fast import QRNN, LanguageModel, QRNNConfig, TextClassifier, finetune_classifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.interop.fastai import import_classifier, import_language_model
from ulmfit_fast.interop.fastai_export import fastai_state, save_fastai
from ulmfit_fast.storage.model_folder import load_classifier, save_model
from ulmfit_fast.training.config import ClassifierConfig
from ulmfit_fast.training.trained import TrainedClassifier

# fastai's batches change nothing of documents that are whole chunks of 72 (its issue 3379).
LENGTHS = [72, 144, 216, 72, 1512, 72, 144, 72, 72, 144, 72, 72]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A classifier that fastai trained for some steps, and its files with and without the optimizer."""
    text, folder = import_fastai(), tmp_path_factory.mktemp("classifier")
    dls = loaders(make_table(LENGTHS), bs=4)
    config = text.awd_lstm_clas_config | SIZES
    learn = quietly(
        text.text_classifier_learner(dls, text.AWD_LSTM, config=config, pretrained=False, path=folder, metrics=[])
    )
    learn.fit_one_cycle(2, 2e-2)
    learn.save("whole", with_opt=True)
    learn.save("weights", with_opt=False)
    learn.save_encoder("encoder")
    return learn


def their_logits(learn: Any, tokens: Tensor) -> Tensor:
    learn.model.eval()
    learn.model.reset()
    with torch.no_grad():
        return learn.model(tokens)[0].as_subclass(Tensor)


def our_logits(model: TextClassifier, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens, torch.full((len(tokens),), tokens.shape[1]))


def ids(learn: Any, *lengths: int) -> list[Tensor]:
    """Batches of documents of a whole number of chunks each."""
    torch.manual_seed(5)
    return [torch.randint(2, len(learn.dls.vocab[0]), (3, length)) for length in lengths]


@pytest.mark.parametrize("name", ["whole", "weights"])
def test_logits_in_and_out(trained: Any, name: str, tmp_path: Path) -> None:
    tokens, labels = list(trained.dls.vocab[0]), list(trained.dls.vocab[1])
    ours = import_classifier(trained.path / f"models/{name}.pth", tokens, labels, tokenizer="word")
    batches = ids(trained, 72, 216, 1512)
    for batch in batches:
        torch.testing.assert_close(our_logits(ours.model, batch), their_logits(trained, batch), rtol=0, atol=1e-5)
    assert ours.labels == labels
    # Through a folder of ours, out again, and into a new learner of fastai.
    save_model(tmp_path / "ours", ours.model, ours.tokenizer, ours.task)
    path = save_fastai(tmp_path / "theirs", TrainedClassifier.load(tmp_path / "ours"))
    assert pickle.loads((tmp_path / "theirs/vocab.pkl").read_bytes()) == tokens
    assert json.loads((tmp_path / "theirs/labels.json").read_text()) == labels
    text = import_fastai()
    config = text.awd_lstm_clas_config | SIZES
    again = text.text_classifier_learner(trained.dls, text.AWD_LSTM, config=config, pretrained=False, path=tmp_path)
    again.model_dir = path.parent
    again.load("model")
    for batch in batches:
        torch.testing.assert_close(their_logits(again, batch), their_logits(trained, batch), rtol=0, atol=1e-6)


def test_an_encoder_out_and_in(trained: Any, tmp_path: Path) -> None:
    """What save_encoder writes becomes a language model; what we write is loaded by load_encoder."""
    tokens = list(trained.dls.vocab[0])
    lm = import_language_model(trained.path / "models/encoder.pth", tokens)
    path = save_fastai(tmp_path / "out", lm, encoder_only=True)
    assert path.name == "encoder.pth"
    theirs, ours = torch.load(trained.path / "models/encoder.pth"), torch.load(path)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    text = import_fastai()
    learn = text.text_classifier_learner(
        trained.dls, text.AWD_LSTM, config=text.awd_lstm_clas_config | SIZES, pretrained=False, path=tmp_path
    )
    learn.model_dir = path.parent
    learn.load_encoder("encoder")
    assert torch.equal(learn.model[0].module.rnns[1].weight_hh_l0_raw, theirs["rnns.1.weight_hh_l0_raw"])


def test_a_language_model_in_and_out(tmp_path: Path) -> None:
    text = import_fastai()
    dls = loaders(make_table([90] * 40), is_lm=True, bs=4, seq_len=20)
    learn = quietly(
        text.language_model_learner(
            dls, text.AWD_LSTM, config=text.awd_lstm_lm_config | SIZES, pretrained=False, path=tmp_path, metrics=[]
        )
    )
    learn.fit_one_cycle(1, 2e-2)
    learn.save("lm")
    batch = torch.randint(2, len(dls.vocab), (4, 20))
    expected = their_logits(learn, batch)
    ours = import_language_model(tmp_path / "models/lm.pth", list(dls.vocab))
    with torch.no_grad():
        found = ours.model.logits(ours.model(batch.t())).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    path = save_fastai(tmp_path / "out", ours)
    # As a pretrained model, which goes by the order of the tensors and by the vocabulary.
    pretrained = [path.parent / "model", path.parent / "vocab"]
    again = text.language_model_learner(
        dls, text.AWD_LSTM, config=text.awd_lstm_lm_config | SIZES, pretrained_fnames=pretrained, path=tmp_path
    )
    words = [row for row, word in enumerate(dls.vocab) if word != "xxfake"]  # of these it takes the last one's row
    torch.testing.assert_close(their_logits(again, batch % len(words))[..., words],
                               their_logits(learn, batch % len(words))[..., words], rtol=0, atol=1e-6)  # fmt: skip
    again.model_dir = path.parent
    again.load("model")
    torch.testing.assert_close(their_logits(again, batch), expected, rtol=0, atol=1e-6)


def version_1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fastai 1: one row of layers, linear ones with biases, the dropped weight beside the raw one."""
    places = {"0.0": "0", "0.2": "2", "1.0": "4", "1.2": "6"}
    other = {}
    for name, tensor in state.items():
        for now, then in places.items():
            name = name.replace(f"1.layers.{now}.", f"1.layers.{then}.")
        other[name] = tensor
        if name.endswith("weight_hh_l0_raw"):
            other[name.replace("weight_hh_l0_raw", "module.weight_hh_l0")] = tensor * 0
    return other


def version_07(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fastai 0.7: blocks with ``bn`` and ``lin``, no ``module`` around the encoder, no counts of batches."""
    other = {}
    for name, tensor in state.items():
        name = name.replace("0.module.", "0.", 1).replace("encoder_dp.emb", "encoder_with_dropout.embed")
        name = name.replace("weight_hh_l0_raw", "module.weight_hh_l0_raw")
        for block in "01":
            name = name.replace(f"1.layers.{block}.0.", f"1.layers.{block}.bn.")
            name = name.replace(f"1.layers.{block}.2.", f"1.layers.{block}.lin.")
        if not name.endswith("num_batches_tracked"):
            other[name] = tensor
    return other


@pytest.mark.parametrize("rename", [version_1, version_07])
@pytest.mark.parametrize("biased", [True, False])
def test_names_of_older_versions(
    trained: Any, rename: Callable[[dict[str, Tensor]], dict[str, Tensor]], biased: bool, tmp_path: Path
) -> None:
    """Given today's tensors under the older names. Biases, against a head computed by hand; and out for fastai 2."""
    state = dict(torch.load(trained.path / "models/weights.pth"))
    if biased:
        torch.manual_seed(2)
        state["1.layers.0.2.bias"], state["1.layers.1.2.bias"] = torch.randn(50), torch.randn(2)
    torch.save(rename(state), tmp_path / "old.h5")
    ours = import_classifier(tmp_path / "old.h5", list(trained.dls.vocab[0]), ["bad", "good"], tokenizer="word")
    assert ours.model.head_bias is biased
    (batch,) = ids(trained, 144)
    if biased:
        with torch.no_grad():
            x = ours.model.bpt3c(batch, torch.full((3,), 144))
            for block, after in (("0", torch.relu), ("1", lambda x: x)):
                norm = [state[f"1.layers.{block}.0.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
                x = torch.nn.functional.batch_norm(x, *norm)
                x = after(x @ state[f"1.layers.{block}.2.weight"].T + state[f"1.layers.{block}.2.bias"])
        expected = x
    else:
        expected = their_logits(trained, batch)
    torch.testing.assert_close(our_logits(ours.model, batch), expected, rtol=0, atol=1e-5)
    save_model(tmp_path / "ours", ours.model, ours.tokenizer, ours.task)
    model, *_ = load_classifier(tmp_path / "ours")
    assert torch.equal(our_logits(model.eval(), batch), our_logits(ours.model, batch))
    # fastai 2 has no biases there: they go into the BatchNorms before.
    found = fastai_state(model)
    assert list(found) == list(trained.model.state_dict())
    trained.model.load_state_dict(found)
    try:
        torch.testing.assert_close(their_logits(trained, batch), expected, rtol=0, atol=1e-5)
    finally:
        trained.load("weights", with_opt=False)


def test_training_goes_on_with_a_head_that_has_biases(trained: Any, tmp_path: Path) -> None:
    state = dict(torch.load(trained.path / "models/weights.pth"))
    state["1.layers.0.2.bias"], state["1.layers.1.2.bias"] = torch.randn(50), torch.tensor([3.0, -3.0])
    torch.save(state, tmp_path / "old.pth")
    base = import_classifier(tmp_path / "old.pth", list(trained.dls.vocab[0]), ["bad", "good"], tokenizer="word")
    config = ClassifierConfig(epochs=1, lr=1e-9, batch_size=4)
    texts, labels = ["a fine film", "dull story", "great", "so so"] * 2, ["good", "bad", "good", "mixed"] * 2
    result = finetune_classifier(texts, labels, base, config, progress=False)
    assert result.labels == ["bad", "good", "mixed"]
    assert result.model.head[6].bias[:2].tolist() == pytest.approx([3, -3], abs=1e-5)


def test_labels_beside_the_vocabulary(trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "vocab.pkl"
    path.write_bytes(pickle.dumps([list(trained.dls.vocab[0]), ["bad", "good"]]))
    weights = trained.path / "models/weights.pth"
    assert import_classifier(weights, path, tokenizer="word").labels == ["bad", "good"]
    assert import_classifier(weights, list(trained.dls.vocab[0]), tokenizer="word").labels == [0, 1]
    found = import_classifier(weights, path, task="multi_label", tokenizer="word")
    assert found.task.type == "multi_label"
    with pytest.raises(InputError, match=r"2 outputs, the task single_label with 3 labels needs 3"):
        import_classifier(weights, path, ["a", "b", "c"], tokenizer="word")
    with pytest.raises(InputError, match="a label is given twice"):
        import_classifier(weights, path, ["a", "a"], tokenizer="word")
    with pytest.raises(InputError, match="2 outputs, the task regression with 0 labels needs 1"):
        import_classifier(weights, list(trained.dls.vocab[0]), task="regression", tokenizer="word")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"1.layers.2.0.running_mean": torch.zeros(2)}, "the layers norm, linear, norm, linear, norm"),
        (lambda s: s | {"2.weight": torch.zeros(2)}, "a classifier of fastai has no tensor 2.weight"),
        (lambda s: {k: v for k, v in s.items() if k != "1.layers.1.0.running_var"}, "of its head lacks running_var"),
        (lambda s: s | {"1.layers.1.2.weight": torch.zeros(2, 7)}, "not those of an AWD-LSTM classifier"),
        (lambda s: s | {"1.layers.0.0.bias": torch.full((60,), torch.nan)}, "holds NaN or infinite numbers"),
        (lambda s: s | {"0.module.rnns.0.module.weight_ih_l0_reverse": torch.zeros(2)}, "bidirectional LSTM"),
        (lambda s: {k: v for k, v in s.items() if k.startswith("0.module.e")}, "layer 0 (0.rnns.0) lacks"),
    ],
)  # fmt: skip
def test_other_classifiers_are_refused(trained: Any, change: Any, message: str, tmp_path: Path) -> None:
    torch.save(change(dict(torch.load(trained.path / "models/weights.pth"))), tmp_path / "x.pth")
    with pytest.raises(InputError) as caught:
        import_classifier(tmp_path / "x.pth", list(trained.dls.vocab[0]), tokenizer="word")
    assert message in str(caught.value)


def test_what_fastai_has_not_is_refused(tmp_path: Path) -> None:
    for model in (LanguageModel(QRNN(QRNNConfig(20, 6, 9, 2))), TextClassifier(QRNN(QRNNConfig(20, 6, 9, 2)), 2)):
        with pytest.raises(InputError, match="fastai 2 has no QRNN"):
            fastai_state(model)
    with pytest.raises(TypeError, match="must be a LanguageModel or a TextClassifier, got Linear"):
        fastai_state(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_command_line(trained: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, vocabulary = str(trained.path / "models/whole.pth"), tmp_path / "vocab.pkl"
    vocabulary.write_bytes(pickle.dumps(list(trained.dls.vocab[0])))
    (tmp_path / "labels.txt").write_text("bad\ngood\n")
    given = ["--vocabulary", str(vocabulary), "--labels", str(tmp_path / "labels.txt"), "--tokenizer", "word"]
    out = str(tmp_path / "clf")
    assert main(["convert", weights, *given, "--output", out]) == 0
    assert "from whole.pth" in capsys.readouterr().out
    ours = TrainedClassifier.load(out)
    (batch,) = ids(trained, 72)
    torch.testing.assert_close(our_logits(ours.model.eval(), batch), their_logits(trained, batch), rtol=0, atol=1e-5)
    assert main(["convert", out, "--to", "fastai", "--output", str(tmp_path / "back")]) == 0
    assert "model.pth of" in capsys.readouterr().out
    found, expected = torch.load(tmp_path / "back/model.pth"), trained.model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # A language model by the same command.
    encoder = str(trained.path / "models/encoder.pth")
    assert main(["convert", encoder, "--vocabulary", str(vocabulary), "--output", str(tmp_path / "lm")]) == 0
    assert main(["convert", str(tmp_path / "lm"), "--to", "fastai-encoder", "--output", str(tmp_path / "enc")]) == 0
    capsys.readouterr()
    for arguments, message in (
        ([weights, "--output", out], "--vocabulary is needed"),
        ([weights, *given, "--output", out], "already holds a model"),
        ([out, "--to", "float16", *given, "--output", out + "2"], "--vocabulary does nothing here"),
        ([out, "--output", out + "2"], "--to is needed: one of float32"),
        ([out, "--to", "fastai", "--output", str(tmp_path / "back")], "already holds model.pth"),
        ([out, "--to", "fastai", "--output", str(tmp_path / "lm"), "--overwrite"], "holds a model of ulmfit_fast"),
        ([encoder, *given, "--output", out + "2"], "--labels does nothing here"),
    ):
        assert main(["convert", *arguments]) == 2
        assert_one_line(capsys, message)
    assert not Path(out + "2").exists()
    assert np.isfinite(our_logits(ours.model, batch).numpy()).all()
