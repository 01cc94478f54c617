"""What a classifier's training begins with: its data and task, the model that brings the encoder, and its new head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import nn

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.random import Generators
from ulmfit_fast.nn.bpt3c import BPT3CConfig
from ulmfit_fast.nn.build import new_module
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.encoder import Encoder
from ulmfit_fast.nn.encoders import make_encoder
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.nn.stacked import CLASSIFIER_DROPOUTS, StackConfig, StackedEncoder
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import read_config
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.task import Task, check_metric, task_type
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training.classifier import with_encoder_of
from ulmfit_fast.training.config import ClassifierConfig, NewModelConfig
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel

Base = TrainedLanguageModel | TrainedClassifier
Config = TypeVar("Config", bound=NewModelConfig)


def data_and_task(
    caller: str,
    texts: Iterable[str],
    labels: Iterable[Any],
    config: ClassifierConfig,
    class_weight: Any,
    known: Task | None,
    **options: Any,
) -> tuple[Dataset, Task]:
    """What to train on, and the task of it. ``known`` is that of a classifier to go on with.

    ``options`` are those of ``Dataset.labelled``.

    Raises:
        TypeError, InputError: as ``finetune_classifier``.
    """
    labels = labels if hasattr(labels, "__len__") else list(labels)
    kind = task_type(config.task, labels, known)
    data = Dataset.labelled(caller, texts, labels, task=kind, **options)
    of_loss = config.task_options if class_weight is None else replace(config.task_options, class_weight=class_weight)
    task = kind.made_for(data.labels or [], of_loss, "labels", known)
    targets = None if data.valid is None else task.encode(data.valid.labels or [], "valid_labels")
    check_metric(config.metric, task, targets)
    return replace(data, class_weight=class_weight), task


def load_base(source: str | Path | Base, caller: str = "finetune_classifier") -> Base:
    """What brings the encoder: a language model, or a classifier to go on with. InputError for one in int8."""
    base: Base
    if isinstance(source, TrainedLanguageModel | TrainedClassifier):
        base = source
    else:
        folder = find_pretrained(source)
        is_classifier = read_config(folder)["kind"] == "classifier"
        base = TrainedClassifier.load(folder) if is_classifier else TrainedLanguageModel.load(folder)
    if is_quantized(base.model):
        raise InputError(f"{caller}: an int8 model only predicts; give the float32 model it was made of")
    return base


def encoder_of(base: Base) -> StackedEncoder:
    """The encoder that a model brings."""
    encoder = base.model.encoder if isinstance(base, TrainedLanguageModel) else base.model.bpt3c.encoder
    return cast(StackedEncoder, encoder)


def settle_encoder(
    caller: str, base: Base | None, config: ClassifierConfig, texts: Sequence[str]
) -> tuple[ClassifierConfig, Tokenizer, StackConfig]:
    """The tokenizer and the encoder's sizes, and the configuration with what they settle, for the record.

    Both are the base's; where there is none, they are made for the texts as the configuration says.
    """
    if base is None:
        tokenizer = config.train_tokenizer(texts)
        sizes = config.encoder_config(tokenizer)
    else:
        tokenizer = base.tokenizer
        config = in_direction_of(tokenizer, config, caller, "the language model reads")
        config = with_encoder_of(config, encoder_of(base))
        sizes = encoder_of(base).config
    return config, tokenizer, sizes.with_dropouts(CLASSIFIER_DROPOUTS, config.drop_mult)


def new_classifiers(
    base: Base | None,
    tasks: Sequence[Task],
    configs: Sequence[ClassifierConfig],
    sizes: StackConfig,
    generators: Generators,
) -> list[TextClassifier]:
    """A classifier for each task, all over one encoder: the base's weights where there is one, else new ones.

    Heads are new; but where a task has a label in common with a base that is a classifier, its head goes on, whose size
    and pooling the configuration must have (``with_head_of``).
    """
    known = base.task if isinstance(base, TrainedClassifier) else None
    rows = [None if known is None else task.rows_of(known) for task in tasks]
    encoders: list[Encoder] = []

    def classifier(position: int) -> TextClassifier:
        config = configs[position]
        reading = BPT3CConfig(
            config.bptt, config.backprop, config.mask_scope, config.variable_bptt, config.memory,
            config.memory_budget_mb << 20, config.pool_window or None, pooling=config.pooling,
            attention_heads=config.attention_heads,
        )  # fmt: skip
        encoder = encoders[0] if encoders else make_encoder(sizes)
        encoders.append(encoder)
        return TextClassifier(encoder, tasks[position].outputs, config.head_size, 0.1, reading)

    made = new_module(lambda: nn.ModuleList([classifier(i) for i in range(len(tasks))]), generators.of("cpu"))
    models = [cast(TextClassifier, model) for model in made]
    if base is not None:
        models[0].bpt3c.encoder.load_state_dict(encoder_of(base).state_dict())  # type: ignore[attr-defined]
    for model, of_outputs in zip(models, rows, strict=True):
        if of_outputs is not None and isinstance(base, TrainedClassifier):
            _take_over_head(base, model, of_outputs)
    return models


def with_head_of(config: ClassifierConfig, base: Base | None, task: Task) -> ClassifierConfig:
    """The configuration with the size and pooling of the head that goes on; unchanged where the head is new."""
    if not isinstance(base, TrainedClassifier) or task.rows_of(base.task) is None:
        return config
    own = base.model.bpt3c.config
    return replace(
        config, head_size=int(base.model.head[2].out_features), pooling=own.pooling,  # type: ignore[arg-type]
        attention_heads=own.attention_heads,
    )  # fmt: skip


def check_head(caller: str, asked: ClassifierConfig, settled: ClassifierConfig) -> None:
    """InputError where a configuration asks for a size or pooling that the head that goes on cannot have."""
    for name in ("head_size", "pooling", "attention_heads"):
        wanted, has = getattr(asked, name), getattr(settled, name)
        if wanted not in (has, getattr(ClassifierConfig(), name)):
            raise InputError(
                f"{caller}: {name} is {wanted!r}, but the head of the classifier that goes on has {has!r}; leave it "
                "out, or begin with a language model"
            )


def in_direction_of(tokenizer: Tokenizer, config: Config, function: str, given: str) -> Config:
    """The configuration with the direction that is settled, for the record. InputError if it asks for another."""
    if config.direction == "backward" and tokenizer.direction == "forward":
        raise InputError(f"{function}: direction is 'backward', but {given} forward; give one made with 'backward'")
    return replace(config, direction=tokenizer.direction)


def _take_over_head(base: TrainedClassifier, model: TextClassifier, rows: Sequence[int | None]) -> None:
    """The trained head's weights, output by output; those that it has not begin as the new head drew them.

    Its pooling goes on with it.
    """
    model.bpt3c.pooling.load_state_dict(base.model.bpt3c.pooling.state_dict())
    state = {name: tensor.clone() for name, tensor in base.model.head.state_dict().items()}
    last = max(name for name in state if state[name].dim() == 2)  # the layer whose rows are the outputs
    outputs = model.head.state_dict()[last].clone()
    for place, row in enumerate(rows):
        if row is not None:
            outputs[place] = state[last][row]
    model.head.load_state_dict(state | {last: outputs})
