"""Corpora on the command line: tokenized once, read by both trainings of a language model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from ulmfit_fast import InputError, Tokenizer
from ulmfit_fast.cli.main import main
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.files import iterate_texts, sample_texts
from ulmfit_fast.text.reading import ReadOptions


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_task(tmp_path / "new.csv", 60, seed=1)


@pytest.mark.parametrize("option", [["--tokenizer", "subword"], ["--min-frequency", "2"], ["--valid", "train.csv"]])
def test_options_that_a_corpus_folder_has_settled(
    models: Path, option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = models / "lm" / "corpus"
    assert main(["pretrain-lm", str(corpus), "--output", str(tmp_path / "lm"), *option]) == 2
    assert_one_line(capsys, f"{option[0]} does nothing here: {corpus} is a corpus folder, tokenized before;")
    assert not (tmp_path / "lm").exists()


def test_a_test_text_is_read_as_the_corpus_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Perplexity is over the same tokens as training: here the newlines, too."""
    text = tmp_path / "a.txt"
    text.write_text("one two\n\nthree four\n" * 40)
    tokenizing = ["--split", "file", "--tokenizer", "whitespace", "--min-frequency", "1"]
    assert main(["tokenize", str(text), "--output", str(tmp_path / "c"), *tokenizing]) == 0
    model = ["--output", str(tmp_path / "lm"), "--eval", str(text), *SIZES[:-2], "--batch-size", "2"]
    assert main(["pretrain-lm", str(tmp_path / "c"), *model]) == 0
    assert f"on {40 * (4 + 3):,} tokens" in capsys.readouterr().out
    assert main(["pretrain-lm", str(tmp_path / "c"), *model, "--overwrite", "--split", "line"]) == 0
    assert f"on {40 * 6 - 1:,} tokens" in capsys.readouterr().out


def test_finetuning_tokenizes_into_its_output(models: Path, texts: Path, tmp_path: Path) -> None:
    """By default over the new texts' and the model's words, else the model's; a corpus of its own brings its words."""
    language_model, rest = str(models / "lm"), [*SMALL, "--min-frequency", "1"]
    assert main(["finetune-lm", str(texts), "--model", language_model, "--output", str(tmp_path / "a"), *rest]) == 0
    corpus = Corpus.load(tmp_path / "a" / "corpus")
    assert corpus.valid is not None
    assert Tokenizer.load(tmp_path / "a" / "tokenizer.json").vocabulary == corpus.tokenizer.vocabulary

    own = Tokenizer.load(models / "lm" / "tokenizer.json").vocabulary
    of_texts = Tokenizer.train_words(iterate_texts(texts), min_frequency=1).vocabulary
    assert corpus.tokenizer.vocabulary == list(dict.fromkeys([*of_texts, *own]))

    arguments = ["finetune-lm", str(tmp_path / "a" / "corpus"), "--model", language_model]
    assert main([*arguments, "--output", str(tmp_path / "b"), *SMALL]) == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]

    kept = ["--no-new-vocabulary", *SMALL]
    assert main(["finetune-lm", str(texts), "--model", language_model, "--output", str(tmp_path / "k"), *kept]) == 0
    of_the_model = (models / "lm" / "tokenizer.json").read_bytes()
    assert (tmp_path / "k" / "corpus" / "tokenizer.json").read_bytes() == of_the_model
    assert (tmp_path / "k" / "tokenizer.json").read_bytes() == of_the_model


def test_a_corpus_for_a_model_of_subwords(
    models: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_model = [*SIZES[:-2], *SMALL, "--tokenizer", "subword", "--vocab-size", "60"]
    assert main(["pretrain-lm", str(models / "train.csv"), "--output", str(tmp_path / "lm"), *new_model]) == 0
    capsys.readouterr()
    arguments = ["--model", str(tmp_path / "lm"), "--output", str(tmp_path / "tuned"), *SMALL]
    assert main(["tokenize", str(texts), "--output", str(tmp_path / "words")]) == 0
    capsys.readouterr()
    assert main(["finetune-lm", str(tmp_path / "words"), *arguments]) == 2
    assert_one_line(capsys, "ulmfit-fast tokenize --like MODEL")
    like = ["tokenize", str(texts), "--output", str(tmp_path / "like"), "--like", str(tmp_path / "lm")]
    assert main([*like, "--vocab-size", "50"]) == 2
    assert_one_line(capsys, "--vocab-size does nothing here")
    assert main(like) == 0
    assert main(["finetune-lm", str(tmp_path / "like"), *arguments]) == 0
    assert (tmp_path / "tuned" / "tokenizer.json").read_bytes() == (tmp_path / "lm" / "tokenizer.json").read_bytes()
    # Opened again, not made again, and another model's vocabulary is another corpus.
    capsys.readouterr()
    assert main(like) == 0
    assert "tokenized" not in capsys.readouterr().err
    assert main([*like[:-1], str(models / "lm")]) == 2
    assert_one_line(capsys, "holds a corpus of other texts or options")


def test_options_that_would_do_nothing_in_finetuning(
    models: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune-lm", str(texts), "--model", str(models / "lm"), "--output", str(tmp_path / "tuned")]
    assert main([*arguments, "--no-new-vocabulary", "--min-frequency", "2"]) == 2
    assert_one_line(capsys, "--min-frequency does nothing here")
    assert main([*arguments, "--max-texts", "9", "--valid", str(texts)]) == 2
    assert_one_line(capsys, "--valid does not go with --max-texts")
    assert main([*arguments, "--max-texts", "9", "--processes", "2"]) == 2
    assert_one_line(capsys, "--processes does nothing here")
    assert main([*arguments, "--split", "line"]) == 2
    assert_one_line(capsys, "--split does nothing here")
    arguments[1] = str(models / "lm" / "corpus")
    assert main([*arguments, "--text-column", "body"]) == 2
    assert_one_line(capsys, "--text-column does nothing here")
    assert not (tmp_path / "tuned").exists()


def test_texts_that_change_below_a_run(
    models: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It goes on with the corpus it has; only --overwrite, without a run that goes on, replaces it."""
    output = tmp_path / "tuned"
    rest = ["--model", str(models / "lm"), "--output", str(output), *SMALL, "--min-frequency", "1"]
    assert main(["finetune-lm", str(texts), *rest]) == 0
    before = (output / "corpus" / "train.tokens").read_bytes()
    os.utime(texts, ns=(1, 1))
    for more in (["--resume"], ["--resume", "--overwrite"]):
        capsys.readouterr()
        assert main(["finetune-lm", str(texts), *rest, *more]) == 2
        assert_one_line(capsys, f"to go on with those, give {output / 'corpus'} in its place")
    assert (output / "corpus" / "train.tokens").read_bytes() == before
    assert main(["finetune-lm", str(output / "corpus"), *rest, "--resume"]) == 0
    assert main(["finetune-lm", str(texts), *rest, "--overwrite"]) == 0
    assert Corpus.load(output / "corpus").source["path"][2] == 1


def test_bad_texts_leave_what_is_there(models: Path, texts: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "c"
    assert main(["tokenize", str(texts), "--output", str(corpus)]) == 0
    before = {path.name: path.read_bytes() for path in corpus.iterdir()}
    assert main(["tokenize", str(texts), "--output", str(corpus), "--overwrite", "--text-column", "body"]) == 2
    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == before
    arguments = ["--model", str(models / "lm"), "--output", str(tmp_path / "out"), *SMALL, "--text-column", "body"]
    assert main(["finetune-lm", str(texts), *arguments]) == 2
    assert not (tmp_path / "out").exists()


def test_a_damaged_corpus_is_replaced_only_if_asked(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tokenize", str(texts), "--output", str(tmp_path / "c")]
    assert main(arguments) == 0
    tokens = tmp_path / "c" / "train.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-1])
    capsys.readouterr()
    assert main(arguments) == 2
    assert_one_line(capsys, "holds a corpus that cannot be read")
    with pytest.raises(InputError):
        Corpus.load(tmp_path / "c")
    assert main([*arguments, "--overwrite"]) == 0
    assert len(Corpus.load(tmp_path / "c").train.offsets) > 1


def test_a_sample_is_of_the_documents_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"first {i}\nsecond {i}\n\n" for i in range(5000)))
    lines, documents = (sample_texts(path, 3, 0, ReadOptions(split=split)) for split in ("line", "blank"))
    assert [text.count("\n") for text in lines] == [0, 0, 0]
    assert [text.count("\n") for text in documents] == [1, 1, 1]
    blank = ReadOptions(split="blank")
    assert sample_texts(path, 20_000, 0, blank) == list(iterate_texts(path, blank))
