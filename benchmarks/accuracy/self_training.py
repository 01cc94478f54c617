"""What labels that models give each other are worth: self-training and co-training beside the same labels alone.

``python -m benchmarks.accuracy.self_training imdb --lm lm-imdb/ --labels 100 --draws 10``.

The learner is a logistic regression on the language model's pooled states, by default, so that many draws are possible;
co-training's two models see the maximum and the mean of the states. ``--learner classifier`` trains whole classifiers
with ``self_train``, a language model each (``--lm`` twice for co-training). All draws have one pool; the test texts are
never seen. Prints a table: the mean over the draws and the gain over round 0, which is training without taken labels.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.active_learning import C, Study
from benchmarks.accuracy.data import DATA_SETS, load
from benchmarks.accuracy.draws import draw_rows
from benchmarks.accuracy.models.logistic import fit_logistic
from benchmarks.accuracy.scores import SCORES
from ulmfit_fast import ClassifierConfig, SelfTrainingConfig, TrainedClassifier, finetune_classifier, self_train
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.training.self_training import Chosen, SelfTraining

WAYS = {
    "self-training, threshold 0.9": SelfTrainingConfig(threshold=0.9),
    "self-training, surest half": SelfTrainingConfig(),
    "self-training, threshold 0.9, not balanced": SelfTrainingConfig(threshold=0.9, balance=False),
    "two models, their mean": SelfTrainingConfig(),
    "co-training": SelfTrainingConfig(teacher="others"),
}
_WITH_TWO = ("two models, their mean", "co-training")


def by_regression(
    study: Study, rows: Sequence[int], config: SelfTrainingConfig, two: bool, draw: int
) -> tuple[float, float]:
    """The score of round 0 and of the last round."""
    labels = [study.labels[i] for i in rows]
    rest = np.setdiff1d(np.arange(len(study.texts)), rows)
    width = study.vectors.shape[1] // 3
    views = [slice(width, 2 * width), slice(2 * width, 3 * width)] if two else [slice(None)]
    task = SingleLabel(sorted(set(labels)))

    def train(place: int, number: int, chosen: Chosen | None) -> Any:
        view, taken = study.features[:, views[place]], labels
        features, weights = view[list(rows)], np.ones(len(rows))
        if chosen is not None:
            features = np.concatenate([features, view[rest[chosen.rows]]])
            taken = [*labels, *map(str, chosen.labels)]
            weights = np.concatenate([weights, chosen.confidence / config.labeled_weight])
        model, _ = fit_logistic(features, taken, draw, study.options.c)
        return place, model.fit(features, taken, sample_weight=weights)

    def predict(model: Any, texts: np.ndarray) -> Any:
        return model[1].predict_proba(study.features[rest[texts]][:, views[model[0]]])

    def tested(models: Sequence[Any]) -> float:
        mean = np.mean([m.predict_proba(study.test_features[:, views[place]]) for place, m in models], axis=0)
        return SCORES[study.metric](np.asarray(study.test_labels), task.decode(mean))

    kept: list[Any] = []

    def train_and_keep(place: int, number: int, chosen: Chosen | None) -> Any:
        model = train(place, number, chosen)
        kept.extend([model] if number == 0 else [])
        return model

    shares = {label: count / len(labels) for label, count in Counter(labels).items()}
    models, _ = SelfTraining(
        train_and_keep, predict, lambda _: task, None, config, models=len(views), texts=len(rest), shares=shares,
        seed=draw,
    ).run()  # fmt: skip
    return tested(kept), tested(models)


def by_classifier(
    study: Study, rows: Sequence[int], config: SelfTrainingConfig, folders: Sequence[Path], epochs: int, draw: int
) -> tuple[float, float]:
    """The same of whole classifiers."""
    labels = [study.labels[i] for i in rows]
    rest = np.setdiff1d(np.arange(len(study.texts)), rows)
    texts, more = [study.texts[i] for i in rows], [study.texts[i] for i in rest.tolist()]
    trained_by = ClassifierConfig(seed=draw, epochs=epochs)

    def tested(models: Sequence[TrainedClassifier]) -> float:
        each = [predict_probabilities(m.model, m.tokenizer, m.task, study.test_texts) for m in models]
        return SCORES[study.metric](np.asarray(study.test_labels), models[0].task.decode(np.mean(each, axis=0)))

    alone = [finetune_classifier(texts, labels, folder, trained_by, progress=False) for folder in folders]
    return tested(alone), tested(self_train(texts, labels, more, folders, config, trained_by, progress=False).models)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.self_training", description=__doc__)
    parser.add_argument("data_set", choices=DATA_SETS)
    parser.add_argument("--lm", type=Path, nargs="+", required=True, metavar="FOLDER", help="our language models")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pool", type=int, default=3000, help="texts, with the labelled ones")
    parser.add_argument("--tests", type=int, default=2000, help="test texts, drawn once")
    parser.add_argument("--words", type=int, help="read so many words of each text  [default: all]")
    parser.add_argument("--learner", choices=("regression", "classifier"), default="regression")
    parser.add_argument("--c", type=float, default=C, help="of the regression")
    parser.add_argument("--epochs", type=int, default=0, help="of the classifier")
    parser.add_argument("--cache", type=Path, default=Path("build/accuracy"), help="folder of vectors")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    folders, options.lm = options.lm, options.lm[0]  # the study's vectors are the first one's
    study = Study(load(options.data_set), options)
    print(f"| {options.labels} labels | round 0 | after {options.rounds} rounds | gain | draws that gain |")
    print("|---" * 5 + "|")
    for name, config in WAYS.items():
        config, two = replace(config, rounds=options.rounds), name in _WITH_TWO
        if options.learner == "classifier" and two and len(folders) < 2:
            continue
        before, after = [], []
        for draw in range(options.draws):
            rows = draw_rows(study.labels, options.labels, draw).tolist()
            if options.learner == "regression":
                scores = by_regression(study, rows, config, two, draw)
            else:
                scores = by_classifier(study, rows, config, folders if two else folders[:1], options.epochs, draw)
            before.append(scores[0])
            after.append(scores[1])
        gains = [b - a for a, b in zip(before, after, strict=True)]
        error = f" ± {statistics.stdev(gains) / len(gains) ** 0.5:.3f}" if len(gains) > 1 else ""
        means = f"{statistics.mean(before):.3f} | {statistics.mean(after):.3f} | {statistics.mean(gains):+.3f}{error}"
        print(f"| {name} | {means} | {sum(gain > 0 for gain in gains)} of {len(gains)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
