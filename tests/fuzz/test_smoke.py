"""A few cases of each surface; and that crashes, hangs, code that runs, memory and other exceptions are found."""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import SURFACES
from tests.fuzz.runner import Report, fuzz
from tests.fuzz.surface import Case, Surface
from ulmfit_fast.core.errors import InputError

CASES = {"checkpoints": 60, "models": 150}  # which take longer; of the others as many as follow
_OTHERS, _SECONDS = 300, 120.0


@pytest.mark.parametrize("name", SURFACES)
def test_nothing_but_refusals(name: str) -> None:
    report = fuzz(name, SURFACES[name], seed=2, first=0, cases=CASES.get(name, _OTHERS), seconds=_SECONDS)
    assert report.finds == {}, f"{report}\n" + "\n".join(find.detail for find in report.finds.values())
    assert report.cases >= 20
    assert report.outcomes["accepted"] >= 1
    assert report.outcomes["refused"] >= 1 or name == "requests"  # whose refusals are answers


class Bad(Surface):
    """What must be found, a kind a case."""

    name = "bad"
    seconds = 3.0
    memory = 32 << 20

    def case(self, random: Random) -> Case:
        number = self.drawn = getattr(self, "drawn", -1) + 1
        return (
            lambda: None, _refuse, _wrong, _raise, lambda: os.system("true"), _allocate, lambda: os.abort(),
            lambda: None, lambda: time.sleep(60), lambda: eval("1 + 1"), lambda: None,
        )[number + self.skipped()]  # fmt: skip

    def skipped(self) -> int:
        """A new process goes on where the last one ended."""
        marks = Path(os.environ["FUZZ_MARKS"])
        before = int(marks.read_text()) if marks.exists() else 0
        if self.drawn == 0:
            self.before = before
        marks.write_text(str(self.before + self.drawn + 1))
        return self.before


def _refuse() -> None:
    raise InputError("no")


def _wrong() -> None:
    raise AssertionError("wrong")


def _raise() -> None:
    raise KeyError("what nobody wrote")


def _allocate() -> None:
    assert bytearray(64 << 20).count(1) == 0


def test_what_should_not_happen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_MARKS", str(tmp_path / "marks"))
    report: Report = fuzz("bad", "tests.fuzz.test_smoke:Bad", seed=0, first=0, cases=11, seconds=100.0)
    kinds = sorted((find.kind, find.case) for find in report.finds.values())
    assert kinds == [
        ("code", 4), ("code", 9), ("crash", 6), ("exception", 3), ("hang", 8), ("memory", 5), ("wrong", 2),
    ], str(report)  # fmt: skip
    assert report.cases == 11
    assert report.outcomes["refused"] == 1


def test_a_seed_repeats_its_cases() -> None:
    first, second = (fuzz("tables", SURFACES["tables"], 5, 0, 40, 100.0).outcomes for _ in range(2))
    assert first == second
