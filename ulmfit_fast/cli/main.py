"""The ``ulmfit-fast`` command: options to configurations, pipeline calls, printing. Bad input: one line, status 2."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from importlib import import_module
from typing import Any, ClassVar

import click

from ulmfit_fast.cli.processes import Together, together
from ulmfit_fast.core.console import say, usable_streams
from ulmfit_fast.core.errors import InputError, InputWarning, ProcessLostError, TrainingDivergedError, shortened
from ulmfit_fast.core.interrupt import terminated_as_interrupted

_LONGEST_MESSAGE = 1000  # characters: what it quotes may be as long as the input
# Of torch's RuntimeErrors.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|multiplication overflow|overflowed")


def main(arguments: list[str]) -> int:
    """Run one command; returns the exit status."""
    with usable_streams(), warnings.catch_warnings():
        warnings.showwarning = _NoticesOnce()
        return _run(arguments)


def _run(arguments: list[str]) -> int:
    try:
        os.getcwd()
    except OSError:  # MKL would end the process with words that mislead
        return fail("the current folder has been deleted; change to one that exists, such as by cd /")
    with contextlib.ExitStack() as stack:
        return _run_together(arguments, stack)


def _run_together(arguments: list[str], stack: contextlib.ExitStack) -> int:
    """``stack`` keeps the processes together until their error has been told."""
    processes = Together()

    def tell(message: str, status: int = 2) -> int:
        return fail(message, status) if processes.may_speak() else status

    try:
        with terminated_as_interrupted():
            processes = stack.enter_context(together(arguments))
            with processes.at_work():
                command.main(arguments or ["--help"], prog_name="ulmfit-fast", standalone_mode=False)
    except click.ClickException as error:
        return tell(error.format_message())
    except ProcessLostError as error:
        return tell(f"{error}; go on with --resume", 1)
    except (InputError, TrainingDivergedError) as error:
        return tell(str(error))
    except OSError as error:
        return tell(f"{error.filename or 'standard output or a file'}: {error.strerror or error}")
    except (KeyboardInterrupt, click.Abort) as error:
        return tell(str(error.__cause__ or error) or "interrupted", 130)  # click wraps the interruption
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
            raise
        return tell(f"not enough memory ({error}); try smaller batches or a smaller model")
    return 0


def fail(message: str, status: int = 2) -> int:
    """Tell of an error; returns the exit status."""
    say(f"ulmfit-fast: error: {_one_line(message)}", error=True)
    return status


def _one_line(message: str) -> str:
    """What it quotes may be long, or have characters that would steer a terminal."""
    return "".join(
        x if x.isprintable() else x.encode("unicode_escape").decode() for x in shortened(message, _LONGEST_MESSAGE)
    )


class _NoticesOnce:
    """Shows each warning once, on a line: files are read several times."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def __call__(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if str(message) not in self._shown:
            self._shown.add(str(message))
            kind = "warning" if issubclass(category, InputWarning) else "note"
            say(f"ulmfit-fast: {kind}: {_one_line(str(message))}", error=True)


class _Group(click.Group):
    """A command is imported when it is wanted: only some need torch."""

    _SECTIONS: ClassVar[dict[str, dict[str, str]]] = {  # commands and their modules
        "Classify": {
            "demo": "demo", "train": "training", "predict": "prediction", "evaluate": "prediction",
            "explain": "explain", "compare": "compare", "serve": "serve", "info": "prediction",
        },
        "With few labels": {
            "train-linear": "train_linear", "self-train": "self_train", "suggest": "suggest",
            "check-labels": "check_labels", "zero-shot": "zero_shot",
        },
        "Several tasks, and options": {
            "train-many": "train_many", "lr-find": "rates", "schedule": "rates", "search": "search",
        },
        "Language models": {
            "tokenize": "tokenize", "pretrain-lm": "training", "finetune-lm": "training", "generate": "generate",
        },
        "Models in and out": {
            "import-lm": "import_lm", "import-classifier": "import_classifier", "convert": "convert", "push": "push",
        },
    }  # fmt: skip
    _MODULES: ClassVar = {name: module for section in _SECTIONS.values() for name, module in section.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = self._MODULES.get(cmd_name)
        return None if module is None else import_module(f"ulmfit_fast.cli.{module}").COMMANDS[cmd_name]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self._MODULES))
        for title, modules in self._SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in modules]
            rows = [
                (name.ljust(widest), found.get_short_help_str(200)) for name, found in commands if found is not None
            ]
            with formatter.section(title):
                formatter.write_dl(rows)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ulmfit_fast")
def command() -> None:
    """Text classification by universal language model fine-tuning, on native kernels.

    Files are .txt, .csv, .tsv, .jsonl or .parquet, plain or compressed (.xz, .gz, .bz2, .zst), a .zip of one kind, a
    folder of .txt, or - for standard input.
    """


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
