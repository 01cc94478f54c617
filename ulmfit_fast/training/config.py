"""One small frozen configuration for each stage; the command line has an option for every field."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

from ulmfit_fast.core.device import DEVICES, PRECISIONS
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.awd_lstm import AWDLSTMConfig
from ulmfit_fast.tasks.class_weights import CLASS_WEIGHTS
from ulmfit_fast.tasks.metrics import LOSS, METRICS
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.task import AUTO, TASKS
from ulmfit_fast.text.tokenizer import DIRECTIONS, TOKENIZERS, Tokenizer


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A configuration field with its description, which the command line shows, and its range."""
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


_LARGEST = (1 << 63) - 1  # what the operations take
_KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def _plain(value: Any, kind: type) -> Any:
    """NumPy's numbers, and whole ones where any number goes, as Python's of that kind."""
    if isinstance(value, np.generic):
        value = value.item()
    return float(value) if kind is float and type(value) is int else value


T = TypeVar("T")


def documented(config: type[T]) -> type[T]:
    """Adds what its fields mean, and their defaults, to a configuration's docstring."""
    lines = [f"        {f.name}: {f.metadata['help']} (default {f.default!r})." for f in fields(config)]  # type: ignore[arg-type]
    config.__doc__ = "\n".join([f"{config.__doc__}\n\n    Args:", *lines, ""])
    return config


@dataclass(frozen=True)
class TrainingConfig:
    """What all stages share."""

    epochs: int = setting(1, "passes over the texts", at_least=1)
    batch_size: int = setting(64, "texts (lanes of text for a language model) in a batch", at_least=1)
    bptt: int = setting(70, "tokens of a chunk", at_least=1)
    lr: float = setting(4e-3, "highest learning rate", above=0)
    cut_frac: float = setting(0.1, "share of the steps in which the rate rises", at_least=0, at_most=1)
    ratio: float = setting(32.0, "highest rate over lowest", at_least=1)
    drop_mult: float = setting(1.0, "factor on all dropout probabilities", at_least=0)
    weight_decay: float = setting(0.01, "weight decay, decoupled with adamw", at_least=0)
    clip: float = setting(0.25, "largest norm of the gradient", above=0)
    precision: str = setting("float32", "float32, or bfloat16 for autocast", choices=tuple(PRECISIONS))
    device: str = setting("auto", "cpu, cuda, or auto: a GPU where there is one", choices=DEVICES)
    seed: int = setting(0, "seed of everything that is drawn at random", at_least=0)
    early_stopping: int = setting(
        0, "stop when the validation loss has not improved for this many epochs; 0: never", at_least=0
    )
    checkpoint_minutes: float = setting(
        10.0, "minutes between checkpoints (one more after each epoch); 0: none are written", at_least=0
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value, limits = _plain(getattr(self, f.name), type(f.default)), f.metadata
            object.__setattr__(self, f.name, value)
            wrong = None
            if type(value) is not type(f.default):
                wrong = _KINDS[type(f.default)]
            elif isinstance(value, float) and not math.isfinite(value):
                wrong = "a finite number"
            elif isinstance(value, int) and abs(value) > _LARGEST:
                raise InputError(
                    f"{type(self).__name__}: {f.name} must be at most {_LARGEST}, got one of {value.bit_length()} bits"
                )
            elif limits["at_least"] is not None and value < limits["at_least"]:
                wrong = f"at least {limits['at_least']}"
            elif limits["above"] is not None and value <= limits["above"]:
                wrong = f"above {limits['above']}"
            elif limits["at_most"] is not None and value > limits["at_most"]:
                wrong = f"at most {limits['at_most']}"
            elif limits["choices"] and value not in limits["choices"]:
                wrong = f"one of {', '.join(limits['choices'])}"
            if wrong:
                raise InputError(f"{type(self).__name__}: {f.name} must be {wrong}, got {value!r}")


@dataclass(frozen=True)
class NewModelConfig(TrainingConfig):
    """Vocabulary and sizes of a model that is made from nothing."""

    embedding_size: int = setting(400, "features of a token", at_least=1)
    hidden_size: int = setting(1152, "features of the inner layers' state", at_least=1)
    num_layers: int = setting(3, "LSTM layers", at_least=1)
    tokenizer: str = setting(
        "word", "word, subword for byte-pair encodings, or whitespace for text that is tokenized already",
        choices=TOKENIZERS,
    )  # fmt: skip
    vocab_size: int = setting(60_000, "largest vocabulary", at_least=16)
    min_frequency: int = setting(3, "rarer words are unknown", at_least=1)
    direction: str = setting(
        "forward", "forward, or backward: texts are read from their end, for a second model beside a forward one",
        choices=DIRECTIONS,
    )  # fmt: skip

    def train_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        tokenizer = Tokenizer.train(self.tokenizer, texts, self.vocab_size, self.min_frequency)
        return tokenizer.reading(self.direction)

    def encoder_config(self, tokenizer: Tokenizer) -> AWDLSTMConfig:
        sizes = (len(tokenizer), self.embedding_size, self.hidden_size, self.num_layers)
        return AWDLSTMConfig(*sizes, pad_id=tokenizer.pad_id)


OF_A_NEW_MODEL = tuple(NewModelConfig.__annotations__)  # the fields that a given language model has settled


@dataclass(frozen=True)
class LanguageModelConfig(TrainingConfig):
    """What both trainings of a language model share."""

    alpha: float = setting(2.0, "weight of activation regularisation (AR)", at_least=0)
    beta: float = setting(1.0, "weight of temporal activation regularisation (TAR)", at_least=0)
    optimizer: str = setting(
        "adamw", "adamw or sgd (try --lr 20 --weight-decay 0) with a slanted triangular rate; ntasgd: SGD at a "
        "constant rate (try --lr 30 --weight-decay 1.2e-6), averaged once validation stops improving",
        choices=("adamw", "sgd", "ntasgd"),
    )  # fmt: skip
    patience: int = setting(
        5,
        "ntasgd begins to average when the validation loss is above the best one of more than so many validations ago",
        at_least=1,
    )
    ema_decay: float = setting(
        0.0, "adamw and sgd: validate and save a moving average of the weights with this decay; 0: the weights "
        "themselves",
        at_least=0, at_most=0.999999,
    )  # fmt: skip
    gradient_threshold: float = setting(
        0.0, "skip the softmax's gradients that are below this, 192 neighbouring words of a row at a time; 0: exact "
        "(CPU only)",
        at_least=0, at_most=0.1,
    )  # fmt: skip
    embed_p: float = setting(0.02, "dropout of words of the embedding", at_least=0)
    input_p: float = setting(0.25, "dropout of the embedded text", at_least=0)
    hidden_p: float = setting(0.15, "dropout between layers", at_least=0)
    weight_p: float = setting(0.2, "dropout of recurrent weights (DropConnect)", at_least=0)
    output_p: float = setting(0.1, "dropout before the softmax", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer == "ntasgd" and self.ema_decay:
            raise InputError(f"{type(self).__name__}: ntasgd has an average of its own; leave ema_decay 0")

    @property
    def dropouts(self) -> dict[str, float]:
        """Before ``drop_mult``."""
        return {name: getattr(self, name) for name in ("embed_p", "input_p", "hidden_p", "weight_p", "output_p")}


@documented
@dataclass(frozen=True)
class PretrainConfig(LanguageModelConfig, NewModelConfig):
    """Sizes, vocabulary and training of ``pretrain_lm``."""


@documented
@dataclass(frozen=True)
class FinetuneLMConfig(LanguageModelConfig):
    """Training and vocabulary of ``finetune_lm``."""

    discriminative_factor: float = setting(
        2.6, "learning rate of a layer group over that of the one before it", at_least=1
    )
    new_vocabulary: bool = setting(True, "word tokenizers: take over the new texts' vocabulary, known words kept")
    vocab_size: int = setting(60_000, "largest new vocabulary", at_least=16)
    min_frequency: int = setting(3, "words rarer in the new texts are unknown", at_least=1)


@documented
@dataclass(frozen=True)
class ClassifierConfig(NewModelConfig):
    """Training and head of ``finetune_classifier``. A language model settles sizes, vocabulary and direction."""

    epochs: int = setting(6, "passes over the texts", at_least=1)
    batch_size: int = setting(32, "texts in a batch; BatchNorm needs two", at_least=2)
    lr: float = setting(1e-2, "highest learning rate, of the head", above=0)
    drop_mult: float = setting(0.5, "factor on all dropout probabilities", at_least=0)
    discriminative_factor: float = setting(
        2.6,
        "learning rate of a layer group over that of the one before it (the paper's; with a small language model 1.3 "
        "was better)",
        at_least=1,
    )
    unfreezing: str = setting(
        "gradual",
        "gradual: train the head first, one more layer group with each epoch; chain-thaw: the head, then each other "
        "group alone, then all (from epoch 6 on with three LSTM layers); last: the head alone; all: everything at once",
        choices=("gradual", "chain-thaw", "last", "all"),
    )
    class_weight: str = setting(
        "none", "what a text counts: none, all alike; balanced, inversely to the number of texts of its class",
        choices=CLASS_WEIGHTS,
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0, "share of a label's probability that goes evenly to all classes", at_least=0, at_most=0.9
    )
    head_size: int = setting(50, "features of the head's hidden layer", at_least=1)
    max_tokens: int = setting(1_000_000, "tokens in a batch, unless two documents alone have more", at_least=1)
    backprop: str = setting(
        "detached", "detached: gradients stay inside a chunk; exact: they cross chunks", choices=("detached", "exact")
    )
    mask_scope: str = setting(
        "document", "document: one draw of dropout masks for a document; chunk: one a chunk",
        choices=("document", "chunk"),
    )  # fmt: skip
    variable_bptt: bool = setting(False, "draw the chunk length of each batch around bptt")
    pool_window: int = setting(0, "pool only this many tokens of a document, those read last; 0: all", at_least=0)
    memory: str = setting(
        "auto", "activations: recompute them, store them, or auto: store a batch's where they fit the budget",
        choices=("auto", "recompute", "store"),
    )  # fmt: skip
    memory_budget_mb: int = setting(2560, "activations that auto stores, in MB", at_least=0)
    task: str = setting(
        AUTO,
        "single_label: one of several; binary: one of two, by one output; multi_label: several at once; ordinal: one "
        "of several numbers that have an order; regression: a number; auto: several at once where a text has a list "
        "of labels, else one of several",
        choices=(AUTO, *TASKS),
    )
    focal_gamma: float = setting(0.0, "focal loss: a text counts (1 - its probability) to this power", at_least=0)
    label_delimiter: str = setting(";", "between the labels of a text that has several")
    metric: str = setting(
        LOSS, "what chooses the best epoch and stops early, measured on the validation texts",
        choices=(LOSS, *METRICS),
    )  # fmt: skip
    calibrate: bool = setting(
        True, "make probabilities honest by the validation texts, where there are such: by a temperature, with several "
        "labels also by thresholds"
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.label_delimiter:
            raise InputError("ClassifierConfig: label_delimiter must not be empty")

    @property
    def task_options(self) -> TaskOptions:
        return TaskOptions(self.class_weight, self.label_smoothing, self.focal_gamma, self.label_delimiter)
