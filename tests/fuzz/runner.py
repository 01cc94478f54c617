"""Runs a surface's cases in a process that may crash, hang or grow, and says what happened."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.surface import Find

_PREPARING_S = 300.0
_DYING_S = 10.0
_MOST_RESTARTS = 200
_SANITIZER = re.compile(r"ERROR: AddressSanitizer|runtime error:")


@dataclass
class Report:
    """What came of a surface's cases."""

    surface: str
    seed: int
    cases: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    finds: dict[tuple[str, str], Find] = field(default_factory=dict)

    def add(self, find: Find) -> None:
        known = self.finds.setdefault((find.kind, find.place), find)
        if known is not find:
            known.count += 1

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(self.outcomes.items()))
        head = f"{self.surface}: {self.cases:,} cases in {self.seconds:.0f} s, seed {self.seed}: {counts or 'none'}"
        return "\n".join([head, *(f"  {find.line()}" for find in self.finds.values())])


def fuzz(
    name: str, implementation: str, seed: int, first: int, cases: int, seconds: float,
    on_find: Callable[[Find], None] = lambda find: None,
) -> Report:  # fmt: skip
    """Run so many cases of a surface, or as many as there is time for.

    Args:
        name: of the surface.
        implementation: "module:class" of a ``Surface``.
        seed, first: cases ``first`` ... of this seed; the same ones each time.
        cases: at most.
        seconds: for all; the case that runs then is the last.
        on_find: called with each find of a new place.
    """
    report, begun, case = Report(name, seed), time.monotonic(), first
    deadline = begun + seconds
    for _ in range(_MOST_RESTARTS):
        if case >= first + cases or (case > first and time.monotonic() >= deadline):
            break
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_memory_folder()) as folder:
            child = _Child(
                implementation, Path(folder), seed, case, first + cases, max(deadline - time.monotonic(), 1.0)
            )
            case = child.follow(report, case, on_find)
    report.cases, report.seconds = case - first, time.monotonic() - begun
    return report


def _memory_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class _Child:
    """One worker, from its start to its end."""

    def __init__(self, implementation: str, folder: Path, seed: int, first: int, after: int, seconds: float) -> None:
        self.reading, writing = os.pipe()
        self.errors = folder / "stderr"
        work = folder / "work"
        work.mkdir()
        arguments = [implementation, str(work), *map(str, (seed, first, after, seconds, writing))]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.worker", *arguments], pass_fds=[writing], stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=errors, cwd=Path(__file__).parents[2], start_new_session=True,
            )  # fmt: skip
        os.close(writing)
        self.rest = b""

    def follow(self, report: Report, case: int, on_find: Callable[[Find], None]) -> int:
        """Collect what the worker tells. Returns the case to go on with."""
        limit = case_seconds = _PREPARING_S
        ended = hangs = begun_case = False
        while True:
            readable, _, _ = select.select([self.reading], [], [], limit)
            data = os.read(self.reading, 1 << 16) if readable else b""
            if not readable:
                hangs = True
                self.process.send_signal(signal.SIGABRT)  # which shows where it is
            if not data:
                break
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "begin" in message:
                    case, begun_case, limit = message["begin"], True, case_seconds
                elif "ready" in message:
                    case_seconds = message["ready"]
                elif "find" in message:
                    self._add(report, Find(**message["find"]), on_find)
                elif "outcomes" in message:
                    report.outcomes.update(message["outcomes"])
                elif "end" in message:
                    case, ended = message["end"], True
        os.close(self.reading)
        try:
            status = self.process.wait(_DYING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if ended:
            return case
        said = self.errors.read_text(errors="replace")
        said = said if len(said) < 8000 else f"{said[:4000]}\n...\n{said[-4000:]}"
        if not begun_case or (status == 1 and not _SANITIZER.search(said)):  # an exception outside of a case
            raise RuntimeError(f"{report.surface}: case {case}: the worker itself failed, status {status}:\n{said}")
        kind = "hang" if hangs else "crash"
        report.outcomes[kind] += 1
        self._add(report, Find(report.surface, kind, _place(said, status), case, said), on_find)
        return case + 1

    def _add(self, report: Report, find: Find, on_find: Callable[[Find], None]) -> None:
        known = (find.kind, find.place) in report.finds
        report.add(find)
        if not known:
            on_find(find)


def _place(said: str, status: int) -> str:
    """Where a process died, by what faulthandler or a sanitizer wrote."""
    for line in said.splitlines():
        if _SANITIZER.search(line):
            return re.sub(r"==\d+==|0x[0-9a-f]+", "", line).strip()[-160:]
    for line in said.splitlines():
        if line.startswith("  File ") and "ulmfit_fast/" in line:
            return f"signal {-status} {line.strip()}"
    return f"signal {-status}" if status < 0 else f"exit status {status}"
