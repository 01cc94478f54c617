"""A linear classifier on what a language model has read, as a classifier like any other: in seconds, to a folder.

Where words can stand for the labels, they teach it: how much the language model expects them after a text makes a
better classifier, which labels texts that have no label, and the linear one learns from these, too. It then needs no
word any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.device import DEVICES, PRECISIONS, choose_device
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.random import Generators
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
_LEAST_SHARE = 0.01  # of a taught label: less probable ones are left out


@documented
@dataclass(frozen=True)
class LinearConfig:
    """How ``train_linear`` fits."""

    strength: float = setting(
        200.0, "pull of the weights to zero: 1 / C of scikit-learn's regression on features of deviation 1, or 2 / C "
        "with two classes, as each has an output",
        above=0,
    )  # fmt: skip
    read: int = setting(
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

    @property
    def of_classifier(self) -> ClassifierConfig:
        """The configuration that a training has which goes on from here."""
        shared = {name: value for name, value in asdict(self).items() if name not in ("strength", "read")}
        return ClassifierConfig(**shared)


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
        unlabeled: texts like those to classify; ``config.read`` of them are read.
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
        The classifier; its history has one record: loss, seconds, and what was measured.

    Raises:
        TypeError, InputError: as ``finetune_classifier``; a classifier in the place of the language model; words
            without unlabelled texts, or for a task that has no one label a text.
    """
    start, config = time.perf_counter(), config or LinearConfig()
    base = load_base(language_model)
    if not isinstance(base, TrainedLanguageModel):
        raise InputError(
            f"{NAME}: needs a language model, got a classifier; give the language model that it was made of"
        )
    settings = config.of_classifier
    data, task = data_and_task(
        NAME, texts, labels, settings, class_weight, None, weights=sample_weight, valid_texts=valid_texts,
        valid_labels=valid_labels,
    )  # fmt: skip
    more = as_texts(NAME, unlabeled, "unlabeled")
    words = None if label_words is None else _usable_words(label_words, task, data, more)
    features = Features(base, words, templates, caller=NAME)

    settings = replace(settings, head_size=max(settings.head_size, least_hidden_size(task.outputs)))
    settings, tokenizer, sizes = settle_encoder(NAME, base, settings, data.texts)
    (model,) = new_classifiers(base, [task], [settings], sizes, Generators(config.seed))
    device = choose_device(config.device)
    if base is not language_model:
        base.model.to(device)
    drawn = np.random.default_rng(config.seed).permutation(len(more))[: config.read or None]
    to_read = [*data.texts, *(more[i] for i in drawn.tolist())]
    read = features.read(to_read, precision=config.precision, progress=progress)
    probe, loss = _fit(read, data, task, config, features)
    set_linear(
        model, torch.from_numpy(probe.mean), torch.from_numpy(probe.scale), probe.weight, probe.bias,
        torch.from_numpy(read[:, : len(probe.mean)]),
    )  # fmt: skip
    model.to(device).eval()
    record: Record = {"stage": "linear", "epoch": 1, "loss": loss} | _measured(model, data, task, tokenizer, config)
    trained = TrainedClassifier(model, tokenizer, task, History([record | {"seconds": time.perf_counter() - start}]))
    if output is not None:
        remove_run(output)
        how = asdict(config)
        if words is not None:
            how |= {"label_words": {str(label): own for label, own in words.items()}, "templates": features.templates}
        save_model(output, model, tokenizer, task, {"stage": "classifier", "linear": how} | asdict(settings))
        trained.history.write(Path(output))
    return trained


def _usable_words(
    words: LabelWords, task: Task, data: Dataset, unlabeled: Sequence[str]
) -> dict[Label, tuple[str, ...]]:
    if task.confidence(task.examples()) is None:
        raise InputError(f"{NAME}: label_words are for tasks with one label a text, not {task.type}; leave them out")
    if not unlabeled:
        raise InputError(f"{NAME}: label_words teach with unlabelled texts, and there are none; give some as unlabeled")
    return words_of_labels(NAME, words, data.labels or [])


def _fit(read: np.ndarray, data: Dataset, task: Task, config: LinearConfig, features: Features) -> tuple[Probe, float]:
    """The linear classifier on pooled states, and its loss on the labelled texts.

    ``read`` are features of the labelled texts and then of the unlabelled ones.
    """
    labelled, states = len(data.texts), read[:, : features.states]
    targets, weights = task.encode(data.labels or [], "labels"), data.weights
    if not features.words:
        probe = Probe(states[:labelled], targets, task, weights, states[labelled:], strength=config.strength)
    else:
        teacher = Probe(
            read[:labelled], targets, task, weights, read[labelled:], features.emphasis, config.strength
        )  # fmt: skip
        rows, taught, shares = _taught(teacher.predict(read[labelled:]), task)
        own = torch.ones(labelled) if weights is None else weights
        probe = Probe(
            states, torch.cat([targets, taught]), task, torch.cat([own, shares * own.mean()]),
            strength=config.strength, rows=torch.cat([torch.arange(labelled), labelled + rows]),
        )  # fmt: skip
    return probe, float(task.loss(probe.logits(states[:labelled]), targets, weights))


def _taught(probabilities: np.ndarray, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Each text's probable labels: its row, the label as the task encodes it, and what it counts."""
    rows, places = np.nonzero(probabilities >= _LEAST_SHARE)
    targets = task.encode(task.labels, "labels")[torch.from_numpy(places)]
    return torch.from_numpy(rows), targets, torch.from_numpy(probabilities[rows, places])


def _measured(model: TextClassifier, data: Dataset, task: Task, tokenizer: Any, config: LinearConfig) -> Record:
    """What the validation texts say, after which the task is calibrated."""
    if data.valid is None:
        return {}
    targets = task.encode(data.valid.labels or [], "valid_labels")
    logits = classifier_logits(model, list(tokenizer.encode(data.valid.texts)))
    record = validation_record(task, logits, targets, config.calibrate)
    task.adopt(record.get("calibration", {}))
    return record
