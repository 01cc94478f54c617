"""What can be fuzzed: a surface makes cases and runs them; it may raise what the command line turns into one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from ulmfit_fast.core.errors import InputError, TrainingDivergedError

Case = Callable[[], Any]


class Surface:
    """One kind of input.

    ``__init__`` prepares what all cases share, in ``folder``, which is the surface's own. ``case`` draws one: it
    returns what runs it, and all that is drawn is drawn from ``random``. A case may also raise ``AssertionError``, for
    what must hold whatever comes in.
    """

    name = ""
    refusals: tuple[type[BaseException], ...] = (InputError, TrainingDivergedError)
    seconds = 20.0  # that a case may take
    memory = 192 << 20  # bytes by which a case may raise the process's memory ...
    memory_per_byte = 64  # ... and for each byte that it reads

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.size = 0  # bytes of the last case's input

    def case(self, random: Random) -> Case:
        raise NotImplementedError

    def refuses(self, error: BaseException) -> bool:
        """Whether an exception is a refusal as users may see it."""
        if isinstance(error, OSError):  # of the file system: the command line names the file
            return error.strerror is not None
        return isinstance(error, self.refusals)


@dataclass
class Find:
    """What should not happen: of one place in the program, however many cases led there."""

    surface: str
    kind: str  # crash, hang, exception, code, memory, wrong
    place: str  # what finds of one cause share
    case: int  # the first
    detail: str = ""
    count: int = field(default=1)

    def line(self) -> str:
        return f"{self.surface}: case {self.case}: {self.kind} at {self.place} ({self.count} x)"


def place_of(error: BaseException) -> str:
    """An exception's type, and the last line of the package that it came through."""
    place, trace = "?", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "ulmfit_fast/" in code.co_filename:
            place = f"{re.sub(r'.*(?=ulmfit_fast/)', '', code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} {place}"
