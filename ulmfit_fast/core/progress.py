"""How far long work is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from ulmfit_fast.core.console import Surviving, is_terminal, say

LINE_SECONDS = 60.0  # between lines; the first comes after as long


class Progress:
    """Work that goes on, within a ``with``; see ``progress_bar``.

    Attributes:
        title: what is being done.
        total: of all the work, 0 where that is not known; may change.
        done: so far.
        figures: shown beside, by name.
    """

    def __init__(self, title: str, total: float, unit: str, enabled: bool, initial: float) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self._initial = initial
        self.figures: dict[str, str] = {}
        self._bar: Any = None
        self._prints_lines = enabled
        self._start = self._last_line = time.monotonic()
        if enabled and is_terminal(sys.stderr):
            self._prints_lines = False
            self._bar = tqdm(
                total=total or None, desc=title, unit=unit, unit_scale=True, leave=False, dynamic_ncols=True,
                initial=initial, file=Surviving(sys.stderr),
            )  # fmt: skip

    def update(self, amount: float) -> None:
        """So much more is done."""
        self.done += amount
        if self._bar is not None:
            self._bar.total = self.total or None
            if self._bar.desc != f"{self.title}: ":
                self._bar.set_description(self.title, refresh=False)
            if self.figures:
                self._bar.set_postfix(self.figures, refresh=False)
            self._bar.update(amount)
        elif self._prints_lines and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            say(self.line(), error=True)

    def line(self) -> str:
        """How far it is, in one line."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._initial) / seconds
        amount, left = f"{tqdm.format_sizeof(self.done)} {self.unit}", ""
        if self.total:
            amount = (
                f"{min(self.done / self.total, 1):.0%}, {tqdm.format_sizeof(self.done)} of "
                f"{tqdm.format_sizeof(self.total)} {self.unit}"
            )
            if rate > 0:
                left = f", {tqdm.format_interval(max(self.total - self.done, 0) / rate)} left"
        figures = "".join(f", {name} {value}" for name, value in self.figures.items())
        return f"{self.title}: {amount}, {tqdm.format_sizeof(rate)} {self.unit}/s{left}{figures}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()


def progress_bar(title: str, total: float, unit: str, enabled: bool = True, initial: float = 0) -> Progress:
    """How far work is: amount, rate, time left.

    Where standard error is a terminal, a bar; where it is a file or a pipe, a line about once in ``LINE_SECONDS``, the
    first after as long, so that short work says nothing; where it is closed or None, nothing.

    Args:
        title: what is being done.
        total: of all the work in units, 0 where that is not known.
        unit: such as "tok".
        enabled: False shows nothing.
        initial: what was done before; it does not count for the rate.
    """
    return Progress(title, total, unit, enabled, initial)
