"""The ``ulmfit-fast`` command: options to configurations, pipeline calls, printing. Bad input: one line, status 2."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ulmfit_fast import cli_options as options
from ulmfit_fast.errors import InputError, TrainingDivergedError
from ulmfit_fast.interrupt import terminated_as_interrupted
from ulmfit_fast.progress import progress_bar
from ulmfit_fast.text.corpus import Corpus, Source, tokenize_corpus
from ulmfit_fast.text.tokenizer import TOKENIZERS


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        with terminated_as_interrupted():
            command.main(arguments, prog_name="ulmfit-fast", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
    except click.ClickException as error:
        return _fail(error.format_message())
    except (InputError, TrainingDivergedError) as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename or 'file system'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort) as error:
        return _fail(str(error.__cause__ or error) or "interrupted", 130)  # click wraps the interruption
    return 0


def _fail(message: str, status: int = 2) -> int:
    click.echo(f"ulmfit-fast: error: {' '.join(message.split())}", err=True)
    return status


class _Group(click.Group):
    """The commands that need torch are imported when one of them is wanted."""

    _TRAINING = ("pretrain-lm", "finetune-lm", "train")
    _PREDICTION = ("predict", "evaluate", "info", "demo")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *self._TRAINING, *self._PREDICTION]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._TRAINING:
            from ulmfit_fast import cli_training

            return cli_training.COMMANDS[cmd_name]
        if cmd_name in self._PREDICTION:
            from ulmfit_fast import cli_prediction

            return cli_prediction.COMMANDS[cmd_name]
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ulmfit_fast")
def command() -> None:
    """Text classification by universal language model fine-tuning, on native kernels.

    Files are .txt, .csv, .jsonl or .parquet, plain or compressed (.xz, .gz, .bz2, .zst), or a folder of .txt.
    """


@command.command("tokenize")
@click.argument("source", metavar="TEXTS", type=Path)
@click.option("--output", required=True, type=Path, help="corpus folder to write, for pretrain-lm")
@click.option("--valid", type=Path, help="texts for validation; without it one of twenty documents is held out")
@click.option("--overwrite", is_flag=True, help="replace another corpus in the output folder")
@options.text_column
@options.split
@click.option("--tokenizer", default="word", type=click.Choice(TOKENIZERS), show_default=True, help="kind of tokens")
@click.option("--vocab-size", default=60_000, type=click.IntRange(min=16), show_default=True, help="largest vocabulary")
@click.option(
    "--min-frequency", default=3, type=click.IntRange(min=1), show_default=True, help="rarer words are unknown"
)
@options.processes
@click.option("--seed", default=0, type=click.IntRange(min=0), show_default=True, help="of the held-out documents")
def tokenize_command(
    source: Path, output: Path, valid: Path | None, overwrite: bool, text_column: str, split: str, tokenizer: str,
    vocab_size: int, min_frequency: int, processes: int, seed: int,
) -> None:  # fmt: skip
    """Tokenize TEXTS of any size into a corpus folder that pretrain-lm reads from disk."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; give a folder for the corpus")
    files = Source(source, valid, text_column, split, tokenizer, vocab_size, min_frequency, seed)
    tokenize(files, output, processes, overwrite)
    click.echo(f"corpus in {output}")


def tokenize(source: Source, folder: Path, processes: int, overwrite: bool) -> Corpus:
    """``tokenize_corpus`` with a bar, and a line on how fast it was."""
    with progress_bar("tokenize", 0, "B") as bar:

        def advance(title: str, count: int) -> None:
            bar.set_description(title, refresh=False)
            bar.update(count)

        corpus, figures = tokenize_corpus(source, folder, processes, advance, overwrite)
    if figures:
        click.echo(
            f"tokenized {figures['megabytes']:.1f} MB in {figures['seconds']:.0f} s "
            f"({figures['megabytes'] / figures['seconds']:.1f} MB/s, {processes} processes): "
            f"{figures['documents']:,.0f} documents, {figures['tokens']:,.0f} tokens to train on, vocabulary "
            f"{len(corpus.tokenizer):,}",
            err=True,
        )
    return corpus


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
