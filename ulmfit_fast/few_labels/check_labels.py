"""Labels that are probably wrong: each text is judged by a classifier that has not learned from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.self_train import Base, read_base
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.pipeline import finetune_classifier, labelled_dataset
from ulmfit_fast.tasks.label_errors import LabelErrors, find_label_errors
from ulmfit_fast.tasks.labels import Label, shown
from ulmfit_fast.tasks.task import Task, task_type
from ulmfit_fast.training.callbacks import EpochCallback
from ulmfit_fast.training.config import ClassifierConfig

NAME = "check_labels"
OUT_OF_FOLD, SAME_TEXT = "out of fold", "same text, other label"


@dataclass(frozen=True)
class Suspect:
    """A label that may be wrong.

    Args:
        place: of the text, from 0.
        label: what it is labelled.
        likely: what it more probably is.
        probability: of its label, by a classifier that has not learned from the text.
        likely_probability: of the other.
        reason: ``OUT_OF_FOLD``, or ``SAME_TEXT`` where an equal text has another label.
    """

    place: int
    label: Label
    likely: Label
    probability: float
    likely_probability: float
    reason: str


@dataclass(frozen=True)
class CheckedLabels:
    """What ``check_labels`` returns.

    Args:
        suspects: the least probable label first.
        share: the estimated share of wrong labels.
        joint: float64 [K, K], the estimated share of texts by what they are labelled and what they are.
        labels: in the order of ``joint``.
        probabilities: float32 [texts, K], out of fold.
    """

    suspects: list[Suspect]
    share: float
    joint: np.ndarray
    labels: list[Label]
    probabilities: np.ndarray


def check_labels(
    texts: Iterable[str],
    labels: Iterable[Any],
    base: Base = None,
    config: ClassifierConfig | None = None,
    *,
    folds: int = 5,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
    on_fold: Callable[[int, int], None] | None = None,
) -> CheckedLabels:
    """Find labels that are probably wrong.

    The texts are cut into folds; a classifier trained on the others predicts each. Equal texts are in one fold.

    Args:
        texts, labels: one label each.
        base: a language model, or None to start from scratch. A classifier that learned from these labels knows them.
        config: of each training.
        folds: trainings; more take longer and train on more.
        progress, on_epoch: as ``finetune_classifier``.
        on_fold: told of each fold that is through, and of how many there are.

    Raises:
        TypeError, InputError, TrainingDivergedError: as ``finetune_classifier``; a task without one label a text; a
            label with one text alone; a classifier as ``base``.
    """
    config = config or ClassifierConfig()
    if folds < 2:
        raise InputError(f"{NAME}: folds must be at least 2, got {folds}")
    start, known = read_base(base)
    if known is not None:
        raise InputError(
            f"{NAME}: a trained classifier may have learned these labels; give the language model below it"
        )
    labels = labels if hasattr(labels, "__len__") else list(labels)
    data = labelled_dataset(NAME, texts, labels, config)
    read: list[Any] = data.labels or []
    task = task_type(config.task, labels).made_for(read, config.task_options, "labels")
    if task.confidence(task.examples()) is None:
        raise InputError(f"{NAME}: the task {task.type} has no one label a text, whose probability could be low")
    fold = fold_of_texts(data.texts, read, folds, config.seed)
    probabilities = np.zeros((len(data.texts), len(task.labels)), np.float32)
    for number in range(int(fold.max()) + 1):
        held, kept = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        part = data.take(kept)
        trained = finetune_classifier(
            part.texts, part.labels or [], start, config, progress=progress, on_epoch=on_epoch
        )
        found = predict_probabilities(
            trained.model, trained.tokenizer, trained.task, [data.texts[i] for i in held.tolist()],
            progress=progress, precision=config.precision,
        )  # fmt: skip
        columns = [task.labels.index(label) for label in trained.labels]
        probabilities[held[:, None], columns] = found
        if on_fold is not None:
            on_fold(number + 1, int(fold.max()) + 1)
    given = task.encode(read, "labels").numpy()
    errors = find_label_errors(probabilities, given)
    suspects = _suspects(data.texts, task, given, probabilities, errors)
    return CheckedLabels(suspects, errors.share, errors.joint, task.labels, probabilities)


def fold_of_texts(texts: list[str], labels: list[Label], folds: int, seed: int) -> np.ndarray:
    """Each text's fold, int64 from 0: every label is spread over the folds evenly; equal texts go together.

    Raises:
        InputError: a label with one text alone (equal ones count once), which no classifier could know.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        places.setdefault(text, []).append(place)
    groups = list(places.values())
    of_label: dict[Label, list[int]] = {}
    for group in np.random.default_rng(seed).permutation(len(groups)).tolist():
        of_label.setdefault(labels[groups[group][0]], []).append(group)
    for label in labels:
        if len(of_label.get(label, ())) < 2:
            raise InputError(f"{NAME}: the label {shown(label)} has one text alone; leave it out, or label more")
    fold, following = np.empty(len(texts), np.int64), 0
    for own in of_label.values():  # each goes on where the one before stopped, so that folds are of one size
        for group in own:
            fold[groups[group]] = following % folds
            following += 1
    return np.unique(fold, return_inverse=True)[1].astype(np.int64)


def _suspects(
    texts: list[str], task: Task, given: np.ndarray, probabilities: np.ndarray, errors: LabelErrors
) -> list[Suspect]:
    """Those of the folds, and equal texts with several labels, whose less probable labels are suspects."""
    likely = dict(zip(errors.rows.tolist(), errors.likely.tolist(), strict=True))
    reasons = dict.fromkeys(likely, OUT_OF_FOLD)
    equal: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        equal.setdefault(text, []).append(place)
    for places in equal.values():
        own = {int(given[place]) for place in places}
        if len(own) > 1:
            best = max(own, key=lambda label: (probabilities[places[0], label], -label))
            for place in places:
                if given[place] != best:
                    likely[place], reasons[place] = best, SAME_TEXT
    found = [
        Suspect(
            place, task.labels[int(given[place])], task.labels[label], float(probabilities[place, given[place]]),
            float(probabilities[place, label]), reasons[place],
        )
        for place, label in likely.items()
    ]  # fmt: skip
    return sorted(found, key=lambda suspect: (suspect.probability, suspect.place))
