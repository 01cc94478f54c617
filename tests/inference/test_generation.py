"""Generated text: what is read before it, where it ends, both directions, classes, and the command."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line
from tests.tiny import PRETRAIN
from ulmfit_fast import InputError, TrainedLanguageModel, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.inference.generation import generate_text, stream_text
from ulmfit_fast.nn.generation import Sampling

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def counting() -> TrainedLanguageModel:
    """Of texts that go round in a circle of words."""
    circle = ["one", "two", "three", "four", "five", "six", "seven"]
    texts = [" ".join(circle[(start + i) % 7] for i in range(20)) for start in range(7)] * 6
    return pretrain_lm(texts, replace(PRETRAIN, epochs=12, drop_mult=0.0, lr=0.03), progress=False)


def test_it_goes_on_from_the_prompt(counting: TrainedLanguageModel) -> None:
    assert counting.generate("one two three", 5, GREEDY).split() == ["four", "five", "six", "seven", "one"]
    pieces = list(stream_text(counting.model, counting.tokenizer, "six", 4, GREEDY))
    assert [piece.strip() for piece in pieces] == ["seven", "one", "two", "three"]
    assert counting.generate("six", 4, Sampling(), seed=3) == counting.generate("six", 4, Sampling(), seed=3)


def test_texts_end(counting: TrainedLanguageModel) -> None:
    """The next text's mark ends it and is not shown, and no special token is."""
    whole = counting.generate("", 300, Sampling(top_p=0.9), seed=0)
    assert len(whole.split()) < 299
    more = counting.generate("", 300, Sampling(top_p=0.9), seed=0, past_end=True)
    assert len(more.split()) == 300
    assert "xx" not in more


def test_a_backward_model_writes_what_stands_before() -> None:
    circle = ["one", "two", "three", "four", "five", "six", "seven"]
    texts = [" ".join(circle[(start + i) % 7] for i in range(20)) for start in range(7)] * 6
    config = replace(PRETRAIN, epochs=12, drop_mult=0.0, lr=0.03, direction="backward")
    backward = pretrain_lm(texts, config, progress=False)
    assert backward.generate("four five", 3, GREEDY).split() == ["one", "two", "three"]
    with pytest.raises(InputError, match="use generate_text"):
        stream_text(backward.model, backward.tokenizer, "four")
    with pytest.raises(InputError, match="use a forward one"):
        generate_text(backward.model, backward.tokenizer, given="good")


def test_memory_does_not_grow(counting: TrainedLanguageModel) -> None:
    """What the stream holds between two tokens is as large after 600 as after 100."""
    stream = stream_text(counting.model, counting.tokenizer, "", None, Sampling(), seed=0, past_end=True)
    sizes = []
    for count, _ in enumerate(stream):
        if count in (200, 800):
            frame = stream.gi_frame.f_locals["ids"].gi_frame.f_locals  # type: ignore[attr-defined]
            held = sum(h.nbytes for layer in frame["state"] for h in layer) + sys.getsizeof(frame["recent"])
            sizes.append((held, len(frame["recent"]), len(frame["read"])))
        if count == 800:
            break
    assert sizes[0] == sizes[1]


def test_texts_of_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two columns make the class a prefix: what is written after it has the class's words."""
    words = {"day": "sun noon light", "night": "moon dark star"}
    labels = ["day", "night"] * 40
    pd.DataFrame({"text": [words[label] for label in labels], "label": labels}).to_csv(tmp_path / "t.csv", index=False)
    lm, columns = str(tmp_path / "lm"), ["--text-column", "label", "--text-column", "text", "--drop-mult", "0"]
    training = ["--epochs", "25", "--lr", "0.03", *columns, *SIZES, *SMALL]
    assert main(["pretrain-lm", str(tmp_path / "t.csv"), "--output", lm, *training]) == 0
    capsys.readouterr()
    for label, own in words.items():
        assert main(["generate", "--model", lm, "--class", label, "--tokens", "3", "--temperature", "0"]) == 0
        assert capsys.readouterr().out == f"{own}\n"


def test_the_command(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "the film", "--model", str(models / "lm"), "--tokens", "10", "--seed", "1"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out == first
    assert first.startswith("the film ")
    assert first.count("\n") == 1
    assert main([*arguments, "--top-p", "0"]) == 2
    assert_one_line(capsys, "top_p must be above 0 and at most 1, got 0.0")
    assert main(["generate", "--model", str(models / "clf")]) == 2
    assert_one_line(capsys, "clf")
