"""Texts that a caller gives, checked; and those of them that are held out for validation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ulmfit_fast.core.errors import InputError


def as_texts(caller: str, texts: Sequence[str]) -> list[str]:
    """Texts of any sequence or column as a list. Raises TypeError, naming ``caller``, at the first that is no str."""
    if isinstance(texts, str):
        raise TypeError(f"{caller}: texts must be a sequence of texts, got one str; put it into a list")
    result = list(texts)
    for row, text in enumerate(result):
        if not isinstance(text, str):
            raise TypeError(f"{caller}: texts[{row}] must be a str, got {type(text).__name__}")
    return result


def hold_out(
    texts: Sequence[str], valid_texts: Sequence[str] | None, seed: int
) -> tuple[Sequence[str], Sequence[str] | None]:
    """A twentieth of the texts for validation, where none are given and there are enough."""
    if valid_texts is not None and not any(text.strip() for text in valid_texts):
        raise InputError("valid_texts holds no text")
    if valid_texts is not None or len(texts) < 20:
        return texts, valid_texts
    order = np.random.default_rng(seed).permutation(len(texts))
    held_out = set(order[: len(texts) // 20].tolist())
    if not any(texts[i].strip() for i in held_out):
        return texts, None
    return (
        [text for i, text in enumerate(texts) if i not in held_out],
        [text for i, text in enumerate(texts) if i in held_out],
    )
