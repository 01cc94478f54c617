"""``train-many``: several tables, a classifier's folder each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from tests.tiny import make_task
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.cli.train_many import _of
from ulmfit_fast.training import history

QUICK = [*SMALL, "--epochs", "2"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mood.csv (text, label), reviews.csv (body, points) and tags.csv (text, tags)."""
    folder = tmp_path_factory.mktemp("data")
    write_task(folder / "mood.csv", 60)
    texts, _ = make_task(50, seed=2)
    words = [text.split() for text in texts]
    pd.DataFrame({"body": texts, "points": [each.count("the") for each in words]}).to_csv(folder / "reviews.csv")
    tags = ["|".join(sorted({"film", "story"} & set(each))) for each in words]
    pd.DataFrame({"text": texts, "tags": tags}).to_csv(folder / "tags.csv")
    return folder


def test_values_of_one_table() -> None:
    values = ["regression", "topic=single_label", "a=b"]
    assert _of("topic", ["topic", "stars"], values) == ["single_label"]
    assert _of("stars", ["topic", "stars"], values) == ["regression", "a=b"]


def test_three_tables(
    data: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with its columns, task and metric; then each folder is a classifier to every command."""
    out = tmp_path / "out"
    arguments = [
        "train-many", "--table", f"mood={data}/mood.csv", "--table", f"points={data}/reviews.csv", "--table",
        f"tags={data}/tags.csv", "--text-column", "points=body", "--label-column", "points=points", "--task",
        "points=regression", "--metric", "points=mae", "--label-column", "tags=tags", "--label-delimiter", "tags=|",
        "--valid", f"mood={data}/mood.csv", "--valid-fraction", "0.2", "--sampling", "square-root",
        "--model", f"{models}/lm", "--output", str(out), *QUICK,
    ]  # fmt: skip
    capsys.readouterr()
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert captured.out == f"a classifier each in {out}/mood, {out}/points, {out}/tags\n"
    assert [line.split(":")[0] for line in captured.err.splitlines() if "loss" in line] == [
        line for epoch in (1, 2) for line in (f"multi-task, epoch {epoch}", "  mood", "  points", "  tags")
    ]
    assert "mae" in next(line for line in captured.err.splitlines() if line.startswith("  points"))
    assert {path.name for path in out.iterdir()} == {
        "config.json", "history.jsonl", "curves.png", "checkpoint.safetensors", "mood", "points", "tags"
    }  # fmt: skip
    tasks = {name: ULMFiTClassifier.load(out / name).task_ for name in ("mood", "points", "tags")}
    assert {name: task.type for name, task in tasks.items()} == {
        "mood": "single_label", "points": "regression", "tags": "multi_label"
    }  # fmt: skip
    assert tasks["tags"].labels == ["film", "story"]
    for name, table, columns in (("mood", "mood", []), ("points", "reviews", ["--text-column", "body"])):
        predictions = tmp_path / f"{name}.csv"
        assert main(["predict", f"{data}/{table}.csv", "--model", str(out / name), "--output", str(predictions),
                     *columns]) == 0  # fmt: skip
        assert len(pd.read_csv(predictions)) in (50, 60)
    assert (out / "points" / "curves.png").stat().st_size > 1000
    records = [json.loads(line) for line in (out / "points" / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    capsys.readouterr()
    assert main(["evaluate", f"{data}/mood.csv", "--model", str(out / "mood")]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["info", str(out)]) == 0
    assert capsys.readouterr().out.count(": classifier\n") == 3
    capsys.readouterr()
    assert main(["predict", f"{data}/mood.csv", "--model", str(out), "--output", str(tmp_path / "p.csv")]) == 2
    assert_one_line(capsys, "holds classifiers of several tables; give one of its folders: mood, points, tags")
    one = ["--output", str(tmp_path / "one")]
    for command in (
        ["evaluate", f"{data}/mood.csv", "--model", str(out)], ["convert", str(out), "--to", "fastai", *one],
        ["train", f"{data}/mood.csv", "--model", str(out), *one], ["push", str(out), "me/it"],
    ):  # fmt: skip
        assert main(command) == 2
        assert_one_line(capsys, "holds classifiers of several tables")
    assert main(arguments) == 2
    assert_one_line(capsys, "already holds a model")
    monkeypatch.setattr(history, "plot_curves", lambda *_: b"")
    more = ["train", f"{data}/reviews.csv", "--text-column", "body", "--label-column", "points", "--task", "regression"]
    # One's encoder begins another task.
    assert main([*more, "--model", str(out / "mood"), "--output", str(tmp_path / "more"), *QUICK]) == 0
    assert ULMFiTClassifier.load(tmp_path / "more").task_.type == "regression"


def test_language_model_first_and_on(data: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "plot_curves", lambda *_: b"")
    pd.DataFrame({"text": ["okapi okapi"] * 9}).to_csv(tmp_path / "more.csv")
    out = tmp_path / "out"
    arguments = [
        "train-many", "--table", f"mood={data}/mood.csv", "--table", f"again={data}/mood.csv", "--pretrained",
        f"{models}/lm", "--unlabeled", f"{tmp_path}/more.csv", "--lm-epochs", "1", "--output", str(out), *QUICK,
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "okapi" in (out / "language_model" / "tokenizer.json").read_text()
    first = ULMFiTClassifier.load(out / "mood").predict_proba(["a fine film"])
    assert main([*arguments, "--resume"]) == 0  # nothing is left to do
    assert np.array_equal(ULMFiTClassifier.load(out / "mood").predict_proba(["a fine film"]), first)


def test_what_is_refused(data: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mood, out = f"mood={data}/mood.csv", tmp_path / "out"
    two = ["--table", mood, "--table", f"again={data}/mood.csv"]
    capsys.readouterr()
    for options, message in (
        (["--table", mood], "give two tables or more, got 1"),
        (["--table", f"{data}/mood.csv"], "give a name and a file, such as --table topic=topics.csv"),
        (["--table", mood, "--table", mood], "mood was given before"),
        ([*two, "--valid", mood.replace("mood=", "word=")], "there is no --table word="),
        ([*two, "--task", "mood=binary", "--task", "mood=ordinal"], "table mood has binary and ordinal; give one"),
        ([*two, "--task", "moot=binary"], "task must be one of"),
        ([*two, "--label-delimiter", ";", "--task", "single_label"], "--label-delimiter does nothing here"),
        ([*two, "--metric", "again=accuracy"], "table again: metric 'accuracy' is measured on validation texts"),
        ([*two, "--unlabeled", f"{data}/mood.csv"], "--unlabeled does nothing here"),
        ([*two, "--model", f"{models}/lm", "--hidden-size", "8"], "--hidden-size does nothing here"),
        (["--table", mood, "--table", f"../x={data}/mood.csv"], "cannot have the name '../x'"),
        (["--table", mood, "--table", f"gone={data}/gone.csv"], "gone.csv"),
    ):
        assert main(["train-many", *options, "--output", str(out)]) == 2
        assert_one_line(capsys, message)
        assert not list(out.glob("*.json"))
    assert main(["train-many", *two, "--output", str(out), *SIZES, "--epochs", "1", "--no-calibrate"]) == 0
