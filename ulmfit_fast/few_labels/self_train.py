"""Self-training and co-training from texts to models: the stages, the rounds, and what is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.device import choose_device
from ulmfit_fast.core.distributed import current
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.few_labels.features import Features
from ulmfit_fast.few_labels.label_words import TEMPLATES, LabelWords, check_templates, words_of_labels
from ulmfit_fast.few_labels.teacher import Teacher, Vectors, activated
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.pipeline import finetune_classifier, labelled_dataset
from ulmfit_fast.storage.both_directions import join, members
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import read_config, remove_model, remove_run, save_model
from ulmfit_fast.storage.output_folder import output_folder
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.metrics import LOSS, METRICS
from ulmfit_fast.tasks.task import task_type
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.tasks.weak_labels import combine
from ulmfit_fast.text.tokenizer import DIRECTIONS, Tokenizer
from ulmfit_fast.training.callbacks import Callback, EpochCallback
from ulmfit_fast.training.config import ClassifierConfig
from ulmfit_fast.training.history import History
from ulmfit_fast.training.self_training import (
    AUTO,
    BOTH,
    CLASSIFIER,
    PROBE,
    Chosen,
    Round,
    SelfTraining,
    SelfTrainingConfig,
)
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

NAME = "self_train"
Base = str | Path | TrainedLanguageModel | TrainedClassifier | None


@dataclass(frozen=True)
class SelfTrained:
    """What ``self_train`` returns.

    Args:
        models: one for each base. Together they predict by the mean of their probabilities.
        rounds: what each round did.
        folders: that the models were written to.
    """

    models: list[TrainedClassifier]
    rounds: list[Round]
    folders: list[Path]


def self_train(
    texts: Iterable[str],
    labels: Iterable[Any],
    unlabeled: Iterable[str],
    bases: Base | Sequence[Base] = None,
    config: SelfTrainingConfig | None = None,
    classifier_config: ClassifierConfig | None = None,
    *,
    label_words: LabelWords | None = None,
    templates: Sequence[str] | None = None,
    weak_labels: Mapping[str, Sequence[Any]] | None = None,
    accuracies: Mapping[str, float] | None = None,
    sample_weight: Any = None,
    class_weight: Mapping[Label, float] | None = None,
    valid_texts: Iterable[str] | None = None,
    valid_labels: Iterable[Any] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
    on_round: Callable[[Round], None] | None = None,
    callbacks: Sequence[Callback] = (),
) -> SelfTrained:
    """Classifiers that learn from labelled texts and from their own labels of unlabelled ones.

    Args:
        texts, labels: one label each.
        unlabeled: texts like them, which get labels.
        bases: what ``finetune_classifier`` goes on with: a language model, or several (forward and backward, words and
            subwords), each of which becomes a model. A folder of both directions is two. None: from scratch.
        config: how labels are taken.
        classifier_config: of each training.
        label_words: for each label one word or several that a language model may expect after a text. Its probe then
            learns from how much it expects them, and labels first alone. Of several language models those that read
            backward do without.
        templates: sentences with ``{text}`` and ``{label}`` for these words. None: "{text} It was {label}."
        weak_labels: by the name of a source, a label for each of ``unlabeled``, None where it has none. The first
            training learns from them, too, each text counting as the label is probable.
        accuracies: how often sources are right, as in ``tasks.weak_labels.combine``.
        sample_weight, class_weight, valid_texts, valid_labels, progress, on_epoch, callbacks: as
            ``finetune_classifier``. With validation texts the best round counts, by ``classifier_config.metric``, or by
            the Brier score where that is the loss. A round in which a probe labels alone has no score.
        output: folder to write when all is done: of one model its folder, of both directions a folder of both, of other
            models their folders 1, 2, ...
        overwrite: replace what ``output`` holds.
        on_round: told of each round.

    Raises:
        TypeError, InputError, TrainingDivergedError: as ``finetune_classifier``; a task without confidence (several
            labels, a number); no unlabelled text; co-training with one model; ``label_words`` that do not name each
            label, or without a probe to use them.

    Source: Yarowsky, 1995 (self-training); Blum and Mitchell, 1998 (co-training); Zou et al., arXiv 1810.07911 (a share
        of each class).
    """
    config, trained_by = config or SelfTrainingConfig(), classifier_config or ClassifierConfig()
    if current().size > 1:
        raise InputError(f"{NAME}: is for one process; call it outside of joined()")
    labels = labels if hasattr(labels, "__len__") else list(labels)
    known = [read_base(base, trained_by.device) for base in _each(bases)]
    data = labelled_dataset(
        NAME, texts, labels, trained_by, class_weight=class_weight, known=known[0][1], weights=sample_weight,
        valid_texts=valid_texts, valid_labels=valid_labels,
    )  # fmt: skip
    kind = task_type(trained_by.task, labels, known[0][1])
    more = as_texts(NAME, unlabeled, "unlabeled")
    if not more:
        raise InputError(f"{NAME}: unlabeled is empty; self-training needs texts without labels")
    of_loss = trained_by.task_options
    if class_weight is not None:
        of_loss = replace(of_loss, class_weight=class_weight)
    task = kind.made_for(data.labels or [], of_loss, "labels", known[0][1])
    if task.confidence(task.examples()) is None:
        raise InputError(f"{NAME}: the task {task.type} has no confidence to choose labels by; use finetune_classifier")
    counts = Counter(data.labels or [])
    shares = {label: count / len(data.texts) for label, count in counts.items()}
    weak = None if weak_labels is None else _weak(weak_labels, accuracies, shares, len(more))
    bases_of, folder = [base for base, _ in known], None if output is None else Path(output)

    first = _read_first(config, bases_of, weak)
    if label_words is not None:
        read_by = [base.tokenizer for base in first]
        label_words = check_words_have_a_use(NAME, label_words, data.labels or [], config, read_by)
        templates = check_templates(NAME, TEMPLATES if templates is None else templates)
    elif templates is not None:
        raise InputError(f"{NAME}: templates do nothing without label_words; give both or neither")
    words_of = [None if base.tokenizer.direction == "backward" else label_words for base in first]
    vectors = [
        Vectors(
            Features(base, own, None if own is None else templates, caller=NAME), more, trained_by.precision, progress
        )
        for base, own in zip(first, words_of, strict=True)
    ]
    alone = [config.first == PROBE or (config.first == AUTO and own is not None) for own in words_of]

    probes: dict[int, Teacher] = {}

    def train(place: int, number: int, chosen: Chosen | None) -> TrainedClassifier | Teacher:
        if not vectors:
            return train_classifier(place, number, weak if chosen is None else chosen)
        if number == 0:
            probes[place] = Teacher(vectors[place], data, task, trained_by.seed)
            return probes[place] if alone[place] else probes[place].beside(train_classifier(place, 0, None))
        return probes[place].beside(train_classifier(place, number, chosen))

    def train_classifier(place: int, number: int, taken: Chosen | None) -> TrainedClassifier:
        both = data if taken is None else _joined(data, more, taken, config.labeled_weight)
        trained = finetune_classifier(
            both.texts, both.labels or [], bases_of[place], _of_round(trained_by, number, config),
            sample_weight=both.weights,
            class_weight=class_weight,
            valid_texts=None if data.valid is None else data.valid.texts,
            valid_labels=None if data.valid is None else data.valid.labels,
            progress=progress, on_epoch=on_epoch, callbacks=callbacks,
        )  # fmt: skip
        records = [record | {"round": number, "model": place + 1} for record in trained.history.records]
        return replace(trained, history=History(records, trained.history.points))

    def predict(trained: TrainedClassifier | Teacher, rows: np.ndarray) -> np.ndarray:
        if isinstance(trained, Teacher):
            return trained.predict(rows)
        return activated(trained, [more[row] for row in rows.tolist()], trained_by.precision, progress)

    def score(models: Sequence[TrainedClassifier | Teacher]) -> float | None:
        assert data.valid is not None
        classifiers = [classifier for each in models if (classifier := _classifier(each)) is not None]
        if len(classifiers) < len(models):
            return None  # a probe cannot be what comes of it
        mean = np.mean([activated(each, data.valid.texts, trained_by.precision, False) for each in classifiers], axis=0)
        task = classifiers[0].task
        name = metric_of(trained_by)
        found = task.metrics(mean, task.encode(data.valid.labels or [], "valid_labels"), (name,))[name]
        return found if METRICS[name].greater_is_better else -found

    def run() -> tuple[list[TrainedClassifier], list[Round]]:
        models, rounds = SelfTraining(
            train, predict, lambda trained: trained.task, None if data.valid is None else score, config,
            models=len(bases_of), texts=len(more), shares=shares, seed=trained_by.seed, on_round=on_round,
        ).run()  # fmt: skip
        # A probe is left alone where no label was sure enough.
        kept = [_classifier(each) or train_classifier(place, 0, None) for place, each in enumerate(models)]
        return kept, rounds

    if folder is None:
        return SelfTrained(*run(), [])
    with output_folder(folder, overwrite):
        models, rounds = run()
        how = asdict(config)
        if label_words is not None:
            how |= {"label_words": {str(label): own for label, own in label_words.items()}, "templates": templates}
        return SelfTrained(models, rounds, _write(folder, models, trained_by, how))


def _classifier(trained: TrainedClassifier | Teacher) -> TrainedClassifier | None:
    return trained.classifier if isinstance(trained, Teacher) else trained


def _read_first(config: SelfTrainingConfig, bases: Sequence[Base], weak: Chosen | None) -> list[TrainedLanguageModel]:
    """The language models whose probes label first, none where classifiers do. InputError where there can be none."""
    language_models = [base for base in bases if isinstance(base, TrainedLanguageModel)]
    possible = len(language_models) == len(bases) and weak is None
    if config.first in (PROBE, BOTH) and not possible:
        raise InputError(
            f"{NAME}: first is {config.first!r}: a probe reads with a language model and learns from no weak labels; "
            "give language models and no weak labels, or first 'classifier'"
        )
    return language_models if possible and config.first != CLASSIFIER else []


def check_words_have_a_use(
    caller: str, label_words: LabelWords, labels: Iterable[Label], config: SelfTrainingConfig,
    read_by: Sequence[Tokenizer] | None = None,
) -> dict[Label, tuple[str, ...]]:  # fmt: skip
    """The words as they were checked. InputError where they do not name each label, or no probe can use them.

    Args:
        caller: named in messages.
        label_words: as ``self_train``.
        labels: of the labelled texts.
        config: says what labels first.
        read_by: tokenizers of the language models that label first; None: not known yet.
    """
    found = words_of_labels(caller, label_words, labels)
    if config.first == CLASSIFIER or (read_by is not None and not read_by):
        raise InputError(
            f"{caller}: label_words are for a probe, and none labels first; give language models, no weak labels, and "
            f"first {AUTO!r}, {PROBE!r} or {BOTH!r}"
        )
    if read_by is not None and all(tokenizer.direction == "backward" for tokenizer in read_by):
        raise InputError(f"{caller}: label_words need a forward language model; these read texts from their end")
    return found


def _of_round(config: ClassifierConfig, number: int, how: SelfTrainingConfig) -> ClassifierConfig:
    """The classifier's configuration in a round: few epochs over many texts, too few to unfreeze gradually."""
    if number == 0 or config.epochs or not how.round_epochs:
        return config
    return replace(config, epochs=how.round_epochs, unfreezing="all")


def metric_of(config: ClassifierConfig) -> str:
    """What chooses the best round: the loss of a mean of models is not at hand, the Brier score is as honest."""
    return "brier" if config.metric == LOSS else config.metric


def _each(bases: Base | Sequence[Base]) -> list[Base]:
    """The bases one by one; a folder of both directions is two."""
    given = list(bases) if isinstance(bases, Sequence) and not isinstance(bases, str) else [bases]
    if not given:
        raise InputError(f"{NAME}: bases is empty; give a language model, or None to start from scratch")
    found: list[Base] = []
    for base in given:
        found += members(find_pretrained(base)) if isinstance(base, str | Path) else [base]
    return found


def read_base(base: Base, device: str = "cpu") -> tuple[Base, Any]:
    """A base, read once for all rounds, and its task if it is a classifier's. From a folder it comes on ``device``."""
    if isinstance(base, str | Path):
        folder = find_pretrained(base)
        is_classifier = read_config(folder)["kind"] == "classifier"
        base = TrainedClassifier.load(folder) if is_classifier else TrainedLanguageModel.load(folder)
        base.model.to(choose_device(device))
    if base is not None and is_quantized(base.model):
        raise InputError("an int8 model only predicts and cannot be trained; give the float32 model it was made of")
    return base, base.task if isinstance(base, TrainedClassifier) else None


def _weak(
    sources: Mapping[str, Sequence[Any]], accuracies: Mapping[str, float] | None, shares: dict[Label, float], texts: int
) -> Chosen:
    lengths = {name: len(labels) for name, labels in sources.items() if len(labels) != texts}
    if lengths:
        raise InputError(f"{NAME}: weak_labels must have a label or None for each of {texts} texts, got {lengths}")
    classes = sorted(shares)
    found = combine(sources, classes, accuracies, np.array([shares[label] for label in classes]))
    rows = np.array([row for row, label in enumerate(found.labels) if label is not None], dtype=np.int64)
    return Chosen(rows, [label for label in found.labels if label is not None], found.confidence[rows])


def _joined(data: Dataset, texts: list[str], chosen: Chosen, labeled_weight: float) -> Dataset:
    """The labelled texts and those taken, weighted; see ``SelfTrainingConfig.labeled_weight``."""
    if not len(chosen.rows):
        return data
    own = torch.ones(len(data.texts)) if data.weights is None else data.weights
    each = torch.from_numpy(chosen.confidence.astype(np.float32)) * (float(own.mean()) / labeled_weight)
    weights: Tensor = torch.cat([own, each])
    labels = [*(data.labels or []), *chosen.labels]
    return Dataset([*data.texts, *(texts[row] for row in chosen.rows.tolist())], labels, weights, data.valid)


def _write(folder: Path, models: list[TrainedClassifier], config: ClassifierConfig, how: dict[str, Any]) -> list[Path]:
    """Write the models, one to the folder itself, others below it; returns where each is."""
    directions = [trained.tokenizer.direction for trained in models]
    in_both = tuple(sorted(directions)) == tuple(sorted(DIRECTIONS))
    names = [""] if len(models) == 1 else directions if in_both else [str(i + 1) for i in range(len(models))]
    folders = [folder / name for name in names]
    if len(models) > 1:
        remove_model(folder)
        remove_run(folder)
    for path, trained in zip(folders, models, strict=True):
        arguments = {"stage": "classifier", "self_training": how} | asdict(config)
        save_model(path, trained.model, trained.tokenizer, trained.task, arguments)
        remove_run(path)
        trained.history.write(path)
    if in_both:
        join(folder)
    return folders
