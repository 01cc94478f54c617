"""The process that runs a surface's cases: ``python -m tests.fuzz.worker``, started by ``runner``.

It tells its parent the number of each case before it begins, so that the parent knows which one ended the process.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.guard import Guard
from tests.fuzz.surface import Surface, place_of

_ADDRESS_SPACE = 6 << 30  # beyond what the process has when it begins: what asks for more gets a MemoryError
_GROWTH = 256 << 20  # bytes that a process may have gained after thousands of cases
_WARM = 300  # cases after which a process should no longer grow


class Peak:
    """The most memory that the process held since ``begin``."""

    def __init__(self) -> None:
        self._reset = os.open("/proc/self/clear_refs", os.O_WRONLY)
        self._status = os.open("/proc/self/status", os.O_RDONLY)
        self.before = 0

    def _read(self, name: bytes) -> int:
        text = os.pread(self._status, 4096, 0)
        return int(text.split(name)[1].split()[0]) << 10

    @property
    def now(self) -> int:
        return self._read(b"VmRSS:")

    def begin(self) -> None:
        os.pwrite(self._reset, b"5", 0)
        self.before = self.now

    def grown(self) -> int:
        return self._read(b"VmHWM:") - self.before


class Worker:
    def __init__(self, surface: Surface, seed: int, parent: int) -> None:
        self.surface, self.seed, self.parent = surface, seed, parent
        self.guard, self.peak = Guard(), Peak()
        self.outcomes = Counter[str]()
        self.settled = 0

    def tell(self, **message: Any) -> None:
        os.write(self.parent, (json.dumps(message) + "\n").encode())

    def find(self, case: int, kind: str, place: str, detail: str = "") -> None:
        self.outcomes[kind] += 1
        self.tell(
            find={"surface": self.surface.name, "kind": kind, "place": place, "case": case, "detail": detail[-3000:]}
        )

    def run(self, first: int, after: int, deadline: float) -> None:
        case = first
        while case < after and time.monotonic() < deadline:
            self.tell(begin=case)
            self.one(case)
            case += 1
            self.report()  # what is not told is lost where the next case ends the process
            if case - first == _WARM:
                self.settled = self.peak.now
        if self.settled and self.peak.now - self.settled > _GROWTH:
            self.find(
                case, "memory", "all cases", f"grew by {(self.peak.now - self.settled) >> 20} MiB from case to case"
            )
        self.report()
        self.tell(end=case)

    def report(self) -> None:
        self.tell(outcomes=self.outcomes)
        self.outcomes.clear()

    def one(self, case: int) -> None:
        run = self.surface.case(Random(f"{self.surface.name} {self.seed} {case}"))
        self.peak.begin()
        self.guard.armed = True
        outcome, place, detail = "accepted", "", ""
        try:
            run()
        except AssertionError as error:
            outcome, place, detail = "wrong", place_of(error), traceback.format_exc()
        except BaseException as error:  # a panic of a library in Rust is no Exception
            outcome = "refused"
            if not self.surface.refuses(error):
                outcome, place, detail = "exception", place_of(error), traceback.format_exc()
        self.guard.armed = False
        if self.guard.seen:
            self.find(case, "code", self.guard.seen[0].split()[0], "\n".join(self.guard.seen))
            self.guard.seen.clear()
        limit = self.surface.memory + self.surface.memory_per_byte * self.surface.size
        if (grown := self.peak.grown()) > limit:
            self.find(case, "memory", "a case", f"took {grown >> 20} MiB for {self.surface.size} bytes")
        if outcome in ("wrong", "exception"):
            self.find(case, outcome, place, detail)
        else:
            self.outcomes[outcome] += 1


def make(name: str, folder: Path) -> Surface:
    """A surface of the module of its name."""
    module, _, attribute = name.partition(":")
    surface: Surface = getattr(importlib.import_module(module), attribute)(folder)
    return surface


def main(name: str, folder: str, seed: str, first: str, after: str, seconds: str, parent: str) -> None:
    faulthandler.enable()
    surface = make(name, Path(folder))
    warnings.simplefilter("ignore")
    sanitized = "libasan" in os.environ.get("LD_PRELOAD", "")
    if not sanitized:  # whose shadow memory would not fit
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _ADDRESS_SPACE, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = Worker(surface, int(seed), int(parent))
    worker.tell(ready=surface.seconds * (10 if sanitized else 1))
    worker.run(int(first), int(after), time.monotonic() + float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # not the surfaces' threads
