"""One small frozen configuration for each stage; the command line has an option for every field."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ulmfit_fast.core.device import DEVICES, PRECISIONS
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.encoders import DEFAULT_ENCODER, ENCODERS
from ulmfit_fast.nn.poolings import ATTENTION, CONCAT, MOST_HEADS, POOLINGS
from ulmfit_fast.nn.stacked import StackConfig
from ulmfit_fast.tasks.class_weights import CLASS_WEIGHTS
from ulmfit_fast.tasks.metrics import LOSS, METRICS
from ulmfit_fast.tasks.options import TaskOptions
from ulmfit_fast.tasks.task import AUTO, TASKS
from ulmfit_fast.text.tokenizer import DIRECTIONS, KINDS, Tokenizer
from ulmfit_fast.training.schedules import SCHEDULES
from ulmfit_fast.training.settings import check_settings, documented, setting
from ulmfit_fast.training.unfreezing import UNFREEZING


@dataclass(frozen=True)
class TrainingConfig:
    """What all stages share."""

    epochs: int = setting(1, "passes over the texts", at_least=1)
    batch_size: int = setting(64, "texts (lanes of text for a language model) in a batch", at_least=1)
    accumulate: int = setting(
        1, "batches whose gradients make one step, as if they were one batch, in the memory of one", at_least=1
    )
    bptt: int = setting(70, "tokens of a chunk", at_least=1)
    lr: float = setting(4e-3, "highest learning rate", above=0)
    schedule: str = setting(
        "slanted-triangular",
        "how the rate goes over the run; linear: warm-up, then linear decay; reverse-annealing: up and down along "
        "cosines; one-cycle: with fastai's numbers, the momentum, too, one-cycle-torch: with torch's",
        choices=SCHEDULES,
    )
    cut_frac: float = setting(
        0.1, "share of the steps in which the rate rises (not with cosine, one-cycle and constant)", at_least=0,
        at_most=1,
    )  # fmt: skip
    ratio: float = setting(32.0, "highest rate over lowest, of slanted triangular rates", at_least=1)
    end_frac: float = setting(
        0.0, "rate at the end over the highest, with linear, cosine and reverse-annealing; 0.03125 is 1 / 32",
        at_least=0, at_most=1,
    )  # fmt: skip
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
        check_settings(self)


@dataclass(frozen=True)
class NewModelConfig(TrainingConfig):
    """Vocabulary and sizes of a model that is made from nothing."""

    encoder: str = setting(
        DEFAULT_ENCODER, "kind of layers: awd_lstm, or qrnn, which is faster and was MultiFiT's (there with "
        "embedding-size 400, hidden-size 1550, num-layers 4)",
        choices=tuple(ENCODERS),
    )  # fmt: skip
    embedding_size: int = setting(400, "features of a token", at_least=1)
    hidden_size: int = setting(1152, "features of the inner layers' state", at_least=1)
    num_layers: int = setting(3, "recurrent layers", at_least=1)
    tokenizer: str = setting(
        "word", "word, subword for byte-pair encodings, whitespace for text that is tokenized already, or spacy for "
        "the very tokens of fastai (extra spacy)",
        choices=KINDS,
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

    def encoder_config(self, tokenizer: Tokenizer) -> StackConfig:
        sizes = (len(tokenizer), self.embedding_size, self.hidden_size, self.num_layers)
        return ENCODERS[self.encoder].config(*sizes, pad_id=tokenizer.pad_id)


OF_A_NEW_MODEL = tuple(NewModelConfig.__annotations__)  # the fields that a given language model has settled


@dataclass(frozen=True)
class FinetuningConfig(TrainingConfig):
    """Which layers of a pretrained model train, and how fast: stages two and three."""

    discriminative_factor: float = setting(
        2.6, "learning rate of a layer group over that of the one before it", at_least=1
    )
    lr_lowest: float = setting(
        0.0, "highest learning rate of the first layer group, the others between it and lr in a geometric series, in "
        "place of discriminative-factor; 0: by the factor",
        at_least=0,
    )  # fmt: skip
    dis_blocks: int = setting(
        -1, "depth blocks, each with one learning rate; 0: one rate for all layers; -1: each layer group is a block",
        at_least=-1,
    )  # fmt: skip
    unfreezing: str = setting("all", "which layer groups train when", choices=tuple(UNFREEZING))
    frz_blocks: int = setting(
        -1, "depth blocks that unfreezing goes by in place of layer groups; 0: everything trains at once; -1: the "
        "layer groups",
        at_least=-1,
    )  # fmt: skip
    unfreeze_every: int = setting(
        0, "with gradual: unfreeze one more group every so many steps; 0: every epoch", at_least=0
    )
    weight_decay_factor: float = setting(
        1.0, "weight decay of a layer group (or depth block) over that of the one before it", at_least=1
    )
    l2_sp: float = setting(
        0.0, "pull the pretrained layers towards where they started, with this strength (L2-SP); 0: do not", at_least=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.lr_lowest > self.lr:
            raise InputError(f"{name}: lr_lowest must be at most lr ({self.lr}), got {self.lr_lowest}")
        if self.unfreeze_every and (self.unfreezing != "gradual" or self.frz_blocks == 0):
            raise InputError(
                f"{name}: unfreeze_every={self.unfreeze_every} goes with unfreezing='gradual' and frz_blocks other "
                f"than 0, got {self.unfreezing!r} and {self.frz_blocks}"
            )


@dataclass(frozen=True)
class LanguageModelConfig(TrainingConfig):
    """What both trainings of a language model share."""

    alpha: float = setting(2.0, "weight of activation regularisation (AR)", at_least=0)
    beta: float = setting(1.0, "weight of temporal activation regularisation (TAR)", at_least=0)
    optimizer: str = setting(
        "adamw", "adamw or sgd (try --lr 20 --weight-decay 0) with a rate by the schedule; ntasgd: SGD at a "
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
    sampled_softmax: int = setting(
        0, "train with a softmax over so many words a step, half of them the most frequent ones and half drawn, beside "
        "the step's own; much faster with a large vocabulary; 0: all words",
        at_least=0,
    )  # fmt: skip
    embed_p: float = setting(0.02, "dropout of words of the embedding", at_least=0)
    input_p: float = setting(0.25, "dropout of the embedded text", at_least=0)
    hidden_p: float = setting(0.15, "dropout between layers", at_least=0)
    weight_p: float = setting(
        0.2, "dropout of recurrent weights (DropConnect); of a QRNN, of all its layers' weights", at_least=0
    )
    output_p: float = setting(0.1, "dropout before the softmax", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer == "ntasgd" and self.ema_decay:
            raise InputError(f"{type(self).__name__}: ntasgd has an average of its own; leave ema_decay 0")
        if self.optimizer == "ntasgd" and self.schedule not in (type(self).schedule, "constant"):
            raise InputError(f"{type(self).__name__}: ntasgd keeps its rate constant; leave schedule out")
        if self.sampled_softmax == 1:
            raise InputError(f"{type(self).__name__}: sampled_softmax must be 0 or at least 2, got 1")

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
class FinetuneLMConfig(LanguageModelConfig, FinetuningConfig):
    """Training and vocabulary of ``finetune_lm``."""

    new_vocabulary: bool = setting(
        True, "word tokenizers: take the new texts' frequent words first, then the model's others while there is room"
    )
    vocab_size: int = setting(30_000, "largest new vocabulary, or the model's size if that is larger", at_least=16)
    min_frequency: int = setting(3, "words that are rarer in the new texts do not come first", at_least=1)


# Of a classifier: of many texts, of few ones, and the steps that are enough in between.
_LEAST_EPOCHS, _MOST_EPOCHS, _ENOUGH_STEPS = 6, 30, 96


@documented
@dataclass(frozen=True)
class ClassifierConfig(FinetuningConfig, NewModelConfig):
    """Training and head of ``finetune_classifier``. A language model settles sizes, vocabulary and direction."""

    epochs: int = setting(
        0, "passes over the texts; 0: 6, or of few texts so many that there are about 100 steps, at most 30", at_least=0
    )
    batch_size: int = setting(32, "texts in a batch; BatchNorm needs two", at_least=2)
    lr: float = setting(1e-2, "highest learning rate, of the head", above=0)
    drop_mult: float = setting(
        0.5, "factor on all dropout probabilities but that before the head's last layer (0.1, as in fastai)", at_least=0
    )
    discriminative_factor: float = setting(
        2.6,
        "learning rate of a layer group over that of the one before it (the paper's; with a small language model 1.3 "
        "was better)",
        at_least=1,
    )
    unfreezing: str = setting(
        "gradual",
        "gradual: train the head first, one more layer group with each epoch; fastai: one, two, three groups, then "
        "all; chain-thaw: the head, then each other group alone, then all (from epoch 6 on with three LSTM layers); "
        "last: the head alone; all: everything at once",
        choices=tuple(UNFREEZING),
    )
    freeze_batch_norm: bool = setting(False, "freeze the head's BatchNorm layers while the head is frozen")
    class_weight: str = setting(
        "none", "what a text counts: none, all alike; balanced, inversely to the number of texts of its class",
        choices=CLASS_WEIGHTS,
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0, "share of a label's probability that goes evenly to all classes", at_least=0, at_most=0.9
    )
    word_dropout: float = setting(
        0.0, "augmentation: share of a text's words that an epoch leaves out", at_least=0, at_most=1
    )
    word_swap: float = setting(
        0.0, "augmentation: share of words that change places with the next one", at_least=0, at_most=1
    )
    word_replace: float = setting(
        0.0, "augmentation: share of words in whose place another one is read, see replace-by", at_least=0, at_most=1
    )
    word_noise: float = setting(
        0.0, "augmentation: share of words in whose place any word is read, frequent ones more often", at_least=0,
        at_most=1,
    )  # fmt: skip
    replace_by: str = setting(
        "embedding", "what word-replace reads: one of the words nearest in the embedding, or one of those that the "
        "language model expects most in that place",
        choices=("embedding", "language-model"),
    )  # fmt: skip
    head_size: int = setting(50, "features of the head's hidden layer", at_least=1)
    pooling: str = setting(
        CONCAT, "what the head reads of a text: concat: its last state, the largest and the mean; attention: means by "
        "learned weights in place of the mean, which explain can show",
        choices=tuple(POOLINGS),
    )  # fmt: skip
    attention_heads: int = setting(1, "weighted means of pooling attention", at_least=1, at_most=MOST_HEADS)
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
        if self.attention_heads != 1 and self.pooling != ATTENTION:
            raise InputError(
                f"ClassifierConfig: attention_heads={self.attention_heads} goes with pooling='attention', got "
                f"{self.pooling!r}"
            )

    def for_texts(self, number: int) -> ClassifierConfig:
        """This configuration with the epochs that it means for so many texts to train on."""
        if self.epochs:
            return self
        steps = -(-number // self.batch_size)
        return replace(self, epochs=min(_MOST_EPOCHS, max(_LEAST_EPOCHS, -(-_ENOUGH_STEPS // steps))))

    @property
    def task_options(self) -> TaskOptions:
        return TaskOptions(self.class_weight, self.label_smoothing, self.focal_gamma, self.label_delimiter)
