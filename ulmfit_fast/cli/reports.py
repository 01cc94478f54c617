"""What ``evaluate`` writes beside what it prints: a page, and JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.evaluation import evaluation_of
from ulmfit_fast.inference.report import report_page
from ulmfit_fast.interop.model_card import model_card
from ulmfit_fast.text.files import Documents
from ulmfit_fast.text.outputs import OutputFile


@dataclass(frozen=True)
class ReportFiles:
    """Where they go; None: not written.

    Raises:
        InputError: one is there already and may not be replaced, or cannot be written.
    """

    page: Path | None
    json: Path | None
    overwrite: bool

    def __post_init__(self) -> None:
        for path in (self.page, self.json):
            if path is not None and OutputFile(path).exists() and not self.overwrite:
                raise InputError(f"{path}: exists; choose another file or pass --overwrite")

    @property
    def wanted(self) -> bool:
        return self.page is not None or self.json is not None

    @property
    def to_standard_output(self) -> bool:
        return any(path is not None and OutputFile(path).is_standard for path in (self.page, self.json))

    def write(
        self, classifiers: Classifiers, folders: tuple[Path, ...], documents: Documents, activated: np.ndarray,
        targets: Tensor,
    ) -> None:  # fmt: skip
        """Find out the rest, and write the files."""
        evaluation = evaluation_of(
            classifiers, " and ".join(map(str, folders)), documents.source, documents.texts, documents.labels or [],
            documents.rows, activated, targets,
        )  # fmt: skip
        if self.page is not None:
            content = report_page(evaluation, classifiers, _history(folders[0]), _card(folders))
            with OutputFile(self.page) as file:
                file.write(content.encode())
        if self.json is not None:
            write_json(self.json, evaluation.to_dict())


def write_json(path: Path, content: dict[str, Any]) -> None:
    with OutputFile(path) as file:
        file.write((json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _history(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder's training; none where there is no history, or a damaged one."""
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [record for record in map(json.loads, lines) if isinstance(record, dict)]
    except (OSError, ValueError):
        return []


def _card(folders: tuple[Path, ...]) -> str:
    """The folders' cards, without the lines that only a hub reads."""
    return "\n\n".join(model_card(folder).split("---\n", 2)[-1].strip() for folder in folders)
