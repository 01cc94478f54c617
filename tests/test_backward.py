"""Models that read texts from their end, and the mean of both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import InputError, Tokenizer, ULMFiTClassifier, finetune_classifier, finetune_lm, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.text import parallel
from ulmfit_fast.text.batching import pack_documents
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.text.tokenizer import TOKENIZERS


@pytest.fixture(scope="module")
def backward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model and a classifier on top of it, lm/ and clf/, made through the command line."""
    folder = tmp_path_factory.mktemp("backward")
    data, lm = str(write_task(folder / "train.csv")), str(folder / "lm")
    assert main(["pretrain-lm", data, "--output", lm, "--direction", "backward", *SIZES, *SMALL]) == 0
    assert main(["train", data, "--model", lm, "--output", str(folder / "clf"), "--epochs", "1", *SMALL]) == 0
    return folder


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_ids_go_from_the_last_to_the_first(kind: str, tmp_path: Path) -> None:
    texts = ["One two, three.", "", "four\n\nfive two two two"]
    forward = Tokenizer.train(kind, texts * 3, 60, 1)
    backward = forward.reading("backward")
    expected = [ids.tolist()[::-1] for ids in forward.encode(texts)]
    assert [ids.tolist() for ids in backward.encode(texts)] == expected
    assert expected[0][-1] == forward.bos_id
    (tmp_path / "tokenizer.json").write_text(backward.to_json())
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert [ids.tolist() for ids in loaded.encode(texts)] == expected
    assert loaded.vocabulary == forward.vocabulary
    assert loaded.decode(expected[0]) == forward.decode(expected[0][::-1])
    assert Tokenizer.from_json(forward.to_json()).direction == "forward"


def test_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _ = make_task(60)
    tokenizer = Tokenizer.train_words(texts).reading("backward")
    monkeypatch.setattr(parallel, "_CHARACTERS", 40)
    several = [ids.tolist() for ids in parallel.encode(tokenizer, texts, 2)]
    assert several == [ids.tolist() for ids in tokenizer.encode(texts)]


def test_an_unknown_direction(tmp_path: Path) -> None:
    text = Tokenizer.from_vocabulary(["a"]).reading("backward").to_json().replace("backward", "sideways")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(
        InputError, match=r"tokenizer.json: .*direction must be one of forward, backward, got 'sideways'"
    ):
        Tokenizer.load(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="direction must be one of"):
        replace(PRETRAIN, direction="sideways")


def test_all_stages_read_backward() -> None:
    texts, labels = make_task(60)
    language_model = pretrain_lm(texts, replace(PRETRAIN, direction="backward"))
    tuned = finetune_lm([f"{text} brandnew" for text in texts], language_model, FINETUNE)
    assert "brandnew" in tuned.tokenizer.vocabulary
    trained = finetune_classifier(texts, labels, tuned, replace(CLASSIFY, epochs=1))
    ids = [torch.from_numpy(ids[::-1].copy()) for ids in trained.tokenizer.reading("forward").encode(texts)]
    with torch.inference_mode():
        expected = trained.model.eval()(pack_documents(ids)).softmax(1).numpy()
    assert np.array_equal(predict_probabilities(trained.model, trained.tokenizer, trained.task, texts), expected)


def test_a_backward_language_model_knows_what_comes_before() -> None:
    """Words follow each other at random but for their pairs: after "a" comes "b", before "b" stands "a"."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["a b", "c", "d", "e"], 30)) for _ in range(200)]
    config = replace(PRETRAIN, epochs=4, lr=2e-2, direction="backward")
    trained = pretrain_lm(texts, config)
    a, b = (trained.tokenizer.vocabulary.index(word) for word in "ab")
    with torch.inference_mode():
        probabilities = trained.model.logits(trained.model.eval()(torch.tensor([[b]]))).flatten().softmax(0)
    assert probabilities[a] > 0.9  # after "b" any of the others comes as often


def test_no_prediction_while_a_text_comes(backward: Path) -> None:
    with pytest.raises(InputError, match="a backward model reads a text from its end"):
        ULMFiTClassifier.load(backward / "clf").stream()


def test_the_mean_of_both_directions(
    models: Path, backward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On texts that are torn between both labels, so that the mean is neither model's confidence."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.permutation(["great", "lovely", "awful", "dull", "film", "was"])) for _ in range(1000)]
    probabilities = []
    for folder in (models, backward):
        model, tokenizer, task = load_classifier(folder / "clf")
        probabilities.append(predict_probabilities(model, tokenizer, task, texts).astype(np.float64))
    mean = sum(probabilities) / 2
    # Neither model's confidence is the mean's. Their labels need not differ: how sure each is depends on its training.
    assert all((np.abs(p.max(1) - mean.max(1)) > 0.01).any() for p in probabilities)

    table, output = tmp_path / "new.csv", tmp_path / "out.csv"
    expected = [task.labels[i] for i in mean.argmax(1)]
    pd.DataFrame({"text": texts, "label": expected}).to_csv(table, index=False)
    both = ["--model", str(models / "clf"), "--model", str(backward / "clf")]
    assert main(["predict", str(table), *both, "--output", str(output)]) == 0
    written = pd.read_csv(output)
    assert written["confidence"].to_numpy() == pytest.approx(mean.max(1), abs=1e-6)
    assert written["prediction"].tolist() == expected
    capsys.readouterr()
    assert main(["evaluate", str(table), *both]) == 0
    assert "accuracy 1.0000" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_language_model_among_classifiers(
    command: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--model", str(models / "clf"), "--model", str(models / "lm")]
    output = ["--output", str(tmp_path / "out.csv")] if command == "predict" else []
    assert main([command, str(models / "train.csv"), *both, *output]) == 2
    assert_one_line(
        capsys, "lm: holds a language model" if command == "predict" else "lm: is a language model; give one"
    )


def test_the_language_model_settles_the_direction(backward: Path, tmp_path: Path) -> None:
    texts, labels = make_task(40)
    forward = pretrain_lm(texts, PRETRAIN)
    config = replace(CLASSIFY, epochs=1, direction="backward")
    with pytest.raises(InputError, match=r"finetune_classifier: .*but the language model reads forward"):
        finetune_classifier(texts, labels, forward, config)
    with pytest.raises(InputError, match=r"classifier_config\.direction is 'backward', but the language model"):
        ULMFiTClassifier(classifier_config=config).fit(texts, labels)
    corpus = Corpus(forward.tokenizer, TokenArray(list(forward.tokenizer.encode(texts))), None)
    with pytest.raises(InputError, match=r"pretrain_lm: .*but the corpus was tokenized forward"):
        pretrain_lm(corpus, replace(PRETRAIN, direction="backward"))
    finetune_classifier(texts, labels, backward / "lm", replace(config, direction="forward"), output=tmp_path / "clf")
    assert json.loads((tmp_path / "clf" / "training_args.json").read_text())["direction"] == "backward"


def test_classifiers_of_other_labels(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts, labels = make_task(20)
    pd.DataFrame({"text": texts, "label": [f"very {x}" for x in labels]}).to_csv(tmp_path / "t.csv", index=False)
    other = str(tmp_path / "clf")
    assert main(["train", str(tmp_path / "t.csv"), "--output", other, "--epochs", "1", *SIZES, *SMALL]) == 0
    capsys.readouterr()
    both = ["--model", str(models / "clf"), "--model", other]
    assert main(["predict", str(tmp_path / "t.csv"), *both, "--output", str(tmp_path / "out.csv")]) == 2
    assert_one_line(capsys, f"{other}: has other labels than {models / 'clf'}")


def test_directions_do_not_mix(
    models: Path, backward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, output = str(models / "lm" / "corpus"), str(tmp_path / "lm")
    assert main(["finetune-lm", corpus, "--model", str(backward / "lm"), "--output", output, *SMALL]) == 2
    assert_one_line(capsys, "the language model reads backward, the corpus was tokenized forward")
    assert main(["pretrain-lm", corpus, "--output", output, "--direction", "backward"]) == 2
    assert_one_line(capsys, "--direction does nothing here")
    train = ["train", str(backward / "train.csv"), "--model", str(backward / "lm"), "--output", output]
    assert main([*train, "--direction", "forward"]) == 2
    assert_one_line(capsys, "--direction does nothing here")


def test_a_backward_corpus(models: Path, backward: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Tokenized by itself or like a model it is the one that training makes for itself."""

    def tokens(folder: Path) -> list[int]:
        train = Corpus.load(folder).train
        return train.read(0, int(train.offsets[-1])).tolist()

    for name, options in (("a", ["--direction", "backward", "--min-frequency", "1"]), ("b", ["--like", "lm"])):
        options = [str(backward / "lm") if option == "lm" else option for option in options]
        assert main(["tokenize", str(backward / "train.csv"), "--output", str(tmp_path / name), *options]) == 0
        assert tokens(tmp_path / name) == tokens(backward / "lm" / "corpus")
    assert main(["info", str(backward / "lm")]) == 0
    assert "reads texts: backward" in capsys.readouterr().out
    both = ["tokenize", str(backward / "train.csv"), "--output", str(tmp_path / "c"), "--like", str(backward / "lm")]
    assert main([*both, "--direction", "backward"]) == 2
    assert_one_line(capsys, "--direction does nothing here")
