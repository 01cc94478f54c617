"""MultiFiT's language models: weights, vocabulary and SentencePiece model in, the same logits out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("sentencepiece")

from tests import fastai_1
from tests.cli.command_line import assert_one_line
from tests.fastai_1 import needs_fastai_1
from tests.nn.plain_qrnn import MultiFiT
from tests.text.test_sentencepiece import train_like_fastai
from tests.tiny import make_task
from ulmfit_fast import ClassifierConfig, FinetuneLMConfig, finetune_classifier, finetune_lm, import_language_model
from ulmfit_fast.cli.main import main
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.interop.multifit import import_multifit
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

SIZES = (12, 20, 4)  # embedding, hidden, layers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as MultiFiT writes it: lm_best.pth, enc_best.pth, itos.pkl, spm.model."""
    folder = tmp_path_factory.mktemp("multifit")
    pieces = train_like_fastai(folder, make_task(120)[0])
    torch.manual_seed(1)
    model = MultiFiT(len(pieces), *SIZES)
    torch.save({"model": model.state_dict(), "opt": {}}, folder / "lm_best.pth")
    torch.save(model[0].state_dict(), folder / "enc_best.pth")
    torch.save(model, folder / "whole.pt")
    (folder / "itos.pkl").write_bytes(pickle.dumps(pieces))
    return folder


def the_model(checkpoint: Path) -> MultiFiT:
    return torch.load(checkpoint / "whole.pt", weights_only=False)


def logits(trained: TrainedLanguageModel, ids: np.ndarray) -> Tensor:
    with torch.no_grad():
        return trained.model.logits(trained.model(torch.from_numpy(ids).long().unsqueeze(1))).squeeze(1)


@pytest.mark.parametrize("vocabulary", [True, False])
def test_the_logits_are_the_same(checkpoint: Path, vocabulary: bool) -> None:
    trained = import_multifit(
        checkpoint / "lm_best.pth", checkpoint / "spm.model", checkpoint / "itos.pkl" if vocabulary else None
    )
    names = the_model(checkpoint).state_dict().keys()
    assert {"0.rnns.0.layers.0.linear.weight_raw", "0.rnns.3.layers.0.linear.module.bias"} <= names
    for text in make_task(5)[0]:
        (ids,) = trained.tokenizer.encode([text])
        expected = the_model(checkpoint)(torch.from_numpy(ids).long())
        torch.testing.assert_close(logits(trained, ids), expected.detach(), atol=1e-5, rtol=1e-5)


@needs_fastai_1
def test_the_logits_are_those_of_fastai_1_itself(checkpoint: Path, tmp_path: Path) -> None:
    fastai, count = fastai_1.models(), len(pickle.loads((checkpoint / "itos.pkl").read_bytes()))
    encoder = fastai.AWD_LSTM(count, *SIZES[:2], SIZES[2], pad_token=1, qrnn=True)
    decoder = fastai.LinearDecoder(count, SIZES[0], 0.1, tie_encoder=encoder.encoder, bias=True)
    theirs = fastai.SequentialRNN(encoder, decoder).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0, 0.3)
        decoder.decoder.weight = encoder.encoder.weight
        for rnn in encoder.rnns:  # kept from the last forward pass, and not what counts
            rnn.layers[0].linear.module.weight.data.zero_()
    torch.save({"model": theirs.state_dict(), "opt": {}}, tmp_path / "lm_best.pth")
    trained = import_multifit(tmp_path / "lm_best.pth", checkpoint / "spm.model", checkpoint / "itos.pkl")
    assert trained.model.state_dict().keys() == {
        "encoder.encoder.weight",
        "decoder_bias",
        *(f"encoder.rnns.{i}.{part}" for i in range(4) for part in ("weight", "bias")),
    }
    tokens, state = torch.randint(count, (40, 3)), None
    theirs.reset()
    with torch.no_grad():
        for chunk in tokens.split([13, 1, 26]):  # both go on where they ended
            output = trained.model(chunk, state)
            state = output.state
            expected = theirs(chunk.t())[0].transpose(0, 1)
            torch.testing.assert_close(trained.model.logits(output), expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_alone_and_other_spellings(checkpoint: Path, tmp_path: Path) -> None:
    trained = import_multifit(checkpoint / "enc_best.pth", checkpoint / "spm.model")
    assert not trained.model.decoder_bias.any()
    old = {n.replace("layers.0.", ""): x for n, x in torch.load(checkpoint / "lm_best.pth")["model"].items()}
    # fastai 1 keeps the weight of the last forward pass, too.
    old |= {n.replace("weight_raw", "module.weight"): torch.zeros_like(x) for n, x in old.items() if "_raw" in n}
    torch.save(old, tmp_path / "old.pth")
    again = import_multifit(tmp_path / "old.pth", checkpoint / "spm.model")
    assert torch.equal(again.model.encoder.rnns[0].weight, trained.model.encoder.rnns[0].weight)
    assert again.model.decoder_bias.any()


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, spm, out = str(checkpoint / "lm_best.pth"), str(checkpoint / "spm.model"), str(tmp_path / "lm")
    itos = str(checkpoint / "itos.pkl")
    assert main(["import-lm", weights, "--sentencepiece", spm, "--vocabulary", itos, "--output", out]) == 0
    assert "4 layers, embedding 12, hidden 20" in capsys.readouterr().out
    trained = TrainedLanguageModel.load(out)
    direct = import_multifit(weights, spm)
    for name, value in direct.model.state_dict().items():
        assert torch.equal(trained.model.state_dict()[name], value)
    assert trained.tokenizer.to_json() == direct.tokenizer.to_json()
    assert main(["import-lm", weights, "--output", out + "2"]) == 2
    assert_one_line(capsys, "--vocabulary is needed, or --sentencepiece")
    assert main(["import-lm", weights, "--sentencepiece", spm, "--tokenizer", "word", "--output", out + "2"]) == 2
    assert_one_line(capsys, "--tokenizer does nothing here")
    assert main(["import-lm", weights, "--vocabulary", itos, "--output", out + "2"]) == 2
    assert_one_line(capsys, "belongs to a QRNN")


def test_it_fine_tunes_predicts_and_loads_again(checkpoint: Path, tmp_path: Path) -> None:
    texts, labels = make_task(64)
    base = import_multifit(checkpoint / "lm_best.pth", checkpoint / "spm.model", checkpoint / "itos.pkl")
    config = FinetuneLMConfig(batch_size=4, bptt=10)
    tuned = finetune_lm(texts, base, config, output=tmp_path / "lm", progress=False)
    assert tuned.tokenizer.vocabulary == base.tokenizer.vocabulary
    config = ClassifierConfig(
        epochs=12, batch_size=16, bptt=10, lr=0.03, drop_mult=0.1, discriminative_factor=1.0, unfreezing="all"
    )
    classifier = finetune_classifier(texts, labels, tmp_path / "lm", config, output=tmp_path / "clf", progress=False)
    loaded = TrainedClassifier.load(tmp_path / "clf")
    probabilities = predict_probabilities(*parts(classifier), texts)
    assert np.array_equal(probabilities, predict_probabilities(*parts(loaded), texts))
    assert (np.array(classifier.labels)[probabilities.argmax(1)] == np.array(labels)).mean() > 0.8


def parts(classifier: TrainedClassifier) -> tuple[Any, Any, Any]:
    return classifier.model, classifier.tokenizer, classifier.task


def without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("0.rnns.2.layers.0.linear.module.bias"), r"layer 2 \(0\.rnns\.2\) lacks bias"),
        (without("0.encoder.weight"), None),  # the other name of the same tensor is left
        (lambda s: s.update({"0.rnns.0.weight_hh_l0": torch.zeros(2, 2)}), "an LSTM is imported without"),
        (lambda s: s.update({"1.layers.0.weight": torch.zeros(2)}), "holds a classifier"),
        (lambda s: s.update({"1.decoder.weight": torch.zeros(2, 2)}), "the softmax has a weight of its own"),
        (lambda s: s["0.rnns.1.layers.0.linear.weight_raw"].fill_(torch.nan), "layer 1's weight holds NaN"),
        (
            lambda s: s.update({"0.rnns.0.layers.0.linear.weight_raw": torch.zeros(60, 12)}),
            "its layers are not those of MultiFiT",
        ),
        (lambda s: s.update({"0.encoder.weight": torch.zeros(5, 12)}), "rows, .* pieces; they do not belong together"),
    ],
)
def test_other_models_are_refused(
    checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str | None
) -> None:
    state = torch.load(checkpoint / "lm_best.pth")["model"]
    if message and "rows" in message:
        state = {n: x for n, x in state.items() if "encoder_dp" not in n and "decoder.weight" not in n}
    change(state)
    torch.save(state, tmp_path / "lm.pth")
    if message is None:
        import_multifit(tmp_path / "lm.pth", checkpoint / "spm.model")
        return
    with pytest.raises(InputError, match=message):
        import_multifit(tmp_path / "lm.pth", checkpoint / "spm.model")


def test_another_vocabulary_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    words = pickle.loads((checkpoint / "itos.pkl").read_bytes())
    words[12], words[13] = words[13], words[12]
    arguments = (checkpoint / "lm_best.pth", checkpoint / "spm.model")
    with pytest.raises(InputError, match=r"in row 12, the model .* do not belong together"):
        import_multifit(*arguments, words)
    with pytest.raises(InputError, match=rf"has {len(words) - 1} tokens, the model {len(words)}"):
        import_multifit(*arguments, pickle.loads((checkpoint / "itos.pkl").read_bytes())[:-1])
    with pytest.raises(InputError, match=r"no such file"):
        import_multifit(arguments[0], tmp_path / "spm.model")
    with pytest.raises(InputError, match=r"itos\.pkl: not a SentencePiece model"):
        import_multifit(arguments[0], checkpoint / "itos.pkl")
    with pytest.raises(InputError, match="belongs to a QRNN, as MultiFiT's; import it with its SentencePiece model"):
        import_language_model(arguments[0], words)
