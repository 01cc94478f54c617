"""Texts that a caller gives, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import IOBase
from pathlib import PurePath
from typing import Any


def as_texts(caller: str, texts: Iterable[str], argument: str = "texts") -> list[str]:
    """Texts of any one-dimensional sequence, column or iterator as a list.

    Args:
        caller, argument: named in messages.
        texts: a list, tuple, NumPy array, pandas Series, pyarrow column, generator, ... of str.

    Raises:
        TypeError: one str, a table, a mapping, an open file, or anything else whose elements are not texts.
    """
    expected = f"{caller}: {argument} must be a sequence of texts, got "
    if isinstance(texts, str | bytes | PurePath):
        raise TypeError(f"{expected}one {type(texts).__name__}; put it into a list")
    if isinstance(texts, Mapping):
        raise TypeError(f"{expected}a {type(texts).__name__}, which is a mapping; give one of its columns")
    if isinstance(texts, IOBase):
        raise TypeError(f"{expected}an open file; read it first, for instance with file.read().splitlines()")
    dimensions = _dimensions(texts)
    if dimensions > 1:
        raise TypeError(f"{expected}a {type(texts).__name__} of {dimensions} dimensions; give one column of it")
    try:
        result = list(texts)
    except TypeError:
        raise TypeError(f"{expected}{type(texts).__name__}") from None
    for row, text in enumerate(result):
        if not isinstance(text, str):
            raise TypeError(f"{caller}: {argument}[{row}] must be a str, got {type(text).__name__}")
    return result


def _dimensions(texts: Any) -> int:
    """Dimensions of an array, tensor or table; 1 of anything else. (A table iterates over its columns' names.)"""
    dimensions = getattr(texts, "ndim", None)
    if isinstance(dimensions, int):
        return dimensions
    if hasattr(texts, "column_names") or hasattr(texts, "columns"):  # pyarrow, polars, datasets
        return 2
    return 1
