"""The ``ulmfit-fast`` command: options to configurations, pipeline calls, printing. Bad input: one line, status 2."""

from __future__ import annotations

import io
import sys
import warnings
from importlib import import_module
from typing import Any, ClassVar

import click

from ulmfit_fast.core.errors import InputError, TrainingDivergedError
from ulmfit_fast.core.interrupt import terminated_as_interrupted

_LONGEST_MESSAGE = 1000  # characters


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names and labels that the terminal cannot show
    try:
        with terminated_as_interrupted(), warnings.catch_warnings():
            warnings.showwarning = _NoticesOnce()
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
    message = " ".join(message.split())
    if len(message) > _LONGEST_MESSAGE:  # what it quotes may be as long as the input
        message = f"{message[: _LONGEST_MESSAGE // 2]} ... {message[-_LONGEST_MESSAGE // 2 :]}"
    click.echo(f"ulmfit-fast: error: {message}", err=True)
    return status


class _NoticesOnce:
    """Shows each warning once, on a line: files are read several times."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def __call__(self, message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in self._shown:
            self._shown.add(str(message))
            click.echo(f"ulmfit-fast: note: {' '.join(str(message).split())[:_LONGEST_MESSAGE]}", err=True)


class _Group(click.Group):
    """A command is imported when it is wanted: only some need torch."""

    _MODULES: ClassVar = {
        "tokenize": "tokenize", "import-lm": "import_lm", "convert": "convert",
        "pretrain-lm": "training", "finetune-lm": "training", "train": "training",
        "predict": "prediction", "evaluate": "prediction", "info": "prediction", "demo": "prediction",
    }  # fmt: skip

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self._MODULES.get(cmd_name)
        return None if module is None else import_module(f"ulmfit_fast.cli.{module}").COMMANDS[cmd_name]


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ulmfit_fast")
def command() -> None:
    """Text classification by universal language model fine-tuning, on native kernels.

    Files are .txt, .csv, .tsv, .jsonl or .parquet, plain or compressed (.xz, .gz, .bz2, .zst), a .zip of one kind, a
    folder of .txt, or - for standard input.
    """


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
