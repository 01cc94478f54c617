"""The command line from training to evaluation for each task, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.cli.command_line import SIZES, SMALL, assert_one_line
from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.cli.main import main
from ulmfit_fast.storage.model_folder import load_classifier
from ulmfit_fast.training.loop import best_record

TUNING = ["--epochs", "10", "--lr", "0.03", "--drop-mult", "0.1", "--unfreezing", "all", "--discriminative-factor", "1"]
WORDS = {"animal": ["dog", "cat"], "plant": ["tree", "rose"], "stone": ["rock", "gem"]}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each label has its words; the number, the stars and the answer follow from the labels."""
    random, rows = np.random.default_rng(0), []
    for _ in range(160):
        labels = [label for label in WORDS if random.random() < 0.4]
        words = [str(random.choice(WORDS[label])) for label in labels for _ in range(2)]
        words += ["the", "was", "it", "so"] * 2
        random.shuffle(words)
        flags = {label: int(label in labels) for label in WORDS}
        rows.append({
            "text": " ".join(words), "tags": "|".join(labels), **flags, "stars": len(labels) + 8,
            "number": 1000 + 50 * len(labels), "answer": "yes" if "stone" in labels else "no",
        })  # fmt: skip
    path = tmp_path_factory.mktemp("tasks") / "table.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def train(table: Path) -> Callable[..., Path]:
    """Trains a classifier on the table once for each list of options."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*options: str) -> Path:
        if options not in made:
            folder = table.parent / str(len(made))
            fixed = [*SIZES, *SMALL, *TUNING, "--valid-fraction", "0.3", "--output", str(folder)]
            assert main(["train", str(table), *fixed, *options]) == 0
            made[options] = folder
        return made[options]

    return run


def evaluated(table: Path, folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert main(["evaluate", str(table), "--model", str(folder), *options]) == 0
    return capsys.readouterr().out


def predicted(table: Path, folder: Path, *options: str) -> pd.DataFrame:
    output = table.parent / "predicted.csv"
    arguments = ["predict", str(table), "--model", str(folder), "--output", str(output), "--overwrite"]
    assert main([*arguments, *options]) == 0
    return pd.read_csv(output, keep_default_na=False)


TAGS = ("--task", "multi_label", "--label-column", "tags", "--label-delimiter", "|")
COLUMNS = tuple(part for label in WORDS for part in ("--label-column", label))


@pytest.mark.parametrize("options", [TAGS, TAGS[2:], COLUMNS])
def test_several_labels(
    options: tuple[str, ...], table: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*options)
    config = json.loads((folder / "config.json").read_text())
    assert config["task_type"] == "multi_label"
    assert set(config["task"]) == {"label_delimiter", "temperature", "thresholds"}
    written = predicted(table, folder, "--probabilities")
    added = [name for name in written.columns if name.startswith("pro") or name in ("prediction", "confidence")]
    assert added == ["prediction", *(f"probability:{label}" for label in WORDS)]
    delimiter = "|" if options is not COLUMNS else ";"
    right = written["prediction"] == written["tags"].str.replace("|", delimiter)
    assert right.mean() > 0.9
    columns = COLUMNS if options is COLUMNS else ("--label-column", "tags")
    share = re.findall(r"all labels right (\S+) on 160 texts", evaluated(table, folder, capsys, *columns))
    assert float(share[0]) == pytest.approx(right.mean(), abs=1e-4)
    loaded = ULMFiTClassifier.load(folder)
    assert [delimiter.join(each) for each in loaded.predict(written["text"].tolist())] == written["prediction"].tolist()


def test_a_number(table: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("--task", "regression", "--label-column", "number", "--metric", "mae")
    config = json.loads((folder / "config.json").read_text())
    assert config["task"]["mean"] == pytest.approx(1060, abs=15)
    written = predicted(table, folder)
    assert [*written.columns][-1] == "prediction"
    error = (written["prediction"] - written["number"]).abs().mean()
    assert error < 25
    found = re.findall(r"mean absolute error (\S+),", evaluated(table, folder, capsys, "--label-column", "number"))
    assert float(found[0]) == pytest.approx(error, rel=1e-3)
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    best = min(record["mae"] for record in history)
    assert best_record(history, lambda record: record["mae"])["mae"] == best  # type: ignore[index]
    assert "calibration" not in history[0]
    capsys.readouterr()
    for option in ("--probabilities", "--abstain=0.5"):
        assert (
            main(["predict", str(table), "--model", str(folder), "--output", str(table.parent / "x.csv"), option]) == 2
        )
        assert_one_line(capsys, f"{option.partition('=')[0]}: the task regression of ")


def test_classes_with_an_order(table: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = train("--task", "ordinal", "--label-column", "stars", "--epochs", "20", "--lr", "0.01")
    _, _, task = load_classifier(folder)
    assert (task.labels, task.outputs) == (["8", "9", "10", "11"], 3)
    written = predicted(table, folder, "--probabilities")
    error = (written["prediction"] - written["stars"]).abs().mean()
    assert error < 0.3
    assert (written["probability:8"] + written["probability:9"]).max() < 1.00001
    text = evaluated(table, folder, capsys, "--label-column", "stars")
    assert float(text.split()[-1]) == pytest.approx(error, abs=1e-4)


def test_two_classes_and_abstaining(
    table: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """What predict leaves out at a confidence is what evaluate says of it."""
    folder = train("--task", "binary", "--label-column", "answer", "--focal-gamma", "1")
    model, _, task = load_classifier(folder)
    assert (task.outputs, model.classes) == (1, 1)
    everything = predicted(table, folder)
    assert set(everything["prediction"]) == {"yes", "no"}
    level = 0.9
    text = evaluated(table, folder, capsys, "--label-column", "answer")
    count, coverage, right = re.findall(rf"^{level:.2f} +([\d,]+) +(\S+) +(\S+)$", text, re.MULTILINE)[0]
    some = predicted(table, folder, "--abstain", str(level))
    kept = some["prediction"] != ""
    assert (kept == (everything["confidence"] >= level)).all()
    assert (some["confidence"] == everything["confidence"]).all()
    assert (kept.sum(), kept.mean()) == (int(count), pytest.approx(float(coverage), abs=1e-4))
    if kept.any():
        assert (some["prediction"] == some["answer"])[kept].mean() == pytest.approx(float(right), abs=1e-4)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_abstaining_keeps_the_types(suffix: str, table: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    folder = train("--task", "binary", "--label-column", "answer", "--focal-gamma", "1")
    output = tmp_path / f"p{suffix}"
    for abstain, missing in (("0", 0), ("1", 160)):
        arguments = ["predict", str(table), "--model", str(folder), "--output", str(output), "--abstain", abstain]
        assert main([*arguments, "--overwrite"]) == 0
        read = pd.read_parquet(output) if suffix == ".parquet" else pd.read_json(output, lines=True)
        assert read["prediction"].isna().sum() == missing


def test_the_best_epoch_is_the_metric_s(table: Path, tmp_path: Path) -> None:
    """A classifier whose loss and F1 do not agree on the best epoch ends with the best F1, and its temperature."""
    folder = tmp_path / "clf"
    fixed = [*SIZES, *SMALL, *TUNING, "--lr", "0.2", "--valid-fraction", "0.3", "--output", str(folder)]
    assert main(["train", str(table), *fixed, "--label-column", "answer", "--metric", "f1_macro"]) == 0
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    best = max(history, key=lambda record: record["f1_macro"])
    assert json.loads((folder / "config.json").read_text())["task"] == best["calibration"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-column", "tags", "--label-column", "stars", "--task", "single_label"], "are for --task multi_label"),
        (["--task", "regression", "--label-column", "answer"], "table.csv: row 1: a finite number is needed, got "),
        (
            ["--task", "regression", "--label-column", "number", "--class-weight", "balanced"],
            "class_weight means nothing",
        ),
        (["--task", "binary", "--label-column", "stars"], "needs two labels, there are 4"),
        (["--task", "ordinal", "--label-column", "answer"], "needs labels that are numbers, got 'no'"),
        (
            ["--label-column", "answer", "--label-delimiter", ";", "--task", "binary"],
            "--label-delimiter does nothing here",
        ),
        (["--label-column", "answer", "--metric", "mae"], "metric 'mae' means nothing for the task single_label"),
        (["--label-column", "answer", "--metric", "auc"], "metric must be one of loss, accuracy, "),
    ],
)
def test_what_is_refused(
    options: list[str], message: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = [*SIZES, *SMALL, "--valid-fraction", "0.3", "--output", str(tmp_path / "clf")]
    assert main(["train", str(table), *fixed, *options]) == 2
    assert_one_line(capsys, message)


def test_a_metric_without_validation(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--label-column", "answer", "--metric", "f1_macro", "--output", str(tmp_path / "clf")]
    assert main(["train", str(table), *SIZES, *options]) == 2
    assert_one_line(capsys, "measured on validation texts, and there are none")


def test_several_labels_have_no_confidence(
    table: Path, train: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*TAGS)
    capsys.readouterr()
    output = str(table.parent / "none.csv")
    assert main(["predict", str(table), "--model", str(folder), "--output", output, "--abstain", "0.5"]) == 2
    assert_one_line(capsys, "--abstain: the task multi_label of ")


def test_going_on_with_several_labels(table: Path, train: Callable[..., Path], tmp_path: Path) -> None:
    """The classifier's own task holds without --task; labels that it knows stay, new ones come."""
    lines = table.read_text().splitlines()
    more = tmp_path / "more.csv"
    more.write_text("\n".join([lines[0], *(line.replace("animal", "beast") for line in lines[1:])]))
    output = tmp_path / "more"
    arguments = ["train", str(more), "--model", str(train(*TAGS)), "--label-column", "tags", "--label-delimiter", "|"]
    assert main([*arguments, "--output", str(output), "--epochs", "1"]) == 0
    assert load_classifier(output)[2].labels == ["animal", "beast", "plant", "stone"]
