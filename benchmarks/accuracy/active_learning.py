"""What choosing the texts to label is worth: accuracy from 20 to 300 labels, beside labels drawn at random.

``python -m benchmarks.accuracy.active_learning imdb --lm lm-imdb/ --draws 5``, ``... report``.

All draws have one pool of training texts. A draw is a first batch of labels, the same for every strategy, and a seed. A
strategy then chooses batch after batch from the pool, and after each a learner is fitted to all labels so far and
tested. The learner is a logistic regression on the language model's pooled states, each divided by its deviation over
the pool, as in ``ULMFiTVectorizer``. It takes a moment, so that many draws are possible; ``--learner classifier``
fine-tunes the classifier instead. The first batch is random for
all but core-set and k-means++, which choose it, too.

A line a draw and strategy goes to ``benchmarks/results/active-learning/DATA_SET.jsonl``; the same command again runs
what is missing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.preprocessing import StandardScaler

from benchmarks.accuracy import results
from benchmarks.accuracy.command import run_or_report
from benchmarks.accuracy.data import DATA_SETS, DataSet, load
from benchmarks.accuracy.embeddings import EmbeddingCache
from benchmarks.accuracy.models.logistic import fit_logistic
from benchmarks.accuracy.models.ours_features import pooled_states
from benchmarks.accuracy.results import Line
from benchmarks.accuracy.runs import circumstances, versions, weights_checksum
from benchmarks.accuracy.scores import SCORES
from ulmfit_fast import ClassifierConfig, finetune_classifier
from ulmfit_fast.few_labels.active_learning import RANDOM, SPREAD, STRATEGIES, suggest
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.pooled_vectors import vectors_and_predictions
from ulmfit_fast.training.trained import TrainedLanguageModel

FOLDER = Path(__file__).parents[1] / "results" / "active-learning"
C = 0.01  # of the regression: the best for 20 to 500 labels of IMDb in a cross-validation, or within 0.02 of it
SIZES = (20, 40, 60, 80, 100, 150, 200, 300)
STUDIED = tuple(name for name in STRATEGIES if name != "disagreement")  # which needs several classifiers
Predictions = npt.NDArray[np.float64]
# What predicts the probabilities of the pool, and of the test texts; the classes.
Fitted = tuple[Callable[[], Predictions], Callable[[], Predictions], list[str]]


class Study:
    """A data set's pool and test texts, read once.

    Args:
        data: where they come from.
        options: sizes, learner, language model.
    """

    def __init__(self, data: DataSet, options: argparse.Namespace) -> None:
        random = np.random.default_rng([20_270_101, 0])
        self.rows = np.sort(random.permutation(len(data.texts))[: options.pool])
        self.texts = [_cut(data.texts[i], options.words) for i in self.rows.tolist()]
        self.labels = [data.labels[i] for i in self.rows.tolist()]
        tests = np.sort(np.random.default_rng(0).permutation(len(data.test_texts))[: options.tests])
        self.test_texts = [_cut(data.test_texts[i], options.words) for i in tests.tolist()]
        self.test_labels = [data.test_labels[i] for i in tests.tolist()]
        self.options, self.metric = options, data.metric
        loaded: list[TrainedLanguageModel] = []

        def encode(texts: list[str]) -> npt.NDArray[np.float32]:
            if not loaded:
                loaded.append(TrainedLanguageModel.load(options.lm))
            return pooled_states(loaded[0], texts)

        cache = EmbeddingCache(options.cache / "embeddings" / f"pooled-{weights_checksum(options.lm)}", encode)
        self.vectors, test_vectors = cache.vectors(self.texts), cache.vectors(self.test_texts)
        scaler = StandardScaler().fit(self.vectors)
        self.features, self.test_features = scaler.transform(self.vectors), scaler.transform(test_vectors)

    def run(self, strategy: str, draw: int) -> dict[str, float]:
        """The score after each number of labels."""
        sizes = [size for size in self.options.sizes if size <= len(self.texts)]
        chosen = self._first(strategy, sizes[0], draw)
        scores: dict[str, float] = {}
        for place, size in enumerate(sizes):
            pool, tests, classes = self._fit(chosen, draw)
            predicted = np.asarray(classes)[tests().argmax(1)]
            scores[str(size)] = SCORES[self.metric](np.asarray(self.test_labels), predicted)
            if place + 1 < len(sizes):
                chosen = [*chosen, *self._next(strategy, chosen, sizes[place + 1] - size, pool, draw)]
        return scores

    def _first(self, strategy: str, count: int, draw: int) -> list[int]:
        """At least one text of each class: with fewer no learner can begin. A user would go on until it is so."""
        name = strategy if strategy in SPREAD else RANDOM
        order = suggest(name, len(self.texts), vectors=self.vectors, seed=draw).rows.tolist()
        chosen = order[:count]
        missing = [label for label in sorted(set(self.labels)) if label not in {self.labels[i] for i in chosen}]
        for place, label in enumerate(missing):
            chosen[count - 1 - place] = next(i for i in order if self.labels[i] == label)
        return chosen

    def _next(
        self, strategy: str, chosen: list[int], count: int, pool: Callable[[], Predictions], draw: int
    ) -> list[int]:
        free = np.setdiff1d(np.arange(len(self.texts)), chosen)
        activated = None if strategy in (*SPREAD, RANDOM) else pool()[free][None]
        found = suggest(
            strategy, count, activated=activated, vectors=self.vectors[free], labelled=self.vectors[chosen],
            seed=draw * 1000 + len(chosen),
        )  # fmt: skip
        return free[found.rows].tolist()

    def _fit(self, chosen: list[int], draw: int) -> Fitted:
        labels = [self.labels[i] for i in chosen]
        if self.options.learner == "regression":
            model, _ = fit_logistic(self.features[chosen], labels, draw, self.options.c)
            return (
                lambda: model.predict_proba(self.features), lambda: model.predict_proba(self.test_features),
                list(model.classes_),
            )  # fmt: skip
        config = ClassifierConfig(seed=draw, epochs=self.options.epochs)
        trained = finetune_classifier([self.texts[i] for i in chosen], labels, self.options.lm, config, progress=False)
        one = Classifiers([(trained.model, trained.tokenizer, trained.task)])

        def predict(texts: list[str]) -> Predictions:
            return vectors_and_predictions(one, texts)[1][0]

        return lambda: predict(self.texts), lambda: predict(self.test_texts), [str(x) for x in trained.labels]


def _cut(text: str, words: int | None) -> str:
    return text if words is None else " ".join(text.split()[:words])


def benchmark(options: argparse.Namespace, arguments: list[str]) -> None:
    """Runs the strategies that have no result yet, a draw of all of them after the other."""
    path = options.results / f"{options.data_set}.jsonl"
    settings: dict[str, Any] = {
        "learner": options.learner, "pool": options.pool, "tests": options.tests, "words": options.words or 0,
        "sizes": list(options.sizes), "c": options.c, "scaled by": "pool",
        "lm": f"{options.lm.resolve().name} {weights_checksum(options.lm)}",
    }  # fmt: skip
    common = circumstances(arguments)
    common["command"] = common["command"].replace("benchmarks.accuracy", "benchmarks.accuracy.active_learning", 1)
    data = load(options.data_set)
    study: Study | None = None
    for draw in range(options.draws):
        for strategy in options.strategies:
            line: Line = {
                "data set": options.data_set, "labels": max(options.sizes), "draw": draw, "model": "ours-features",
                "settings": settings | {"strategy": strategy},
            }  # fmt: skip
            if results.key(line) in results.read(path):
                continue
            study = study or Study(data, options)
            start = time.perf_counter()
            scores = study.run(strategy, draw)
            seconds = time.perf_counter() - start
            results.append(path, line | {"scores": scores, "seconds": seconds, "versions": versions("ours")} | common)
            print(
                f"{strategy}, draw {draw}: {' '.join(f'{v:.3f}' for v in scores.values())}, {seconds:.0f} s", flush=True
            )


def report(folder: Path) -> str:
    """A table a data set and kind of run: the mean over the draws, and how often a strategy beats random choice."""
    parts = ["# Which texts to label next", ""]
    for path in sorted(folder.glob("*.jsonl")):
        kinds: dict[str, list[Line]] = {}
        for line in results.read(path).values():
            rest = {name: value for name, value in line["settings"].items() if name not in ("strategy", "sizes")}
            kinds.setdefault(", ".join(f"{name} {value}" for name, value in sorted(rest.items())), []).append(line)
        for kind, lines in kinds.items():
            parts += [f"## {path.stem}: {kind}", "", *_table(lines), ""]
            machines = sorted({f"{line['machine']}, {line['date']}, commit {line['commit']}" for line in lines})
            parts += [f"On {'; '.join(machines)}.", ""]
    return "\n".join(parts)


def _table(lines: list[Line]) -> list[str]:
    sizes = [str(size) for size in lines[0]["settings"]["sizes"] if str(size) in lines[0]["scores"]]
    of = {(line["settings"]["strategy"], line["draw"]): line["scores"] for line in lines}
    draws = sorted({draw for _, draw in of})
    rows = [f"| labels | {' | '.join(sizes)} | mean over the sizes, less random's |", "|---" * (2 + len(sizes)) + "|"]
    for strategy in STUDIED:
        own = [draw for draw in draws if (strategy, draw) in of]
        if not own:
            continue
        cells = [f"{statistics.mean(of[strategy, draw][size] for draw in own):.3f}" for size in sizes]
        pairs = [
            statistics.mean(of[strategy, draw][size] - of[RANDOM, draw][size] for size in sizes)
            for draw in own if (RANDOM, draw) in of and strategy != RANDOM
        ]  # fmt: skip
        gain = ""
        if pairs:
            error = f" ± {statistics.stdev(pairs) / len(pairs) ** 0.5:.3f}" if len(pairs) > 1 else ""
            gain = f"{statistics.mean(pairs):+.3f}{error} ({len(pairs)} draws)"
        rows.append(f"| {strategy} | {' | '.join(cells)} | {gain} |")
    return rows


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.active_learning", description=__doc__)
    parser.add_argument("data_set", choices=[*DATA_SETS, "report"], help="or: the tables of all results")
    parser.add_argument("--lm", type=Path, metavar="FOLDER", help="our language model, fine-tuned on the data set")
    parser.add_argument("--draws", type=int, default=5, help="of first labels")
    parser.add_argument("--pool", type=int, default=3000, help="texts to choose from")
    parser.add_argument("--tests", type=int, default=2000, help="test texts, drawn once")
    parser.add_argument("--words", type=int, help="read so many words of each text  [default: all]")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of labels")
    parser.add_argument("--strategies", nargs="+", choices=STUDIED, default=STUDIED)
    parser.add_argument("--learner", choices=("regression", "classifier"), default="regression")
    parser.add_argument("--c", type=float, default=C, help="of the regression")
    parser.add_argument("--epochs", type=int, default=0, help="of the classifier")
    parser.add_argument("--cache", type=Path, default=Path("build/accuracy"), help="folder of vectors")
    parser.add_argument("--results", type=Path, default=FOLDER, help="folder of the lines and the report")
    options = parser.parse_args(arguments)
    if options.data_set != "report" and options.lm is None:
        parser.error("--lm FOLDER is needed")
    options.sizes = tuple(sorted(options.sizes))
    return options


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    return run_or_report("benchmarks.accuracy.active_learning", options, arguments, benchmark, report)


if __name__ == "__main__":
    sys.exit(main())
