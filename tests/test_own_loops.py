"""The code of the guide to other loops runs as it stands there, and learns."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "own-loops.md").read_text(encoding="utf-8")
FIRST, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)
NEEDS = {"A plain loop": None, "skorch": "skorch", "Lightning": "lightning", "small-text": "small_text"}


def test_every_section_is_run() -> None:
    assert [section.splitlines()[0] for section in SECTIONS] == list(NEEDS)


@pytest.mark.parametrize("section", SECTIONS, ids=list(NEEDS))
def test_the_code_learns(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = NEEDS[section.splitlines()[0]]
    monkeypatch.chdir(tmp_path)  # Lightning writes beside the program
    names: dict[str, Any] = {"__name__": "guide"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of those packages, about theirs
        if package is not None:
            pytest.importorskip(package, reason=f"{package} is not installed")
        for part in (FIRST, section):
            (code,) = re.findall(r"```python\n(.*?)```", part, re.DOTALL)
            exec(compile(code, "own-loops.md", "exec"), names)
    predicted = torch.as_tensor(names["predicted"])
    assert float((predicted == names["labels"]).float().mean()) > 0.9
