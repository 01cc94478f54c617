"""The accuracy benchmark on made-up data: the same draws for all models, each result once, tables from the lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.accuracy import results
from benchmarks.accuracy.draws import checksum, draw_rows
from benchmarks.accuracy.embeddings import EmbeddingCache
from benchmarks.accuracy.late_evidence import LateEvidence
from benchmarks.accuracy.models import Options, Probabilities, make
from benchmarks.accuracy.models.setfit import draw_pairs
from benchmarks.accuracy.reading import Reading
from benchmarks.accuracy.report import render
from tests.tiny import FINETUNE, PRETRAIN, make_task
from ulmfit_fast import pretrain_lm

LABELS = ["a"] * 700 + ["b"] * 250 + ["c"] * 50


def no_texts() -> list[str]:
    return []


@pytest.mark.parametrize("count", [3, 10, 99, 100, 999, 1_000])
def test_a_draw_has_its_share_of_every_class(count: int) -> None:
    rows = draw_rows(LABELS, count, 0)
    assert len(set(rows.tolist())) == count
    found = Counter(LABELS[i] for i in rows)
    for label, size in Counter(LABELS).items():
        assert found[label] >= 1
        assert abs(found[label] - size * count / 1_000) < 2


def test_draws_are_repeatable_and_differ() -> None:
    assert checksum(draw_rows(LABELS, 100, 0)) == checksum(draw_rows(LABELS, 100, 0))
    assert checksum(draw_rows(LABELS, 100, 0)) != checksum(draw_rows(LABELS, 100, 1))
    assert set(draw_rows(LABELS, 100, 0).tolist()) <= set(draw_rows(LABELS, 1_000, 0).tolist())
    with pytest.raises(ValueError, match=r"count must be 3 \(classes\) to 1,000"):
        draw_rows(LABELS, 2, 0)


def write_data(folder: Path) -> None:
    """What the data set ``trec6`` reads."""
    (folder / "trec6").mkdir(parents=True)
    for name, count, seed in (("train", 80, 0), ("test", 40, 1)):
        texts, labels = make_task(count, seed)
        pd.DataFrame({"text": texts, "label": labels}).to_csv(folder / f"trec6/{name}.csv.xz", index=False)


def run(data: Path, output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: a run forks, which a process with threads of torch cannot."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.accuracy", *arguments, "--results", str(output), "--cache", str(data)],
        cwd=Path(__file__).parents[1], env=os.environ | {"ULMFIT_FAST_DATA": str(data), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def lines_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "trec6.jsonl").read_text().splitlines()]


def test_command_appends_each_result_once_and_reports(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    texts, _ = make_task(200, 2)
    for direction in ("forward", "backward"):
        config = replace(PRETRAIN, direction=direction)
        pretrain_lm(texts, config, output=tmp_path / direction, progress=False)
    folders = [str(tmp_path / direction) for direction in ("forward", "backward")]
    common = ("trec6", "--draws", "2", "--models")
    commands = [
        (*common, "tfidf", "tfidf-c10", "--labels", "20", "all"),
        (*common, "ours", "ours-features", "--labels", "20", "--lm", *folders),
        (*common, "ours-linear", "--labels", "20", "--lm", folders[0]),
    ]
    for command in commands:
        finished = run(tmp_path / "data", tmp_path / "results", *command)
        assert finished.returncode == 0, finished.stderr
    lines = lines_of(tmp_path / "results")
    assert len(lines) == 2 * 2 * 2 + 2 * 2 + 2
    for labels in (20, 80):
        for draw in (0, 1):
            own = [line for line in lines if (line["labels"], line["draw"]) == (labels, draw)]
            assert len({line["rows"] for line in own}) == 1
    assert len({line["rows"] for line in lines}) == 4
    assert all(0 <= line["scores"]["error"] <= 0.8 and line["peak MB"] > 0 for line in lines)
    assert str(tmp_path) not in (tmp_path / "results/trec6.jsonl").read_text()

    again = run(tmp_path / "data", tmp_path / "results", *commands[0])
    assert again.stdout.count(": known") == 8
    assert len(lines_of(tmp_path / "results")) == len(lines)
    anew = run(tmp_path / "data", tmp_path / "results", *commands[0], "--again")
    assert anew.returncode == 0, anew.stderr
    assert len(lines_of(tmp_path / "results")) == len(lines) + 8
    assert len(results.read(tmp_path / "results/trec6.jsonl")) == len(lines)

    report = run(tmp_path / "data", tmp_path / "results", "report")
    assert report.returncode == 0, report.stderr
    table = (tmp_path / "results/README.md").read_text()
    row = next(line for line in table.splitlines() if line.startswith("| TF-IDF + logistic regression, C = 10 |"))
    expected = np.mean([x["scores"]["error"] for x in lines if x["model"] == "tfidf-c10" and x["labels"] == 20])
    assert f"{expected:.3f}" in row
    assert row.count("(2)") == 2

    wrong = run(tmp_path / "data", tmp_path / "results", *common, "ours", "--set", "epoch=2")
    assert wrong.returncode == 2
    assert wrong.stderr == "benchmarks.accuracy: ours needs --lm FOLDER\n"
    unknown = run(tmp_path / "data", tmp_path / "results", *common, "tfidf", "--labels", "20", "--set", "epoch=2")
    assert unknown.returncode == 1
    assert "--set epoch: this model knows none" in unknown.stderr


def line(model: str, score: float, draw: int = 0, rows: str = "x") -> dict[str, Any]:
    seconds = {f"{part} {kind}": 1.0 for part in ("train", "predict") for kind in ("seconds", "CPU seconds")}
    return seconds | {
        "data set": "imdb", "labels": 100, "draw": draw, "model": model, "settings": {}, "rows": rows,
        "scores": {"accuracy": score}, "test texts": 9, "train seconds from cache": 0.0,
        "predict seconds from cache": 0.0, "peak MB": 5.0, "load": 1.0, "command": "c", "machine": "m",
        "date": "d", "commit": "k", "versions": {"python": "3"},
    }  # fmt: skip


def test_report_shows_spread_losses_and_draws_that_differ() -> None:
    peers = [line("tfidf", 0.70, 0), line("tfidf", 0.80, 1)]
    behind = render([*peers, line("ours", 0.60, 0), line("ours", 0.70, 1)])
    assert "| **0.750** ± 0.071 (2) |" in behind
    assert "- 100 labels: ours 0.650, TF-IDF + logistic regression, C by cross-validation 0.750." in behind
    assert "Not comparable" not in behind
    assert "Ours is behind nowhere." in render([*peers, line("ours", 0.90, 0), line("ours", 0.70, 1)])
    assert "Ours has not run yet." in render(peers)
    assert "Not comparable, as the texts differ: 100 labels, draw 1." in render([*peers, line("ours", 0.9, 1, "y")])


def test_a_line_that_a_crash_cut_off_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "imdb.jsonl"
    results.append(path, line("tfidf", 0.7))
    with path.open("a") as file:
        file.write('{"data set": "im')
    assert len(results.read(path)) == 1
    results.append(path, line("ours", 0.8))
    assert [x["model"] for x in results.read(path).values()] == ["tfidf", "ours"]


def test_vectors_are_computed_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def encode(texts: list[str]) -> Any:
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts])

    first = EmbeddingCache(tmp_path / "e", encode)
    assert first.vectors(["bb", "a", "bb"])[:, 0].tolist() == [2, 1, 2]
    second = EmbeddingCache(tmp_path / "e", encode)
    assert second.vectors(["a", "ccc"])[:, 0].tolist() == [1, 3]
    assert sorted(asked) == ["a", "bb", "ccc"]
    assert first.waived_seconds == 0 < second.waived_seconds


def test_late_evidence_hides_a_review_at_a_place_of_its_own() -> None:
    paragraphs = [f"paragraph{i} " + "word " * 98 + "end" for i in range(900)]
    hidden = LateEvidence([f"REVIEW{i}" for i in range(60)], paragraphs, seed=0)
    places = []
    for i, document in enumerate(hidden):
        words = document.split()
        assert words.count(f"REVIEW{i}") == 1
        assert 2_000 <= len(words) <= 50_200
        places.append(words.index(f"REVIEW{i}") / len(words))
    assert min(places) < 0.2 < 0.8 < max(places)
    assert hidden[3] == LateEvidence(hidden.reviews, paragraphs, seed=0)[3]
    assert sum(hidden.subsets().values()).tolist() == [1] * 60  # type: ignore[attr-defined]  # sum() may be 0


class Recorder:
    """Remembers what it was given; predicts the share of texts that contain "x"."""

    classes = ("no", "yes")
    waived_seconds = 0.0

    def fit(self, texts: list[str], labels: list[str], unlabeled: Any, seed: int) -> None:
        self.texts, self.labels = texts, labels

    def predict_proba(self, texts: list[str]) -> Probabilities:
        found = np.array([float("x" in text) for text in texts])
        return np.stack([1 - found, found], axis=1)


def test_what_is_read_of_a_long_document() -> None:
    late = " ".join(["w"] * 2_000 + ["x"] * 2_000)
    first = Reading(Recorder(), "first-512")  # type: ignore[arg-type]
    assert first.predict_proba([late, "x"]).tolist() == [[1, 0], [0, 1]]
    chunks = Reading(Recorder(), "random-chunks")  # type: ignore[arg-type]
    chunks.fit([late, "x y"], ["yes", "no"], no_texts, 0)
    recorder: Any = chunks.model
    assert [len(text.split()) for text in recorder.texts] == [512] * 8 + [2]
    assert recorder.labels == ["yes"] * 8 + ["no"]
    assert 0 < chunks.predict_proba([late])[0, 1] < 1


SETTINGS = {"epochs": 8, "lr": 0.03, "drop_mult": 0.1, "unfreezing": "all", "discriminative_factor": 1.0, "bptt": 10}


def test_ours_from_raw_is_fine_tuned_once(tmp_path: Path) -> None:
    texts, labels = make_task(80, 0)
    tests, expected = make_task(40, 1)
    pretrain_lm(texts[:40], PRETRAIN, output=tmp_path / "lm", progress=False)
    settings = SETTINGS | {
        "lm.bptt": FINETUNE.bptt,
        "lm.batch_size": 4,
        "lm.min_frequency": 1,
        "valid_fraction": 0.2,
        "epochs": 14,
    }
    waived = []
    for _ in range(2):
        model = make("ours-pretrained", Options(settings, pretrained=(tmp_path / "lm",), cache=tmp_path / "cache"))
        model.fit(texts, labels, lambda: texts, 0)
        waived.append(model.waived_seconds)
        found = [model.classes[i] for i in model.predict_proba(tests).argmax(1)]
        assert np.mean([a == b for a, b in zip(found, expected, strict=True)]) > 0.8
    assert waived[0] == 0 < waived[1]
    assert len(list((tmp_path / "cache/language-models").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "package"), [("fasttext", "fasttext"), ("wordllama", "wordllama"), ("fastai", "fastai")]
)
def test_peers_learn_a_plain_task(name: str, package: str, tmp_path: Path) -> None:
    pytest.importorskip(package, reason=f"{package} is not installed: see benchmarks/accuracy/requirements.txt")
    texts, labels = make_task(80, 0)
    tests, expected = make_task(40, 1)
    options = Options()
    if name == "fastai":
        pretrain_lm(texts, PRETRAIN, output=tmp_path / "lm", progress=False)
        options = Options({"epochs": 10, "drop_mult": 0.1, "lr": 0.2, "batch_size": 8}, lm=(tmp_path / "lm",))
    model = make(name, options)
    model.fit(texts, labels, no_texts, 0)
    probabilities = model.predict_proba(tests)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-3)
    found = [model.classes[i] for i in probabilities.argmax(1)]
    assert np.mean([a == b for a, b in zip(found, expected, strict=True)]) > 0.8


def test_pairs_are_of_one_label_and_of_two_alike() -> None:
    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    pairs = list(draw_pairs(labels, 3, 0))
    assert Counter(same for _, _, same in pairs) == {True: 3 * 8, False: 3 * 8}
    assert all((labels[first] == labels[second]) == same for first, second, same in pairs)
    assert Counter(first for first, _, _ in pairs) == dict.fromkeys(range(8), 6)
    assert pairs != sorted(pairs)
