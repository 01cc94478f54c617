"""The command line's options: those that several commands share, and one for every field of a configuration.

And what follows from options alike: reading texts, refusing an option that would do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.text.files import SPLITS, Documents, read_documents
from ulmfit_fast.text.parallel import available_processes


def config_options(config: type) -> Callable[[Any], Any]:
    """An option for every field of a stage's configuration; the command receives the configuration built from them."""

    def decorate(function: Any) -> Any:
        def run(**values: Any) -> None:
            chosen = {f.name: values.pop(f.name) for f in fields(config)}
            function(config=config(**chosen), **values)

        run.__doc__ = function.__doc__
        run.__name__ = function.__name__
        run.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for f in reversed(fields(config)):
            name = f.name.replace("_", "-")
            flag = f"--{name}/--no-{name}" if isinstance(f.default, bool) else f"--{name}"
            choices = f.metadata["choices"]
            option = click.option(
                flag, f.name, default=f.default, type=type(f.default), show_default=True, help=f.metadata["help"],
                metavar=f"[{'|'.join(choices)}]" if choices else None,
            )  # fmt: skip
            run = option(run)
        return run

    return decorate


text_column = click.option("--text-column", default="text", show_default=True, help="column with the texts")
label_column = click.option("--label-column", default="label", show_default=True, help="column with the labels")
max_texts = click.option("--max-texts", type=click.IntRange(min=1), help="use only so many texts, drawn by --seed")
output = click.option("--output", required=True, type=Path, help="model folder to write")
overwrite = click.option("--overwrite", is_flag=True, help="replace what the output folder holds: model, run, corpus")
resume = click.option(
    "--resume", is_flag=True, help="go on from the checkpoint in the output folder, if there is one; same options"
)
split = click.option(
    "--split", default="auto", type=click.Choice(SPLITS), show_default=True,
    help="documents of a .txt: between blank lines, lines, the whole file, or auto: blank lines if there are any",
)  # fmt: skip
processes = click.option(
    "--processes",
    default=available_processes(),
    type=click.IntRange(min=1),
    help="processes that tokenize  [default: cores]",
)
batch_size = click.option(
    "--batch-size",
    default=64,
    type=click.IntRange(min=1),
    show_default=True,
    help="texts at a time; does not change the result",
)
max_tokens = click.option(
    "--max-tokens",
    default=1_000_000,
    type=click.IntRange(min=1),
    show_default=True,
    help="tokens at a time; does not change the result",
)
sample_seed = click.option(
    "--seed", default=0, type=click.IntRange(min=0), show_default=True, help="seed that draws the texts of --max-texts"
)
classifiers = click.option(
    "--model", "folders", required=True, multiple=True, type=Path,
    help="folder of a classifier; give several to predict by the mean of their probabilities",
)  # fmt: skip


def refuse_given(names: Sequence[str], reason: str) -> None:
    """An error if one of these options is on the command line, where it would do nothing."""
    for name in names:
        if is_given(name):
            raise InputError(f"--{name.replace('_', '-')} does nothing here: {reason}")


def is_given(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) == ParameterSource.COMMANDLINE


def read_texts(source: Path, text_column: str, label_column: str | None, max_texts: int | None, seed: int) -> Documents:
    return read_documents(source, text_column, label_column).sample(max_texts, seed)
