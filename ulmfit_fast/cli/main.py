"""The ``ulmfit-fast`` command: options to configurations, pipeline calls, printing. Bad input: one line, status 2."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from typing import Any, ClassVar

import click

from ulmfit_fast.core.errors import InputError, InputWarning, TrainingDivergedError
from ulmfit_fast.core.interrupt import terminated_as_interrupted


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    try:
        with terminated_as_interrupted(), warnings.catch_warnings():
            warnings.showwarning = _in_one_line(warnings.showwarning)
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


def _in_one_line(otherwise: Any) -> Any:
    """What shows warnings: the input's without Python's file and line."""

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, InputWarning):
            click.echo(f"ulmfit-fast: warning: {' '.join(str(message).split())}", err=True)
        else:
            otherwise(message, category, *where)

    return show


def _fail(message: str, status: int = 2) -> int:
    click.echo(f"ulmfit-fast: error: {' '.join(message.split())}", err=True)
    return status


class _Group(click.Group):
    """A command is imported when it is wanted: only some need torch."""

    _MODULES: ClassVar = {
        "tokenize": "tokenize", "import-lm": "import_lm",
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

    Files are .txt, .csv, .jsonl or .parquet, plain or compressed (.xz, .gz, .bz2, .zst), or a folder of .txt.
    """


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
