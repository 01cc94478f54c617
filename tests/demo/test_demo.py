"""The demo from its first line to its last on tiny texts and models, and the texts that it brings."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.command_line import assert_one_line
from tests.tiny import CLASSIFY, FINETUNE, PRETRAIN, make_task
from ulmfit_fast import pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.demo import comparison, demo
from ulmfit_fast.demo.topics import draw_labelled, load_topics


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    pretrain_lm(make_task(240, seed=1)[0], PRETRAIN, output=tmp_path / "lm")
    return tmp_path / "lm"


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of two topics that are told apart by their words, and whose names the language model knows."""
    tables, names = [], {"good": "great", "bad": "poor"}
    for seed in (2, 3):
        texts, topics = make_task(120, seed)
        tables.append(pd.DataFrame({"text": texts, "topic": [names[topic] for topic in topics], "article": "made up"}))
    monkeypatch.setattr(demo, "load_topics", lambda: tuple(tables))
    monkeypatch.setattr(demo, "FINETUNE", replace(FINETUNE, new_vocabulary=False))
    monkeypatch.setattr(demo, "CLASSIFY", CLASSIFY)
    monkeypatch.setattr(demo, "FROM_SCRATCH", CLASSIFY)
    monkeypatch.setattr(demo, "measure_layers", partial(demo.measure_layers, 8, 4, 1))


@pytest.mark.usefixtures("small_demo")
def test_demo_ends_with_a_table_a_picture_and_a_command_that_works(
    tmp_path: Path, language_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "a demo"
    for _ in range(2):  # again into the same folder
        assert main(["demo", "--output", str(output), "--draws", "1", "--pretrained", str(language_model)]) == 0
    printed = capsys.readouterr().out
    assert (output / "results.md").read_text() in printed
    methods = ("TFIDF", "SCRATCH", "PRETRAINED", "STAGES", "WORDS")
    assert all(f"accuracy, {getattr(comparison, method)} " in printed for method in methods)
    assert "120 sentences of Wikipedia on 2 topics; 120 of other articles" in printed
    assert (output / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    command = shlex.split(printed.splitlines()[printed.splitlines().index("Predict with it:") + 1])
    assert command[0] == "ulmfit-fast"
    assert main(command[1:]) == 0
    predictions = pd.read_csv(output / "predictions.csv")
    assert set(predictions["prediction"]) <= {"great", "poor"}
    assert len(predictions) == 6


@pytest.mark.usefixtures("small_demo")
def test_a_model_that_does_not_know_the_names_goes_without_them(
    tmp_path: Path, language_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = demo.load_topics()
    tables = tuple(table.assign(topic=table["topic"].replace({"poor": "zzz"})) for table in (train, test))
    monkeypatch.setattr(demo, "load_topics", lambda: tables)
    assert main(["demo", "--output", str(tmp_path / "out"), "--draws", "1", "--pretrained", str(language_model)]) == 0
    printed = capsys.readouterr()
    assert "knows none of the words of 'zzz' (zzz); the last row is left out" in printed.err
    assert f"accuracy, {comparison.STAGES}" in printed.out
    assert comparison.WORDS not in printed.out


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "README.txt").write_text("mine")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert_one_line(capsys, "holds other files; give a new or empty folder for the demo")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.txt", "mine")]
    (tmp_path / "file").write_text("")
    assert main(["demo", "--output", str(tmp_path / "file")]) == 2
    assert_one_line(capsys, "is a file; give a folder")


def test_a_language_model_that_is_missing_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "demo"), "--pretrained", "xx"]) == 2
    assert_one_line(capsys, "xx: no such model folder, and no installed package brings a model of that name")
    assert not (tmp_path / "demo").exists()


def test_the_texts_are_clean_and_no_article_is_on_both_sides() -> None:
    train, test = load_topics()
    assert (len(train), len(test)) == (1943, 1000)
    assert set(train["topic"]) == set(test["topic"])
    assert set(test["topic"].value_counts()) == {100}
    assert not set(train["article"]) & set(test["article"])
    both = pd.concat([train, test])
    assert not both["text"].duplicated().any()
    assert both["text"].str.len().between(60, 250).all()


def test_a_draw_has_the_same_number_of_each_topic_and_comes_from_its_seed() -> None:
    train, _ = load_topics()
    drawn = draw_labelled(train, 10, seed=0)
    assert set(drawn["topic"].value_counts()) == {10}
    assert drawn["text"].isin(train["text"]).all()
    assert not drawn["text"].duplicated().any()
    assert drawn.equals(draw_labelled(train, 10, seed=0))
    assert not drawn.equals(draw_labelled(train, 10, seed=1))
