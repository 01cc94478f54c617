"""What a language model says of classes without a label, and how many labels that is worth.

``python -m benchmarks.accuracy.zero_shot imdb --lm lm-imdb/ --tests 1000 --words 100``, or ``topics`` (the ten of the
demonstration). The peer is a logistic regression on the pooled states of the same model, from more and more labels
drawn at random (mean of the draws): zero-shot is worth the labels with which it is passed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.accuracy.active_learning import C, Study
from benchmarks.accuracy.data import load
from benchmarks.accuracy.draws import draw_rows
from benchmarks.accuracy.label_words import TEMPLATES, words_of
from benchmarks.accuracy.models.logistic import fit_logistic
from benchmarks.accuracy.scores import SCORES
from ulmfit_fast import TrainedLanguageModel
from ulmfit_fast.few_labels.zero_shot import CALIBRATIONS, ZeroShotClassifier

LABELS = (10, 20, 50, 100, 200, 400)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy.zero_shot", description=__doc__)
    parser.add_argument("data_set", choices=TEMPLATES)
    parser.add_argument("--lm", type=Path, required=True, metavar="FOLDER", help="our language model")
    parser.add_argument("--draws", type=int, default=10, help="of the peer's labels")
    parser.add_argument("--pool", type=int, default=3000, help="texts that the peer's labels are drawn from")
    parser.add_argument("--tests", type=int, default=2000, help="test texts, drawn once")
    parser.add_argument("--words", type=int, help="read so many words of each text  [default: all]")
    parser.add_argument("--c", type=float, default=C, help="of the peer's regression")
    parser.add_argument("--cache", type=Path, default=Path("build/accuracy"), help="folder of vectors")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    study = Study(load(options.data_set), options)
    expected = np.asarray(study.test_labels)
    print("| labels | score |\n|---|---|")
    for count in LABELS:
        if not len(set(study.labels)) <= count <= len(study.texts):
            continue
        scores = []
        for draw in range(options.draws):
            rows = draw_rows(study.labels, count, draw)
            own = [study.labels[i] for i in rows.tolist()]
            model, _ = fit_logistic(study.features[rows], own, draw, options.c)
            scores.append(SCORES[study.metric](expected, model.predict(study.test_features)))
        print(f"| {count} | {statistics.mean(scores):.3f} |", flush=True)
    trained = TrainedLanguageModel.load(options.lm)
    words = words_of(options.data_set, study.labels)
    print("\n| no label: template | " + " | ".join(CALIBRATIONS) + " |\n|---" + "|---" * len(CALIBRATIONS) + "|")
    for templates in TEMPLATES[options.data_set]:
        cells = []
        for calibration in CALIBRATIONS:
            classifier = ZeroShotClassifier(trained, words, templates, calibration)
            if calibration == "texts":
                classifier.calibrate(study.test_texts[:200])  # their labels are not used
            predicted = classifier.predict(study.test_texts)
            cells.append(f"{SCORES[study.metric](expected, predicted):.3f}")
        print(f"| {' + '.join(templates)} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
