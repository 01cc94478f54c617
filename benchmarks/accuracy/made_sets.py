"""Several labels and a number, predicted from texts made by a law: ours beside linear models of TF-IDF.

``python -m benchmarks.accuracy.made_sets [--draws 3]`` prints a table; some minutes a draw on one core.

A text is filler, and among it phrases. A phrase names a word of a label (or of praise or blame), and may turn it round
with a word of negation, up to two words before it. What counts is therefore a matter of words in order, which a bag of
words sees only in part: the law is kind to a model that reads. Without negations it is kind to counting words.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score, mean_absolute_error, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MultiLabelBinarizer

from ulmfit_fast import ClassifierConfig, PretrainConfig, finetune_classifier, pretrain_lm
from ulmfit_fast.inference.prediction import predict_probabilities

LABELS = 20
WORDS_OF_A_LABEL = 6
RAREST, MOST_FREQUENT = 0.01, 0.25  # shares of the texts that have a label
FLIPPED = 0.01  # of all answers, whether a text has a label, in the texts to train and validate on
NEGATIONS, BETWEEN = ("no", "not", "never", "without"), ("any", "real", "such", "much", "the")
FILLER = 400  # words, their frequencies by Zipf's law

TRAIN, VALID, TEST, UNLABELLED = 2000, 500, 1500, 4000
SIZES = {"embedding_size": 64, "hidden_size": 128, "num_layers": 1, "min_frequency": 2}
PRETRAIN = PretrainConfig(**SIZES, epochs=4, batch_size=16, lr=1e-2, drop_mult=0.2)
CLASSIFY = ClassifierConfig(
    **SIZES, epochs=16, batch_size=32, lr=1e-2, drop_mult=0.3, discriminative_factor=1.3, unfreezing="all"
)


@dataclass(frozen=True)
class MadeSet:
    """Texts and what is to be predicted of each: a list of labels, or a number."""

    texts: list[str]
    targets: list

    def split(self, *counts: int) -> list[MadeSet]:
        ends = np.cumsum((0, *counts)).tolist()
        return [MadeSet(self.texts[a:b], self.targets[a:b]) for a, b in pairwise(ends)]


def _filler(random: np.random.Generator, count: int) -> list[str]:
    rank = np.arange(1, FILLER + 1)
    return [f"word{i}" for i in random.choice(FILLER, count, p=(1 / rank) / (1 / rank).sum())]


def _negated(random: np.random.Generator, word: str) -> list[str]:
    between = [str(random.choice(BETWEEN)) for _ in range(random.integers(0, 3))]
    return [str(random.choice(NEGATIONS)), *between, word]


def _text(random: np.random.Generator, phrases: list[list[str]]) -> str:
    parts = [[word] for word in _filler(random, int(random.integers(15, 40)))] + phrases
    return " ".join(word for place in random.permutation(len(parts)) for word in parts[place])


def several_labels(count: int, negations: bool, seed: int, flipped: float = 0.0) -> MadeSet:
    """Texts with 0 to 20 labels, the most frequent 25 times as frequent as the rarest.

    Args:
        count: texts.
        negations: whether words of labels that a text has not stand in it, negated.
        seed: draws everything.
        flipped: share of the answers that are wrong, of each label in proportion to its frequency.
    """
    random, texts, targets = np.random.default_rng(seed), [], []
    shares = np.geomspace(MOST_FREQUENT, RAREST, LABELS)
    for _ in range(count):
        has = random.random(LABELS) < shares
        phrases = []
        for label in range(LABELS):
            word = f"topic{label}x{random.integers(WORDS_OF_A_LABEL)}"
            if has[label]:
                phrases.append([word])
            elif negations and random.random() < shares[label]:
                phrases.append(_negated(random, word))
        texts.append(_text(random, phrases))
        has ^= random.random(LABELS) < flipped * shares / shares.mean()
        targets.append([f"label{label:02}" for label in np.flatnonzero(has)])
    return MadeSet(texts, targets)


def scores(count: int, negations: bool, seed: int, spread: float = 0.5) -> MadeSet:
    """Texts whose score is 50, the sum of 3 to 8 opinions, each worth -3 to 3, and noise.

    "very" doubles an opinion. A word of negation turns it round.

    Args:
        count: texts.
        negations: whether there are such words.
        seed: draws everything.
        spread: of the noise.
    """
    random, texts, targets = np.random.default_rng(seed), [], []
    worth = np.linspace(-3, 3, 24)
    for _ in range(count):
        total, phrases = 50.0, []
        for _ in range(random.integers(3, 9)):
            opinion = int(random.integers(len(worth)))
            value, phrase = worth[opinion], [f"opinion{opinion}"]
            if random.random() < 0.25:
                value, phrase = 2 * value, ["very", *phrase]
            if negations and random.random() < 0.4:
                value, phrase = -value, [*_negated(random, "")[:-1], *phrase]
            total += value
            phrases.append(phrase)
        texts.append(_text(random, phrases))
        targets.append(total + random.normal() * spread)
    return MadeSet(texts, targets)


def ours(train: MadeSet, valid: MadeSet, test: MadeSet, unlabelled: list[str], task: str, seed: int) -> np.ndarray:
    """Predictions of the three stages; the validation texts choose the epoch and, for labels, the thresholds."""
    config = ClassifierConfig(**{
        **{name: getattr(CLASSIFY, name) for name in CLASSIFY.__dataclass_fields__}, "task": task, "seed": seed,
        "metric": "f1_macro" if task == "multi_label" else "loss",
    })  # fmt: skip
    language_model = pretrain_lm([*train.texts, *unlabelled], PRETRAIN, progress=False)
    trained = finetune_classifier(
        train.texts, train.targets, language_model, config, valid_texts=valid.texts, valid_labels=valid.targets,
        progress=False,
    )  # fmt: skip
    activated = predict_probabilities(trained.model, trained.tokenizer, trained.task, test.texts)
    return trained.task.decode(activated)


def tfidf(train: MadeSet, valid: MadeSet, test: MadeSet, task: str) -> np.ndarray:
    """Predictions of words and pairs of words; the validation texts choose the strength of the penalty and, for labels,
    thresholds, as they do for ours.
    """
    from ulmfit_fast.tasks.thresholds import fit_thresholds

    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    found: list[tuple[float, np.ndarray]] = []
    if task == "regression":
        for strength in (0.03, 0.1, 0.3, 1.0, 3.0):
            model = make_pipeline(vectors, Ridge(alpha=strength)).fit(train.texts, train.targets)
            found.append((-mean_absolute_error(valid.targets, model.predict(valid.texts)), model.predict(test.texts)))
        return max(found, key=lambda pair: pair[0])[1]
    names = MultiLabelBinarizer().fit([*train.targets, *valid.targets])
    for strength in (1.0, 10.0, 100.0):
        each = OneVsRestClassifier(LogisticRegression(C=strength, max_iter=1000))
        model = make_pipeline(vectors, each).fit(train.texts, names.transform(train.targets))
        held_out, has = model.predict_proba(valid.texts).astype(np.float32), names.transform(valid.targets) == 1
        thresholds = fit_thresholds(held_out, has)
        score = f1_score(has, held_out >= thresholds, average="macro", zero_division=0.0)
        has_test = model.predict_proba(test.texts).astype(np.float32) >= thresholds
        found.append((score, np.array(names.inverse_transform(has_test), dtype=object)))
    return max(found, key=lambda pair: pair[0])[1]


def _f1(test: MadeSet, predicted: np.ndarray) -> dict[str, float]:
    names = MultiLabelBinarizer().fit(test.targets)
    pair = names.transform(test.targets), names.transform(predicted)
    return {f"F1 {kind}": float(f1_score(*pair, average=kind, zero_division=0.0)) for kind in ("macro", "micro")}


def _errors(test: MadeSet, predicted: np.ndarray) -> dict[str, float]:
    return {"MAE": float(mean_absolute_error(test.targets, predicted)), "R2": float(r2_score(test.targets, predicted))}


def compare(task: str, negations: bool, seed: int) -> dict[str, dict[str, float]]:
    """Scores by method of one draw."""
    make: Callable[..., MadeSet] = several_labels if task == "multi_label" else scores
    noise = {"flipped": FLIPPED} if task == "multi_label" else {}
    labelled = make(TRAIN + VALID, negations, seed * 10, **noise)
    train, valid = labelled.split(TRAIN, VALID)
    test, unlabelled = make(TEST, negations, seed * 10 + 1), make(UNLABELLED, negations, seed * 10 + 2).texts
    measure = _f1 if task == "multi_label" else _errors
    return {
        "ours": measure(test, ours(train, valid, test, unlabelled, task, seed)),
        "TF-IDF": measure(test, tfidf(train, valid, test, task)),
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--draws", type=int, default=3)
    draws = options.parse_args().draws
    print(f"| task | negations | method | scores, mean of {draws} draws (lowest to highest) | seconds a draw |")
    print("|---|---|---|---|---|")
    for task in ("multi_label", "regression"):
        for negations in (True, False):
            begin = time.perf_counter()
            found = [compare(task, negations, seed) for seed in range(draws)]
            seconds = (time.perf_counter() - begin) / draws
            for method in found[0]:
                shown = [
                    f"{name} {statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
                    for name in found[0][method]
                    for values in [[draw[method][name] for draw in found]]
                ]
                print(f"| {task} | {negations} | {method} | {', '.join(shown)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
