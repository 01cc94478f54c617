"""Results, one JSON line a run, appended: an interrupted benchmark goes on, and one model can be run again alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "results" / "accuracy"
Line = dict[str, Any]
Key = tuple[str, int, int, str, str]


def key(line: Line) -> Key:
    """What a run is known by: data set, labels, draw, model, settings."""
    settings = json.dumps(line["settings"], sort_keys=True)
    return line["data set"], line["labels"], line["draw"], line["model"], settings


def read(path: Path) -> dict[Key, Line]:
    """The lines by their keys; of several with one key the last. A line that was cut off by a crash is left out."""
    if not path.exists():
        return {}
    return {key(line): line for line in _lines(path)}


def _lines(path: Path) -> Iterator[Line]:
    text = path.read_text(encoding="utf-8")
    whole = text.rpartition("\n")[0]
    for number, line in enumerate(whole.split("\n"), 1):
        if line:
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, line {number}: no JSON ({error}); delete the line") from None


def append(path: Path, line: Line) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n"
    with path.open("ab+") as file:
        if file.tell():
            _drop_what_was_cut_off(path)
        file.write(text.encode())


def _drop_what_was_cut_off(path: Path) -> None:
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        with path.open("rb+") as file:
            file.truncate(end)
