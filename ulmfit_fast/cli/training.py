"""The commands of the three stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ulmfit_fast.cli import options
from ulmfit_fast.cli.directions import in_both_directions
from ulmfit_fast.cli.labelled_tables import LabelledTables
from ulmfit_fast.cli.prediction import report_perplexity
from ulmfit_fast.cli.processes import refuse_pipes
from ulmfit_fast.cli.tokenize import OF_A_VOCABULARY, tokenize
from ulmfit_fast.core.console import say
from ulmfit_fast.core.distributed import current
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.pipeline import finetune_classifier, finetune_lm, finetune_pretrained, pretrain_lm
from ulmfit_fast.storage.hub import find_pretrained
from ulmfit_fast.storage.model_folder import CHECKPOINT
from ulmfit_fast.storage.output_folder import output_folder
from ulmfit_fast.tasks.metrics import METRICS
from ulmfit_fast.text.corpus import Corpus, Source
from ulmfit_fast.text.files import iterate_texts, sample_texts
from ulmfit_fast.text.inputs import check_exists
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.remote_corpus import is_corpus
from ulmfit_fast.training.callbacks import SayDuration
from ulmfit_fast.training.config import OF_A_NEW_MODEL, ClassifierConfig, FinetuneLMConfig, PretrainConfig
from ulmfit_fast.training.history import Record
from ulmfit_fast.training.schedules import NUMBERS
from ulmfit_fast.training.trained import TrainedLanguageModel

# What may be set of the language model's fine-tuning where it is a part of train.
OF_THE_LANGUAGE_MODEL = (
    "epochs", "batch_size", "lr", "drop_mult", "discriminative_factor", "new_vocabulary", "vocab_size", "min_frequency",
    "gradient_threshold", "sampled_softmax", "precision", "early_stopping", "schedule", *NUMBERS,
    "lr_lowest", "dis_blocks", "unfreezing", "frz_blocks", "unfreeze_every", "weight_decay_factor", "l2_sp",
)  # fmt: skip

# What a corpus folder has settled; the second are also how --eval is read.
_OF_TOKENIZING = ("valid", "max_texts", "processes")


@click.command("pretrain-lm")
@in_both_directions
@click.argument("source", metavar="TEXTS", type=Path)
@click.option("--valid", type=Path, help="texts for validation; without it one of twenty documents is held out")
@click.option("--eval", "test", type=Path, help="texts to report the perplexity of at the end, read in one lane")
@options.output
@options.overwrite
@options.resume
@options.reading_options()
@options.max_texts
@options.processes
@options.config_options(PretrainConfig)
def pretrain_lm_command(
    source: Path, valid: Path | None, test: Path | None, output: Path, overwrite: bool, resume: bool,
    reading: ReadOptions, max_texts: int | None, processes: int, config: PretrainConfig,
) -> None:  # fmt: skip
    """Stage one: train a language model on general TEXTS.

    TEXTS may be a corpus folder that tokenize wrote. Other texts are tokenized once, into the folder corpus of the
    output. They may be larger than memory.
    """
    options.refuse_unused_rates(config)
    click.get_current_context().with_resource(output_folder(output, overwrite, resume))
    refuse_pipes(source, valid, test)
    if test is not None:
        check_exists(test)
    files = Source(
        source, valid, reading, config.tokenizer, config.vocab_size, config.min_frequency, config.seed,
        direction=config.direction,
    )  # fmt: skip
    corpus = _read_corpus(files, max_texts, output, processes, overwrite, resume, test)
    if isinstance(corpus, Corpus):  # what --eval names is read as the corpus was, unless told otherwise
        reading = options.reading_as_before(reading, corpus.source)
    trained = pretrain_lm(corpus, config, output=output, overwrite=overwrite, resume=resume, on_epoch=print_epoch)
    _print_written(output)
    if test is not None and current().is_first:
        report_perplexity(trained.model, trained.tokenizer, test, reading, config.bptt)


@click.command("finetune-lm")
@in_both_directions
@click.argument("source", metavar="TEXTS", type=Path)
@click.option("--model", "language_model", required=True, type=Path, help="folder of a language model")
@click.option("--valid", type=Path, help="texts for validation; without it one of twenty documents is held out")
@options.output
@options.overwrite
@options.resume
@options.reading_options()
@options.max_texts
@options.processes
@options.config_options(FinetuneLMConfig)
def finetune_lm_command(
    source: Path, language_model: Path, valid: Path | None, output: Path, overwrite: bool, resume: bool,
    reading: ReadOptions, max_texts: int | None, processes: int, config: FinetuneLMConfig,
) -> None:  # fmt: skip
    """Stage two: fine-tune a language model on TEXTS.

    They need no labels. TEXTS may be a corpus folder that tokenize wrote. Other texts are tokenized once, into the
    folder corpus of the output. They may be larger than memory.
    """
    options.refuse_unused_rates(config)
    click.get_current_context().with_resource(output_folder(output, overwrite, resume))
    refuse_pipes(source, valid)
    base = TrainedLanguageModel.load(find_pretrained(language_model))
    vocabulary: dict[str, Any] = {"base": base.tokenizer}
    if not (config.new_vocabulary and base.tokenizer.takes_new_words):
        asked = ("new_vocabulary",) if config.new_vocabulary else ()
        options.refuse_given((*OF_A_VOCABULARY, *asked), f"the vocabulary of {language_model} is kept")
        vocabulary = {"given": base.tokenizer, "direction": base.tokenizer.direction}
    files = Source(
        source, valid, reading, base.tokenizer.kind if "base" in vocabulary else "word", config.vocab_size,
        config.min_frequency, config.seed, **vocabulary,
    )  # fmt: skip
    corpus = _read_corpus(files, max_texts, output, processes, overwrite, resume)
    finetune_lm(corpus, base, config, output=output, overwrite=overwrite, resume=resume, on_epoch=print_epoch)
    _print_written(output)


@click.command("train")
@in_both_directions
@click.argument("source", metavar="TABLE", type=Path)
@click.option(
    "--model",
    "language_model",
    type=Path,
    help="folder of a language model, or of a classifier to go on with; without it, from scratch",
)
@click.option(
    "--pretrained",
    help="folder of a language model, or the name of an installed one, to fine-tune on the texts first",
)
@click.option(
    "--unlabeled", type=Path, multiple=True,
    help="with --pretrained: more texts like those to classify, for the language model; may be given more than once",
)  # fmt: skip
@click.option("--valid", type=Path, help="table to measure on after each epoch; the best epoch is kept")
@options.valid_fraction
@options.output
@options.overwrite
@options.resume
@options.reading_options(split=False)
@options.label_columns
@options.max_texts
@options.config_options(ClassifierConfig)
@options.config_options(FinetuneLMConfig, "lm_config", "lm-", OF_THE_LANGUAGE_MODEL)
def train_command(
    source: Path, language_model: Path | None, pretrained: str | None, unlabeled: tuple[Path, ...],
    valid: Path | None, valid_fraction: float | None, output: Path,
    overwrite: bool, resume: bool, reading: ReadOptions, label_columns: tuple[str, ...], max_texts: int | None,
    config: ClassifierConfig, lm_config: FinetuneLMConfig,
) -> None:  # fmt: skip
    """Train a classifier on a labelled TABLE.

    A text has one label. With --task multi_label it has several, which stand in one column with --label-delimiter
    between them or in several columns; with --task regression it has a number.

    With --pretrained, stages two and three: a language model is fine-tuned on the texts, then the classifier is
    trained on top of it. The options that begin with --lm- belong to the language model. With --model, stage three
    alone.

    Without --valid or --valid-fraction the last epoch's weights are kept. --encoder, --embedding-size, --hidden-size,
    --num-layers, --tokenizer, --vocab-size, --min-frequency and --direction are for training from scratch, without
    --model and --pretrained.
    """
    if language_model is not None and pretrained is not None:
        raise InputError("--model does not go with --pretrained")
    base = language_model if pretrained is None else pretrained
    if base is not None:
        options.refuse_given(OF_A_NEW_MODEL, f"the language model {base} has settled it; leave it out")
    if pretrained is None:
        of_stage_two = ("unlabeled", *(f"lm_{name}" for name in OF_THE_LANGUAGE_MODEL))
        options.refuse_given(of_stage_two, "no language model is fine-tuned without --pretrained")
    else:
        find_pretrained(pretrained)  # before the texts are read
    options.refuse_unused_rates(config)
    options.refuse_unused_rates(lm_config, "lm-")
    click.get_current_context().with_resource(output_folder(output, overwrite, resume))
    options.refuse_unused_reading(reading, source, valid)
    refuse_pipes(source, valid, *unlabeled)
    tables = LabelledTables(source, reading, label_columns, max_texts, valid, valid_fraction)
    documents, held_out = tables.read(config, base)
    train: dict[str, Any] = {
        "valid_texts": None if held_out is None else held_out.texts,
        "valid_labels": None if held_out is None else held_out.labels,
        "output": output, "overwrite": overwrite, "resume": resume, "on_epoch": print_epoch,
        "callbacks": [SayDuration()],
    }  # fmt: skip
    texts, labels = documents.texts, documents.labels or []
    if pretrained is None:
        finetune_classifier(texts, labels, language_model, config, **train)
    else:
        more = [text for path in unlabeled for text in iterate_texts(path, reading)]
        finetune_pretrained(texts, labels, pretrained, lm_config, config, unlabeled=more, **train)
    _print_written(output)


def _read_corpus(
    files: Source, max_texts: int | None, output: Path, processes: int, overwrite: bool, resume: bool,
    test: Path | None = None,
) -> Corpus | list[str]:  # fmt: skip
    """A corpus folder, one made of the files in ``output``, or a sample of their texts.

    Options that do nothing are refused: what a corpus folder has settled otherwise, and on reading what means nothing
    for the files, of which ``test`` is read later.
    """
    source = files.path
    if files.valid_path is not None and max_texts is not None:
        raise InputError("--valid does not go with --max-texts")
    if is_corpus(source):
        settled = f"{source} is a corpus folder, tokenized before; give it to ulmfit-fast tokenize"
        options.refuse_given(_OF_TOKENIZING if test is not None else (*_OF_TOKENIZING, *options.OF_READING), settled)
        corpus = Corpus.load(source)
        asked = {
            "tokenizer": files.tokenizer, "vocab_size": files.vocab_size, "min_frequency": files.min_frequency,
            "direction": files.direction,
        }  # fmt: skip
        made = corpus.source | {"tokenizer": corpus.source.get("kind"), "direction": corpus.tokenizer.direction}
        options.refuse_given([name for name in OF_A_VOCABULARY if asked[name] != made.get(name)], settled)
        return corpus
    options.refuse_unused_reading(files.reading, source, files.valid_path, test)
    if max_texts is not None:
        options.refuse_given(("processes",), "the texts of --max-texts are tokenized in memory")
        return sample_texts(source, max_texts, files.seed, files.reading)
    folder, goes_on = output / "corpus", resume and (output / CHECKPOINT).exists()
    if goes_on and (folder / "train.tokens").exists() and not files.made(Corpus.load(folder)):
        raise InputError(
            f"{source}: not the texts and options that {output} began with (paths, sizes, times of change); to go on "
            f"with those, give {folder} in its place"
        )
    with current().first_goes_first():  # the others find what it has made
        return tokenize(files, folder, processes, overwrite and not goes_on and current().is_first)


def print_epoch(record: Record) -> None:
    say(f"{record['stage']}, epoch {record['epoch']}: {measured(record)}", error=True)


def measured(record: Record) -> str:
    """What an epoch's record says, in words."""
    parts = [f"loss {record['loss']:.4f}"]
    if "valid_loss" in record:
        parts.append(f"validation loss {record['valid_loss']:.4f}")
    if "perplexity" in record:
        parts.append(f"perplexity {record['perplexity']:.1f}")
    parts += [f"{name.replace('_', ' ')} {record[name]:.4f}" for name in METRICS if name in record]
    parts += [f"{record['tokens_per_s']:,.0f} tokens/s"] if "tokens_per_s" in record else []
    return ", ".join([*parts, f"{record['seconds']:.0f} s"])


def _print_written(output: Path) -> None:
    say(f"model, history and curves in {output}")


COMMANDS = {command.name: command for command in (pretrain_lm_command, finetune_lm_command, train_command)}
