"""One small frozen configuration for each stage; the command line has an option for every field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ulmfit_fast.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.errors import InputError
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.training import PRECISIONS


def setting(default: Any, help: str) -> Any:
    """A configuration field with its description, which the command line shows."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainingConfig:
    """What all stages share."""

    epochs: int = setting(1, "passes over the texts")
    batch_size: int = setting(64, "texts (lanes of text for a language model) in a batch")
    bptt: int = setting(70, "tokens of a chunk")
    lr: float = setting(4e-3, "highest learning rate")
    cut_frac: float = setting(0.1, "share of the steps in which the rate rises")
    ratio: float = setting(32.0, "highest rate over lowest")
    drop_mult: float = setting(1.0, "factor on all dropout probabilities")
    weight_decay: float = setting(0.01, "decoupled weight decay")
    clip: float = setting(0.25, "largest norm of the gradient")
    precision: str = setting("float32", "float32, or bfloat16 for autocast")
    seed: int = setting(0, "of everything random")

    def __post_init__(self) -> None:
        name = type(self).__name__
        for key in ("epochs", "batch_size", "bptt", "lr", "ratio", "clip"):
            if getattr(self, key) <= 0:
                raise InputError(f"{name}: {key} must be positive, got {getattr(self, key)}")
        if self.drop_mult < 0:
            raise InputError(f"{name}: drop_mult must not be negative, got {self.drop_mult}")
        if self.precision not in PRECISIONS:
            raise InputError(f"{name}: precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")


@dataclass(frozen=True)
class NewModelConfig(TrainingConfig):
    """Vocabulary and sizes of a model that is made from nothing."""

    embedding_size: int = setting(400, "features of a token")
    hidden_size: int = setting(1152, "features of the inner layers' state")
    num_layers: int = setting(3, "LSTM layers")
    tokenizer: str = setting("word", "word, or subword for byte-pair encodings")
    vocab_size: int = setting(60_000, "largest vocabulary")
    min_frequency: int = setting(3, "rarer words are unknown")

    def train_tokenizer(self, texts: Iterable[str]) -> Tokenizer:
        if self.tokenizer == "word":
            return Tokenizer.train_words(texts, self.vocab_size, self.min_frequency)
        if self.tokenizer == "subword":
            return Tokenizer.train_subwords(texts, self.vocab_size)
        raise InputError(f"{type(self).__name__}: tokenizer must be word or subword, got {self.tokenizer!r}")

    def new_encoder(self, tokenizer: Tokenizer) -> AWDLSTM:
        sizes = (len(tokenizer), self.embedding_size, self.hidden_size, self.num_layers)
        return AWDLSTM(AWDLSTMConfig(*sizes, pad_id=tokenizer.pad_id))


@dataclass(frozen=True)
class PretrainConfig(NewModelConfig):
    """Of ``pretrain_lm``."""

    alpha: float = setting(2.0, "weight of activation regularisation (AR)")
    beta: float = setting(1.0, "weight of temporal activation regularisation (TAR)")


@dataclass(frozen=True)
class FinetuneLMConfig(TrainingConfig):
    """Of ``finetune_lm``."""

    discriminative_factor: float = setting(2.6, "learning rate of a layer group over that of the one before it")
    alpha: float = setting(2.0, "weight of activation regularisation (AR)")
    beta: float = setting(1.0, "weight of temporal activation regularisation (TAR)")
    new_vocabulary: bool = setting(True, "word tokenizers: take over the new texts' vocabulary, known words kept")
    vocab_size: int = setting(60_000, "largest new vocabulary")
    min_frequency: int = setting(3, "words rarer in the new texts are unknown")


@dataclass(frozen=True)
class ClassifierConfig(NewModelConfig):
    """Of ``finetune_classifier``. Sizes and vocabulary matter only without a language model."""

    epochs: int = setting(6, "passes over the texts")
    batch_size: int = setting(32, "texts in a batch")
    lr: float = setting(1e-2, "highest learning rate, of the head")
    drop_mult: float = setting(0.5, "factor on all dropout probabilities")
    discriminative_factor: float = setting(2.6, "learning rate of a layer group over that of the one before it")
    gradual_unfreezing: bool = setting(True, "train the head first, one more layer group with each epoch")
    head_size: int = setting(50, "features of the head's hidden layer")
    backprop: str = setting("detached", "detached: gradients stay inside a chunk; exact: they cross chunks")
