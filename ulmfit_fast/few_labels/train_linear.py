"""A linear classifier on what a language model has read, as a classifier like any other.

Where words can stand for the labels, they teach it: how much the language model expects them after a text makes a
better classifier, which labels texts that have no label, and the linear one learns from these, too. It then needs no
word any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.device import DEVICES, PRECISIONS, choose_device
from ulmfit_fast.core.distributed import current
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.random import Generators
from ulmfit_fast.few_labels.active_learning import first_of_each
from ulmfit_fast.few_labels.features import Features
from ulmfit_fast.few_labels.label_words import LabelWords, words_of_labels
from ulmfit_fast.few_labels.probe import Probe
from ulmfit_fast.inference.prediction import classifier_logits
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.linear_head import least_hidden_size, set_linear
from ulmfit_fast.storage.model_folder import remove_run, save_model
from ulmfit_fast.storage.output_folder import writes_output
from ulmfit_fast.tasks.class_weights import CLASS_WEIGHTS
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import AUTO, TASKS, Task
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.training.beginning import data_and_task, load_base, new_classifiers, settle_encoder
from ulmfit_fast.training.classifier import validation_record
from ulmfit_fast.training.config import ClassifierConfig
from ulmfit_fast.training.history import History, Record
from ulmfit_fast.training.settings import check_settings, documented, setting
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

NAME = "train_linear"
_LABELS_TAUGHT = 20  # of a text, the most probable ones
_LIKE = 10_000  # texts whose statistics the head's BatchNorms know


@documented
@dataclass(frozen=True)
class LinearConfig:
    """How ``train_linear`` fits."""

    strength: float = setting(
        200.0, "pull of the weights to zero: half of it times their sum of squares is added to the sum of all losses. "
        "scikit-learn's C is 1 / strength, and 2 / strength with two classes that have an output each; features have "
        "deviation 1",
        above=0,
    )  # fmt: skip
    pool: int = setting(
        3_000, "unlabelled texts that are read, drawn by the seed: they say by how much features vary, and words for "
        "the labels teach with them; 0: all",
        at_least=0,
    )  # fmt: skip
    class_weight: str = setting(
        "none", "what a text counts: none, all alike; balanced, inversely to the number of texts of its class",
        choices=CLASS_WEIGHTS,
    )  # fmt: skip
    task: str = setting(
        AUTO, "as of train: single_label, binary, multi_label, ordinal, regression; auto: several labels at once where "
        "a text has a list of labels, else one of several",
        choices=(AUTO, *TASKS),
    )  # fmt: skip
    label_delimiter: str = setting(";", "between the labels of a text that has several")
    calibrate: bool = setting(True, "make probabilities honest by the validation texts, where there are such")
    precision: str = setting("float32", "of reading: float32, or bfloat16 for autocast", choices=tuple(PRECISIONS))
    device: str = setting("auto", "cpu, cuda, or auto: a GPU where there is one", choices=DEVICES)
    seed: int = setting(0, "seed of everything that is drawn at random", at_least=0)

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.label_delimiter:
            raise InputError("LinearConfig: label_delimiter must not be empty")

    def shared(self) -> dict[str, Any]:
        """The fields that a classifier's training has, too."""
        return {name: value for name, value in asdict(self).items() if name not in ("strength", "pool")}


@writes_output
@own_modes()
def train_linear(
    texts: Iterable[str],
    labels: Iterable[Any],
    language_model: str | Path | TrainedLanguageModel,
    config: LinearConfig | None = None,
    *,
    unlabeled: Iterable[str] = (),
    label_words: LabelWords | None = None,
    templates: Sequence[str] | None = None,
    sample_weight: Any = None,
    class_weight: Mapping[Label, float] | None = None,
    valid_texts: Iterable[str] | None = None,
    valid_labels: Iterable[Any] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainedClassifier:
    """A linear classifier on the last, largest and mean state of a language model, which stays as it is.

    What comes of it is a classifier like those of ``finetune_classifier``, which can go on training it.

    Args:
        texts, labels: as ``finetune_classifier``.
        language_model: folder, name of an installed one ("en"), or result of ``pretrain_lm`` or ``finetune_lm``; a
            given object is not changed.
        config: how it is fitted.
        unlabeled: texts like those to classify; ``config.pool`` of them are read, none twice.
        label_words: for each label one word or several that the language model may expect after a text. A classifier
            that knows how much it expects them says how probable each label of the unlabelled texts is, and the linear
            one learns from that, too.
        templates: sentences with ``{text}`` and ``{label}`` for these words. None: "{text} It was {label}."
        sample_weight, class_weight: as ``finetune_classifier``.
        valid_texts, valid_labels: to measure on, and to calibrate.
        output: model folder to write.
        overwrite: replace what ``output`` holds.
        progress: show bars on a terminal.

    Returns:
        The classifier; its history has one record: the loss on the labelled texts, seconds, and what was measured.

    Raises:
        TypeError, InputError: as ``finetune_classifier``; a classifier in the place of the language model; words
            without unlabelled texts, or for a task that has no one label a text; several processes.
    """
    start, config = time.perf_counter(), config or LinearConfig()
    if current().size > 1:
        raise InputError(f"{NAME}: is for one process; call it outside of joined()")
    base = load_base(language_model, NAME)
    if not isinstance(base, TrainedLanguageModel):
        raise InputError(
            f"{NAME}: needs a language model, got a classifier; give the language model that it was made of"
        )
    settings = ClassifierConfig(**config.shared())
    data, task = data_and_task(
        NAME, texts, labels, settings, class_weight, None, weights=sample_weight, valid_texts=valid_texts,
        valid_labels=valid_labels,
    )  # fmt: skip
    more = as_texts(NAME, unlabeled, "unlabeled")
    unread = first_of_each(more, data.texts)
    words = None if label_words is None else _usable_words(label_words, task, data, unread)
    device = choose_device(config.device)
    if base is language_model and next(base.model.parameters()).device.type != torch.device(device).type:
        base = replace(base, model=deepcopy(base.model))  # which stays where it is
    base.model.to(device)
    features = Features(base, words, templates, caller=NAME)

    settings = replace(settings, head_size=max(settings.head_size, least_hidden_size(task.outputs)))
    settings, tokenizer, sizes = settle_encoder(NAME, base, settings, data.texts)
    (model,) = new_classifiers(base, [task], [settings], sizes, Generators(config.seed))
    drawn = unread[np.random.default_rng(config.seed).permutation(len(unread))[: config.pool or None]]
    to_read = [*data.texts, *(more[i] for i in drawn.tolist())]
    read = features.read(to_read, precision=config.precision, progress=progress)
    probe = _fit(read, data, task, config, features)
    states = torch.from_numpy(read[:, : features.states])
    set_linear(
        model, torch.from_numpy(probe.mean), torch.from_numpy(probe.scale), probe.weight, probe.bias, states[:_LIKE]
    )
    record: Record = {"stage": "linear", "epoch": 1, "loss": _loss(model.eval(), states, data, task)}
    model.to(device)
    if data.valid is not None:
        logits = classifier_logits(model, list(tokenizer.encode(data.valid.texts)), progress=progress)
        targets = task.encode(data.valid.labels or [], "valid_labels")
        record |= validation_record(task, logits, targets, config.calibrate)
    trained = TrainedClassifier(model, tokenizer, task, History([record | {"seconds": time.perf_counter() - start}]))
    if output is not None:
        how: dict[str, Any] = {"strength": config.strength, "pool": config.pool}
        if words is not None:
            how |= {"label_words": {str(label): own for label, own in words.items()}, "templates": features.templates}
        if class_weight is not None:
            how["class_weights"] = sorted([str(label), float(weight)] for label, weight in class_weight.items())
        save_model(output, model, tokenizer, task, {"stage": "linear classifier"} | how | config.shared())
        remove_run(output)
        trained.history.write(Path(output))
    return trained


def _usable_words(words: LabelWords, task: Task, data: Dataset, unread: np.ndarray) -> dict[Label, tuple[str, ...]]:
    if task.confidence(task.examples()) is None:
        raise InputError(f"{NAME}: label_words are for tasks with one label a text, not {task.type}; leave them out")
    if not len(unread):
        raise InputError(
            f"{NAME}: label_words teach with unlabelled texts, and there are none that have no label; give some as "
            "unlabeled"
        )
    return words_of_labels(NAME, words, data.labels or [])


def _fit(read: np.ndarray, data: Dataset, task: Task, config: LinearConfig, features: Features) -> Probe:
    """The linear classifier on pooled states. ``read`` are features of the labelled texts and then of the others."""
    labelled, states = len(data.texts), read[:, : features.states]
    targets, weights = task.encode(data.labels or [], "labels"), data.weights
    if not features.words:
        return Probe(states[:labelled], targets, task, weights, states[labelled:], strength=config.strength)
    # Without weights of classes: taught labels get these once, below.
    even = copy(task)
    even.class_weight = None  # type: ignore[attr-defined]
    teacher = Probe(read[:labelled], targets, even, weights, read[labelled:], features.emphasis, config.strength)
    rows, taught, shares = _taught(teacher.predict(read[labelled:]), task)
    # A taught text counts as a labelled one; with three or ten times as much for labelled ones it was no better.
    own = torch.ones(labelled) if weights is None else weights
    return Probe(
        states, torch.cat([targets, taught]), task, torch.cat([own, shares * own.mean()]),
        strength=config.strength, rows=torch.cat([torch.arange(labelled), labelled + rows]),
    )  # fmt: skip


def _taught(probabilities: np.ndarray, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Each text's most probable labels: its row, the label as the task encodes it, and its share of the text."""
    count = min(_LABELS_TAUGHT, probabilities.shape[1])
    places = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    shares = np.take_along_axis(probabilities, places, axis=1)
    shares /= shares.sum(1, keepdims=True)
    rows = torch.arange(len(places)).repeat_interleave(count)
    targets = task.encode(task.labels, "labels")[torch.from_numpy(places.ravel())]
    return rows, targets, torch.from_numpy(shares.ravel())


def _loss(model: TextClassifier, states: Tensor, data: Dataset, task: Task) -> float:
    """On the labelled texts, whose pooled states are the first ones."""
    targets = task.encode(data.labels or [], "labels")
    with torch.no_grad():
        return float(task.loss(model.classify(states[: len(targets)]), targets, data.weights))
