"""The command that makes a corpus, which needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from ulmfit_fast.cli import options
from ulmfit_fast.core.console import say
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.progress import Progress, progress_bar
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.corpus_parts import Part, tokenize_part
from ulmfit_fast.text.reading import ReadOptions
from ulmfit_fast.text.tokenizer import DIRECTIONS, KINDS, Tokenizer

OF_A_VOCABULARY = ("tokenizer", "vocab_size", "min_frequency", "direction")


@click.command("tokenize")
@click.argument("source", metavar="TEXTS", type=Path)
@click.option("--output", required=True, type=Path, help="corpus folder to write, for pretrain-lm and finetune-lm")
@click.option("--valid", type=Path, help="texts for validation; without it one of twenty documents is held out")
@click.option("--overwrite", is_flag=True, help="replace another corpus in the output folder")
@options.reading_options()
@click.option("--like", type=Path, help="folder of a language model whose tokenizer to use, for finetune-lm")
@click.option("--tokenizer", default="word", type=click.Choice(KINDS), show_default=True, help="kind of tokens")
@click.option("--vocab-size", default=60_000, type=click.IntRange(min=16), show_default=True, help="largest vocabulary")
@click.option(
    "--min-frequency", default=3, type=click.IntRange(min=1), show_default=True, help="rarer words are unknown"
)
@click.option(
    "--direction", default="forward", type=click.Choice(DIRECTIONS), show_default=True,
    help="backward: texts are read from their end",
)  # fmt: skip
@options.processes
@click.option(
    "--seed", default=0, type=click.IntRange(min=0), show_default=True, help="seed that draws the held-out documents"
)
@click.option(
    "--shard-mb", default=0, type=click.IntRange(min=0), show_default=True,
    help="write several files, each of so many MB of text; an interrupted run keeps those it finished; 0: one file",
)  # fmt: skip
@click.option(
    "--part",
    metavar="K/N",
    help="with --shard-mb, for several machines and one folder: every N-th shard from the K-th on, after one run with "
    "--part vocabulary; a run without --part joins them",
)
def tokenize_command(
    source: Path, output: Path, valid: Path | None, overwrite: bool, reading: ReadOptions, like: Path | None,
    tokenizer: str, vocab_size: int, min_frequency: int, direction: str, processes: int, seed: int, shard_mb: int,
    part: str | None,
) -> None:  # fmt: skip
    """Tokenize TEXTS of any size into a corpus folder.

    pretrain-lm and finetune-lm read the folder from disk.
    """
    given = None
    if like is not None:
        options.refuse_given(OF_A_VOCABULARY, f"{like} has a vocabulary")
        given = Tokenizer.load(like / "tokenizer.json")
    options.refuse_unused_reading(reading, source, valid)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; give a folder for the corpus")
    files = Source(source, valid, reading, tokenizer, vocab_size, min_frequency, seed, given, direction)
    if part is not None:
        _tokenize_part(files, output, Part.parse(part), shard_mb * 1_000_000, processes, overwrite)
        return
    tokenize(files, output, processes, overwrite, shard_mb * 1_000_000)
    say(f"corpus in {output}")


def _tokenize_part(source: Source, folder: Path, part: Part, shard_bytes: int, processes: int, overwrite: bool) -> None:
    with progress_bar("tokenize", 0, "B") as bar:
        shards = tokenize_part(source, folder, part, shard_bytes, processes, _shown_by(bar), overwrite)
    if (folder / "train.tokens").exists():
        say(f"corpus in {folder}, all parts of it")
    elif part.count:
        say(f"part {part.index} of {part.count} of the corpus in {folder}: {shards} shards")
    else:
        say(f"vocabulary of the corpus in {folder}")


def _shown_by(bar: Progress) -> Callable[[str, int], None]:
    def advance(title: str, count: int) -> None:
        bar.title = title
        bar.update(count)

    return advance


def tokenize(source: Source, folder: Path, processes: int, overwrite: bool, shard_bytes: int = 0) -> Corpus:
    """``tokenize_corpus`` with a bar, and a line on how fast it was."""
    with progress_bar("tokenize", 0, "B") as bar:
        corpus, figures = tokenize_corpus(source, folder, processes, _shown_by(bar), overwrite, shard_bytes)
    if figures:
        say(
            f"tokenized {figures['megabytes']:.1f} MB in {figures['seconds']:.0f} s "
            f"({figures['megabytes'] / figures['seconds']:.1f} MB/s, {processes} processes): "
            f"{figures['documents']:,.0f} documents, {figures['tokens']:,.0f} tokens to train on, vocabulary "
            f"{len(corpus.tokenizer):,}",
            error=True,
        )
    return corpus


COMMANDS = {"tokenize": tokenize_command}
