"""The folder that a command or a training writes a model to: whether it may, and that no other run does."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ulmfit_fast.core import distributed
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.lock import locked_folder
from ulmfit_fast.storage.run_file import CHECKPOINT

P = ParamSpec("P")
R = TypeVar("R")


def check_output_folder(folder: str | Path, overwrite: bool = False, resume: bool = False) -> Path:
    """Raise InputError where a model cannot be written to ``folder``, before any work is done.

    A folder with a model needs ``overwrite``; one with a run that can go on needs ``resume`` or ``overwrite``.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder for the model")
    if not folder.absolute().parent.is_dir():
        raise InputError(f"{folder}: the folder {folder.absolute().parent} does not exist")
    if not os.access(folder if folder.exists() else folder.absolute().parent, os.W_OK):
        raise InputError(f"{folder}: no permission to write there")
    if (folder / "train.tokens").exists():
        raise InputError(f"{folder}: holds a corpus; choose another folder for the model")
    can_go_on = (folder / CHECKPOINT).exists()
    if (folder / "config.json").exists() and not overwrite and not (resume and can_go_on):
        raise InputError(f"{folder}: already holds a model; choose another folder or pass --overwrite")
    if can_go_on and not overwrite and not resume:
        raise InputError(f"{folder}: holds a run that can go on; pass --resume, or --overwrite to start again")
    return folder


@contextlib.contextmanager
def output_folder(folder: str | Path, overwrite: bool = False, resume: bool = False) -> Iterator[Path]:
    """``check_output_folder``, and within the block no other run can write there.

    Of processes that train together the first does both, and the others go on when it has.

    Raises:
        InputError: the folder cannot be used, or another run writes there.
    """
    processes = distributed.current()
    with contextlib.ExitStack() as stack:
        with processes.first_goes_first():
            if processes.is_first:
                check_output_folder(folder, overwrite, resume)
                stack.enter_context(locked_folder(folder))
                check_output_folder(folder, overwrite, resume)  # what the lock was waited for may have changed it
        yield Path(folder)


def writes_output(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function with keyword arguments ``output``, ``overwrite`` and ``resume`` within that ``output_folder``."""

    @functools.wraps(function)
    def run(*arguments: P.args, **options: P.kwargs) -> R:
        output: Any = options.get("output")
        if output is None:
            return function(*arguments, **options)
        with output_folder(output, bool(options.get("overwrite")), bool(options.get("resume"))):
            return function(*arguments, **options)

    return run
