"""The data sets: labelled texts to draw from, unlabelled texts, test texts. None of them is in the repository."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.accuracy.late_evidence import LateEvidence, read_paragraphs
from ulmfit_fast.demo.topics import load_topics

PASSAGE_WORDS = 2_000


@dataclass
class DataSet:
    """What all models get of a data set.

    ``unlabeled`` are the texts that a language model may be fine-tuned on; no test text is among them. ``subsets`` are
    parts of the test texts with a score of their own.
    """

    texts: Sequence[str]
    labels: list[str]
    test_texts: Sequence[str]
    test_labels: list[str]
    metric: str = "accuracy"
    language: str = "en"
    unlabeled: Callable[[], list[str]] = list
    subsets: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


def data_folder() -> Path:
    """Raises FileNotFoundError where there is none."""
    folder = Path(os.environ.get("ULMFIT_FAST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no data in {folder}: set ULMFIT_FAST_DATA to the folder that holds imdb/, trec6/, ..."
        )
    return folder


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)  # a text may be "null"


def without(texts: Sequence[str], others: Sequence[str]) -> list[str]:
    """The texts that are not, to the character, among the others."""
    known = set(others)
    return [text for text in texts if text not in known]


def imdb(folder: Path) -> DataSet:
    train, test = _read(folder / "imdb/train.csv.xz"), _read(folder / "imdb/test.csv.xz")
    tests = test["text"].tolist()

    def unlabeled() -> list[str]:
        return without(train["text"].tolist() + _read(folder / "imdb/unsup.csv.xz")["text"].tolist(), tests)

    return DataSet(
        train["text"].tolist(), train["label"].tolist(), tests, test["label"].tolist(), unlabeled=unlabeled
    )  # fmt: skip


def trec6(folder: Path) -> DataSet:
    return _plain(folder / "trec6", ["test"], "error")


def cola(folder: Path) -> DataSet:
    return _plain(folder / "cola", ["test_in_domain", "test_out_of_domain"], "MCC")


def _plain(folder: Path, tests: list[str], metric: str, language: str = "en") -> DataSet:
    """train.csv.xz beside one or several files of test texts, which are scored alone, too."""
    train, parts = _read(folder / "train.csv.xz"), [_read(folder / f"{name}.csv.xz") for name in tests]
    texts, test = train["text"].tolist(), pd.concat(parts)
    part = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    subsets = {name.removeprefix("test_").replace("_", " "): part == i for i, name in enumerate(tests)}
    return DataSet(
        texts, train["label"].tolist(), test["text"].tolist(), test["label"].tolist(), metric, language,
        lambda: without(texts, test["text"].tolist()), subsets if len(parts) > 1 else {},
    )  # fmt: skip


def chnsenticorp(folder: Path) -> DataSet:
    data = _plain(folder / "chnsenticorp", ["test"], "accuracy", "zh")
    known = set(data.texts)
    data.subsets = {"texts not in train": np.array([text not in known for text in data.test_texts])}
    return data


def passages(text: str, words: int = PASSAGE_WORDS) -> list[str]:
    """Consecutive passages of so many words; what is left at the end is no passage."""
    split = text.split()
    return [" ".join(split[i : i + words]) for i in range(0, len(split) - words + 1, words)]


def novels(folder: Path, whole: bool) -> DataSet:
    """Who wrote it: two novels of each author to train on, another one to test."""

    def read(name: str) -> tuple[list[str], list[str]]:
        table = _read(folder / f"novels/{name}.csv.xz")
        pieces = [[text.removeprefix("\ufeff")] if whole else passages(text) for text in table["text"]]
        labels = [[label] * len(own) for label, own in zip(table["label"], pieces, strict=True)]
        return list(chain.from_iterable(pieces)), list(chain.from_iterable(labels))

    texts, labels = read("train")
    test_texts, test_labels = read("test")
    return DataSet(texts, labels, test_texts, test_labels, unlabeled=lambda: texts)


def late_evidence(folder: Path, test_texts: int = 1_000) -> DataSet:
    """IMDb reviews hidden in Wikipedia: see LateEvidence. The first of each label's test reviews are the test."""
    train, test = _read(folder / "imdb/train.csv.xz"), _read(folder / "imdb/test.csv.xz")
    test = test.groupby("label").sample(test_texts // 2, random_state=0)
    paragraphs = read_paragraphs(folder / "enwiki/enwiki.txt.xz")
    half = len(paragraphs) // 2  # no paragraph stands in training and test texts
    hidden = LateEvidence(train["text"].tolist(), paragraphs[:half], seed=0)
    hidden_tests = LateEvidence(test["text"].tolist(), paragraphs[half:], seed=1)
    return DataSet(
        hidden, train["label"].tolist(), hidden_tests, test["label"].tolist(), unlabeled=imdb(folder).unlabeled,
        subsets=hidden_tests.subsets(),
    )  # fmt: skip


def topics(_: Path) -> DataSet:
    """The ten topics of the demonstration, which the package brings: sentences of Wikipedia."""
    train, test = load_topics()
    texts = train["text"].tolist()
    return DataSet(
        texts, train["topic"].tolist(), test["text"].tolist(), test["topic"].tolist(), unlabeled=lambda: texts
    )  # fmt: skip


DATA_SETS: dict[str, Callable[[Path], DataSet]] = {
    "imdb": imdb,
    "trec6": trec6,
    "cola": cola,
    "chnsenticorp": chnsenticorp,
    "novels": partial(novels, whole=False),
    "novels-whole": partial(novels, whole=True),
    "late-evidence": late_evidence,
    "topics": topics,
}
METRICS = {"trec6": "error", "cola": "MCC"}  # of the others: accuracy


def load(name: str) -> DataSet:
    """A data set from the folder that ULMFIT_FAST_DATA names."""
    return DATA_SETS[name](data_folder())
