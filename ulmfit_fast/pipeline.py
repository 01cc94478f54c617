"""The three stages of ULMFiT as functions: texts and a small configuration in, a trained model out.

1. ``pretrain_lm``: a language model of general text.
2. ``finetune_lm``: the same on the task's texts, labelled or not.
3. ``finetune_classifier``: a classifier on top of its encoder, by default gradually unfrozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.nn.awd_lstm import AWDLSTM, CLASSIFIER_DROPOUTS
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.storage.model_folder import check_output_folder, remap_vocabulary
from ulmfit_fast.tasks.labels import Label, as_labels, encode_labels, list_classes
from ulmfit_fast.tasks.texts import as_texts, hold_out
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, NewModelConfig, PretrainConfig
from ulmfit_fast.training.stage import EpochCallback, Stage, TrainedClassifier, TrainedLanguageModel

Config = TypeVar("Config", bound=NewModelConfig)


def pretrain_lm(
    texts: Sequence[str] | Corpus,
    config: PretrainConfig | None = None,
    *,
    valid_texts: Sequence[str] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
) -> TrainedLanguageModel:
    """Stage one: a language model of general text, from nothing.

    Args:
        texts: raw texts. A twentieth of them is held out for validation where ``valid_texts`` is None. Or a ``Corpus``
            (``tokenize_corpus``), which may be larger than memory and brings its tokenizer and validation texts.
        config: sizes, vocabulary, training.
        valid_texts: to measure perplexity on and to choose the best epoch by.
        output: model folder to write after every epoch that is the best so far.
        overwrite: allow ``output`` to hold a model already.
        resume: go on from the checkpoint in ``output``, if there is one, to the bits that a run without interruption
            would have ended with. Texts and configuration must be the same.
        progress: show bars on a terminal.
        on_epoch: called with each epoch's record.

    Raises:
        InputError: too little text, an unusable ``output``.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    config = config or PretrainConfig()
    torch.manual_seed(config.seed)
    _check_output(output, overwrite, resume)
    if isinstance(texts, Corpus):
        if valid_texts is not None:
            raise InputError("pretrain_lm: a Corpus brings its validation texts; give no valid_texts")
        corpus = texts
        config = _in_direction_of(corpus.tokenizer, config, "pretrain_lm", "the corpus was tokenized")
    else:
        texts = _as_training_texts("pretrain_lm", texts)
        train_texts, valid_texts = hold_out(texts, valid_texts, config.seed)
        corpus = _in_memory("pretrain_lm", config.train_tokenizer(train_texts), train_texts, valid_texts)
    encoder = config.new_encoder(corpus.tokenizer)
    encoder.set_dropouts(encoder.config.with_dropouts(config.dropouts, config.drop_mult))
    model = LanguageModel(encoder)
    stage = Stage("pretrain LM", config, output, progress, on_epoch, resume)
    return stage.train_language_model(model, corpus, 1.0, config.alpha, config.beta)


def finetune_lm(
    texts: Sequence[str] | Corpus,
    language_model: str | Path | TrainedLanguageModel,
    config: FinetuneLMConfig | None = None,
    *,
    valid_texts: Sequence[str] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
) -> TrainedLanguageModel:
    """Stage two: a language model goes on with the task's texts, with discriminative rates.

    Args:
        texts: the task's raw texts, labelled or not. Or a ``Corpus``, which may be larger than memory and brings its
            tokenizer and validation texts; unless both are of words, its tokenizer must be the language model's.
        language_model: folder or result of ``pretrain_lm``; a given object is not changed.
        config: training, vocabulary.
        valid_texts, output, overwrite, resume, progress, on_epoch: as ``pretrain_lm``.

    Raises:
        InputError, TrainingDivergedError: as ``pretrain_lm``, and for an unusable model folder.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.2.
    """
    config = config or FinetuneLMConfig()
    _check_output(output, overwrite, resume)
    base = _load(language_model)
    torch.manual_seed(config.seed)  # loading draws
    if isinstance(texts, Corpus):
        if valid_texts is not None:
            raise InputError("finetune_lm: a Corpus brings its validation texts; give no valid_texts")
        corpus = texts
        if corpus.tokenizer.direction != base.tokenizer.direction:
            raise InputError(
                f"finetune_lm: the language model reads {base.tokenizer.direction}, the corpus was tokenized "
                f"{corpus.tokenizer.direction}; ulmfit-fast tokenize --direction {base.tokenizer.direction}"
            )
        both_words = base.tokenizer.uses_rules and corpus.tokenizer.uses_rules
        if not (both_words and config.new_vocabulary) and corpus.tokenizer.to_json() != base.tokenizer.to_json():
            raise InputError(
                "finetune_lm: the corpus has another vocabulary than the language model; tokenize it with the model's: "
                "ulmfit-fast tokenize --like MODEL"
            )
    else:
        texts = _as_training_texts("finetune_lm", texts)
        train_texts, valid_texts = hold_out(texts, valid_texts, config.seed)
        tokenizer = base.tokenizer
        if config.new_vocabulary and tokenizer.uses_rules:
            words = Tokenizer.train_words(train_texts, config.vocab_size, config.min_frequency, tokenizer.rules_version)
            tokenizer = words.reading(tokenizer.direction)
        corpus = _in_memory("finetune_lm", tokenizer, train_texts, valid_texts)
    model = remap_vocabulary(base.model, base.tokenizer, corpus.tokenizer)
    model.encoder.set_dropouts(model.encoder.config.with_dropouts(config.dropouts, config.drop_mult))
    stage = Stage("fine-tune LM", config, output, progress, on_epoch, resume)
    return stage.train_language_model(model, corpus, config.discriminative_factor, config.alpha, config.beta)


def finetune_classifier(
    texts: Sequence[str],
    labels: Sequence[Label],
    language_model: str | Path | TrainedLanguageModel | None = None,
    config: ClassifierConfig | None = None,
    *,
    valid_texts: Sequence[str] | None = None,
    valid_labels: Sequence[Label] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
) -> TrainedClassifier:
    """Stage three: a classifier over a language model's encoder, or over a new one where there is none.

    Args:
        texts, labels: to train on.
        language_model: folder or result of ``finetune_lm`` (or ``pretrain_lm``); a given object is not changed.
        config: training, head; sizes and vocabulary of a new encoder.
        valid_texts, valid_labels: to measure accuracy on and to choose the best epoch by; without them the last epoch
            is kept.
        output, overwrite, resume, progress, on_epoch: as ``pretrain_lm``.

    Raises:
        InputError: fewer than two labels, lengths that differ, a validation label that training lacks, an unusable
            ``output`` or model folder.
        TrainingDivergedError: the loss became NaN or infinite.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3.
    """
    config = config or ClassifierConfig()
    _check_output(output, overwrite, resume)
    base = None if language_model is None else _load(language_model)
    torch.manual_seed(config.seed)  # loading draws
    texts, labels = _as_training_texts("finetune_classifier", texts), as_labels(labels)
    classes = list_classes(texts, labels)
    targets = encode_labels(labels, classes, "labels")
    if valid_texts is not None and len(valid_texts) == 0:
        raise InputError("finetune_classifier: valid_texts is empty")
    if (valid_texts is None) != (valid_labels is None):
        raise InputError("finetune_classifier: give both of valid_texts and valid_labels, or neither")
    if valid_texts is not None and valid_labels is not None and len(valid_texts) != len(valid_labels):
        raise InputError(
            f"finetune_classifier: valid_texts and valid_labels must have one length, got {len(valid_texts)} and "
            f"{len(valid_labels)}"
        )
    valid_targets = None
    if valid_labels is not None:
        valid_targets = encode_labels(as_labels(valid_labels, "valid_labels"), classes, "valid_labels")

    if base is None:
        tokenizer = config.train_tokenizer(texts)
        encoder = config.new_encoder(tokenizer)
    else:
        tokenizer = base.tokenizer
        config = _in_direction_of(tokenizer, config, "finetune_classifier", "the language model reads")
        encoder = AWDLSTM(base.model.encoder.config)
        encoder.load_state_dict(base.model.encoder.state_dict())
    encoder.set_dropouts(encoder.config.with_dropouts(CLASSIFIER_DROPOUTS, config.drop_mult))
    model = TextClassifier(
        encoder, len(classes), config.head_size, bptt=config.bptt, backprop=config.backprop,
        mask_scope=config.mask_scope, variable_length=config.variable_bptt, memory=config.memory,
        memory_budget=config.memory_budget_mb << 20, pool_window=config.pool_window or None,
    )  # fmt: skip
    stage = Stage("classifier", config, output, progress, on_epoch, resume)
    valid = None if valid_texts is None or valid_targets is None else (valid_texts, valid_targets)
    return stage.train_classifier(model, tokenizer, classes, texts, targets, valid)


def _check_output(output: str | Path | None, overwrite: bool, resume: bool) -> None:
    if output is not None:
        check_output_folder(output, overwrite, resume)


def _as_training_texts(function: str, texts: Sequence[str]) -> list[str]:
    texts = as_texts(function, texts)
    if not texts:
        raise InputError(f"{function}: texts is empty")
    return texts


def _load(language_model: str | Path | TrainedLanguageModel) -> TrainedLanguageModel:
    if isinstance(language_model, TrainedLanguageModel):
        return language_model
    return TrainedLanguageModel.load(language_model)


def _in_direction_of(tokenizer: Tokenizer, config: Config, function: str, given: str) -> Config:
    """The configuration with the direction that is settled, for the record. InputError if it asks for another."""
    if config.direction == "backward" and tokenizer.direction == "forward":
        raise InputError(f"{function}: direction is 'backward', but {given} forward; give one made with 'backward'")
    return replace(config, direction=tokenizer.direction)


def _in_memory(function: str, tokenizer: Tokenizer, texts: Sequence[str], valid_texts: Sequence[str] | None) -> Corpus:
    valid = None if valid_texts is None else TokenArray(list(tokenizer.encode(valid_texts)))
    if valid is not None and valid.offsets[-1] < 2:
        valid = None  # nothing to predict in it
    ids = list(tokenizer.encode(texts))
    warn_of_unknown(function, tokenizer, ids)
    return Corpus(tokenizer, TokenArray(ids), valid)
