"""The three stages of ULMFiT as functions: texts and a small configuration in, a trained model out.

1. ``pretrain_lm``: a language model of general text.
2. ``finetune_lm``: the same on the task's texts, labelled or not.
3. ``finetune_classifier``: a classifier on top of its encoder, by default gradually unfrozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.random import Generators
from ulmfit_fast.nn.build import new_module
from ulmfit_fast.nn.encoders import make_encoder
from ulmfit_fast.nn.language_model import LanguageModel
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import remap_vocabulary
from ulmfit_fast.storage.output_folder import writes_output
from ulmfit_fast.tasks.dataset import Dataset
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.tasks.texts import as_texts
from ulmfit_fast.text.corpus import Corpus
from ulmfit_fast.text.token_file import TokenArray
from ulmfit_fast.text.tokenizer import Tokenizer
from ulmfit_fast.text.unknown_tokens import warn_of_unknown
from ulmfit_fast.training.beginning import (
    check_head,
    data_and_task,
    in_direction_of,
    load_base,
    new_classifiers,
    settle_encoder,
    with_head_of,
)
from ulmfit_fast.training.callbacks import Callback, EpochCallback, OnEpoch
from ulmfit_fast.training.classifier import ClassifierTrainer, check_base
from ulmfit_fast.training.config import ClassifierConfig, FinetuneLMConfig, PretrainConfig
from ulmfit_fast.training.language_model import LanguageModelTrainer
from ulmfit_fast.training.trained import TrainedClassifier, TrainedLanguageModel
from ulmfit_fast.training.trainer import RunOptions

HELD_OUT_FOR_PERPLEXITY = 0.05  # of a language model's texts, where no validation texts are given


@writes_output
@own_modes()
def pretrain_lm(
    texts: Iterable[str] | Corpus,
    config: PretrainConfig | None = None,
    *,
    valid_texts: Iterable[str] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
    callbacks: Sequence[Callback] = (),
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
        callbacks: told of steps and epochs (``ulmfit_fast.training.callbacks``).

    Raises:
        TypeError: something among the texts that is no text.
        InputError: too little text, an unusable ``output``.
        TrainingDivergedError: the loss became NaN or infinite.
    """
    config = config or PretrainConfig()
    generators, options = Generators(config.seed), _options(output, resume, progress, on_epoch, callbacks)
    if isinstance(texts, Corpus):
        _refuse_valid_texts("pretrain_lm", valid_texts)
        corpus = texts
        config = in_direction_of(corpus.tokenizer, config, "pretrain_lm", "the corpus was tokenized")
    else:
        data = Dataset.unlabelled("pretrain_lm", texts, valid_texts, HELD_OUT_FOR_PERPLEXITY, config.seed)
        corpus = _in_memory("pretrain_lm", config.train_tokenizer(data.texts), data)
    sizes = config.encoder_config(corpus.tokenizer).with_dropouts(config.dropouts, config.drop_mult)
    model = new_module(lambda: LanguageModel(make_encoder(sizes)), generators.of("cpu"))
    return LanguageModelTrainer("pretrain LM", model, corpus, config, options, generators).trained()


@writes_output
@own_modes()
def finetune_lm(
    texts: Iterable[str] | Corpus,
    language_model: str | Path | TrainedLanguageModel,
    config: FinetuneLMConfig | None = None,
    *,
    valid_texts: Iterable[str] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainedLanguageModel:
    """Stage two: a language model goes on with the task's texts, with discriminative rates.

    Args:
        texts: the task's raw texts, labelled or not. Or a ``Corpus``, which may be larger than memory and brings its
            tokenizer and validation texts; unless both are of words, its tokenizer must be the language model's.
        language_model: folder or result of ``pretrain_lm``; a given object is not changed.
        config: training, vocabulary.
        valid_texts, output, overwrite, resume, progress, on_epoch, callbacks: as ``pretrain_lm``.

    Raises:
        TypeError, InputError, TrainingDivergedError: as ``pretrain_lm``, and for an unusable model folder.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.2.
    """
    config = config or FinetuneLMConfig()
    options = _options(output, resume, progress, on_epoch, callbacks)
    base = _load(language_model)
    if isinstance(texts, Corpus):
        _refuse_valid_texts("finetune_lm", valid_texts)
        corpus = texts
        _check_corpus_goes_with(base.tokenizer, corpus.tokenizer, config.new_vocabulary)
    else:
        data = Dataset.unlabelled("finetune_lm", texts, valid_texts, HELD_OUT_FOR_PERPLEXITY, config.seed)
        tokenizer = base.tokenizer
        if config.new_vocabulary and tokenizer.takes_new_words:
            tokenizer = tokenizer.over(tokenizer.count(data.texts), config.vocab_size, config.min_frequency)
        corpus = _in_memory("finetune_lm", tokenizer, data)
    model = remap_vocabulary(base.model, base.tokenizer, corpus.tokenizer)
    model.encoder.set_dropouts(model.encoder.config.with_dropouts(config.dropouts, config.drop_mult))
    generators = Generators(config.seed)
    return LanguageModelTrainer("fine-tune LM", model, corpus, config, options, generators).trained()


@writes_output
@own_modes()
def finetune_classifier(
    texts: Iterable[str],
    labels: Iterable[Any],
    language_model: str | Path | TrainedLanguageModel | TrainedClassifier | None = None,
    config: ClassifierConfig | None = None,
    *,
    sample_weight: Any = None,
    class_weight: Mapping[Label, float] | None = None,
    valid_texts: Iterable[str] | None = None,
    valid_labels: Iterable[Any] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
    on_epoch: EpochCallback | None = None,
    callbacks: Sequence[Callback] = (),
) -> TrainedClassifier:
    """Stage three: a classifier over a language model's encoder, or over a new one where there is none.

    Args:
        texts, labels: to train on. A label is a text or a number; or a list of such, where a text may have several; or
            the number to predict (``config.task``).
        language_model: folder or result of ``finetune_lm`` (or ``pretrain_lm``); a given object is not changed. Or of
            this function: training goes on with that classifier. Where it has a label in common with ``labels`` its
            head goes on, too, and gets outputs for the labels it does not know; else the head is new.
        config: training, head; sizes and vocabulary of a new encoder.
        sample_weight: what each text counts in the loss, numbers [len(texts)]; None: all alike.
        class_weight: what a text of each label counts; None: as ``config.class_weight`` says.
        valid_texts, valid_labels: to measure on and to choose the best epoch by; without them the last epoch
            is kept.
        output, overwrite, resume, progress, on_epoch, callbacks: as ``pretrain_lm``.

    Raises:
        TypeError: something among the texts that is no text.
        InputError: fewer than two labels, lengths that differ, a validation label that training lacks, weights or a
            metric that cannot be ones, an unusable ``output`` or model folder.
        TrainingDivergedError: the loss became NaN or infinite.

    Source: Howard and Ruder, arXiv 1801.06146, section 3.3.
    """
    config = config or ClassifierConfig()
    options = _options(output, resume, progress, on_epoch, callbacks)
    base = None if language_model is None else load_base(language_model)
    check_base(config, base)
    generators = Generators(config.seed)
    known = base.task if isinstance(base, TrainedClassifier) else None
    data, task = data_and_task(
        "finetune_classifier", texts, labels, config, class_weight, known, weights=sample_weight,
        valid_texts=valid_texts, valid_labels=valid_labels,
    )  # fmt: skip
    asked = config.for_texts(len(data.texts))
    config = with_head_of(asked, base, task)
    check_head("finetune_classifier", asked, config)
    config, tokenizer, sizes = settle_encoder("finetune_classifier", base, config, data.texts)
    (model,) = new_classifiers(base, [task], [config], sizes, generators)
    expects = base.model if isinstance(base, TrainedLanguageModel) else None
    return ClassifierTrainer(model, tokenizer, task, data, config, options, generators, expects).trained()


LANGUAGE_MODEL = "language_model"  # of an output folder: the subfolder with the fine-tuned language model


@writes_output
@own_modes()
def finetune_pretrained(
    texts: Iterable[str],
    labels: Iterable[Any],
    pretrained: str | Path | TrainedLanguageModel,
    finetune_config: FinetuneLMConfig | None = None,
    classifier_config: ClassifierConfig | None = None,
    *,
    unlabeled: Iterable[str] = (),
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    **options: Any,
) -> TrainedClassifier:
    """Stages two and three in one: a pretrained language model, texts and some labels in, a classifier out.

    Args:
        texts, labels: to train the classifier on; the language model is fine-tuned on the texts, too.
        pretrained: folder, name of an installed model ("en"), or result of ``pretrain_lm``.
        finetune_config, classifier_config: of the two stages.
        unlabeled: more texts like those to classify, for the language model.
        output: model folder of the classifier. The fine-tuned language model goes into its folder ``language_model``.
        overwrite, resume: as ``pretrain_lm``, for both stages.
        options: as ``finetune_classifier``: sample_weight, class_weight, valid_texts, valid_labels; and for both stages
            progress, on_epoch, callbacks.

    Raises:
        TypeError, InputError, TrainingDivergedError: as ``finetune_lm`` and ``finetune_classifier``.
    """
    data = labelled_dataset(
        "finetune_pretrained", texts, labels, classifier_config or ClassifierConfig(),
        weights=options.pop("sample_weight", None), class_weight=options.get("class_weight"),
        valid_texts=options.pop("valid_texts", None), valid_labels=options.pop("valid_labels", None),
    )  # fmt: skip
    folder = None if output is None else Path(output) / LANGUAGE_MODEL
    if folder is not None:
        folder.parent.mkdir(exist_ok=True)
    for_both = {name: options[name] for name in ("progress", "on_epoch", "callbacks") if name in options}
    language_model = finetune_lm(
        [*data.texts, *as_texts("finetune_pretrained", unlabeled, "unlabeled")], pretrained, finetune_config,
        output=folder, overwrite=overwrite, resume=resume, **for_both,
    )  # fmt: skip
    return finetune_classifier(
        data.texts, data.labels or [], language_model, classifier_config, sample_weight=data.weights,
        valid_texts=None if data.valid is None else data.valid.texts,
        valid_labels=None if data.valid is None else data.valid.labels,
        output=output, overwrite=overwrite, resume=resume, **options,
    )  # fmt: skip


def labelled_dataset(
    caller: str,
    texts: Iterable[str],
    labels: Iterable[Any],
    config: ClassifierConfig,
    *,
    class_weight: Any = None,
    known: Task | None = None,
    **options: Any,
) -> Dataset:
    """``Dataset.labelled``, and everything else that a classifier could refuse in it: before hours of stage two.

    Raises:
        TypeError, InputError: as ``finetune_classifier``.
    """
    return data_and_task(caller, texts, labels, config, class_weight, known, **options)[0]


def _options(
    output: str | Path | None,
    resume: bool,
    progress: bool,
    on_epoch: EpochCallback | None,
    callbacks: Sequence[Callback],
) -> RunOptions:
    told = [*callbacks, *([] if on_epoch is None else [OnEpoch(on_epoch)])]
    return RunOptions(None if output is None else Path(output), resume, progress, told)


def _refuse_valid_texts(function: str, valid_texts: Iterable[str] | None) -> None:
    if valid_texts is not None:
        raise InputError(f"{function}: a Corpus brings its validation texts; give no valid_texts")


def _check_corpus_goes_with(model: Tokenizer, corpus: Tokenizer, new_vocabulary: bool) -> None:
    """Raises InputError where a language model cannot go on with a corpus of that tokenizer."""
    if corpus.direction != model.direction:
        raise InputError(
            f"finetune_lm: the language model reads {model.direction}, the corpus was tokenized {corpus.direction}; "
            f"ulmfit-fast tokenize --direction {model.direction}"
        )
    both_words = model.takes_new_words and corpus.kind == model.kind
    if not (both_words and new_vocabulary) and corpus.to_json() != model.to_json():
        raise InputError(
            "finetune_lm: the corpus has another vocabulary than the language model; tokenize it with the model's: "
            "ulmfit-fast tokenize --like MODEL"
        )


def _load(language_model: str | Path | TrainedLanguageModel) -> TrainedLanguageModel:
    if isinstance(language_model, TrainedLanguageModel):
        return language_model
    return TrainedLanguageModel.load(find_pretrained(language_model))


def _in_memory(function: str, tokenizer: Tokenizer, data: Dataset) -> Corpus:
    valid = None if data.valid is None else TokenArray(list(tokenizer.encode(data.valid.texts)))
    if valid is not None and valid.offsets[-1] < 2:
        valid = None  # nothing to predict in it
    ids = list(tokenizer.encode(data.texts))
    warn_of_unknown(function, tokenizer, ids)
    return Corpus(tokenizer, TokenArray(ids), valid)
