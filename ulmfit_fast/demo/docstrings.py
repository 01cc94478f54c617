"""Text that every installation carries: docstrings of the standard library, torch and numpy. Nothing is imported."""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

_SKIPPED = {"test", "tests", "testing", "site-packages", "idlelib", "lib2to3", "__pycache__", "_vendor", "include"}
_MIN_WORDS = 10


@dataclass(frozen=True)
class Docstring:
    """One docstring and where it stands, such as ``torch.nn.modules.rnn``."""

    module: str
    text: str


def read_docstrings(min_words: int = _MIN_WORDS) -> list[Docstring]:
    """All docstrings of at least ``min_words`` words, each text once, in a fixed order."""
    found: dict[str, str] = {}
    for root, prefix in _roots():
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if not _SKIPPED.intersection(parts):
                module = ".".join([*prefix, *(part for part in parts if part != "__init__")])
                for text in _docstrings_of(path):
                    if len(text.split()) >= min_words:
                        found.setdefault(text, module)
    return [Docstring(module, text) for text, module in found.items()]


def _roots() -> Iterator[tuple[Path, list[str]]]:
    yield Path(sysconfig.get_path("stdlib")), []
    for package in ("torch", "numpy"):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent, [package]


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield re.sub(r"[ \t]+", " ", text)
