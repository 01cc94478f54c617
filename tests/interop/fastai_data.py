"""Texts in fastai's hands: its data loaders, learners and models, small enough for tests."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

SIZES = {"emb_sz": 20, "n_hid": 24, "n_layers": 3}
WORDS = ["the", "film", "was", "a", "great", "fine", "poor", "awful", "dull", "story", "and", "its", "cast", "too"]


def import_fastai() -> Any:
    """``fastai.text.all``; the test is skipped where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "fastai.text.all", reason="fastai is not installed: pip install --no-deps -r requirements-fastai.txt"
        )


def make_table(lengths: list[int], seed: int = 0) -> pd.DataFrame:
    """Texts that are split already, of just so many tokens, ``xxbos`` among them; the label is plain to see."""
    random = np.random.default_rng(seed)
    rows = []
    for i, length in enumerate(lengths):
        liked = "great fine lovely superb" if i % 2 else "poor awful dull weak"
        words = [str(random.choice(liked.split() if random.random() < 0.3 else WORDS)) for _ in range(length - 1)]
        rows.append({"text": " ".join(["xxbos", *words]), "label": ("bad", "good")[i % 2]})
    return pd.DataFrame(rows)


class SplitAtSpaces:
    """A tokenizer for fastai; by name, so that a learner can be written to a file."""

    def __call__(self, items: Any) -> Any:
        return (text.split(" ") for text in items)


def loaders(table: pd.DataFrame, vocab: list[str] | None = None, is_lm: bool = False, **options: Any) -> Any:
    """``DataLoaders`` over the table, a quarter of it for validation; nothing is drawn at random but the order."""
    text = import_fastai()
    block = text.TextBlock.from_df(
        "text", vocab=vocab, is_lm=is_lm, tok=SplitAtSpaces(), rules=[], min_freq=1, seq_len=options.pop("seq_len", 72)
    )
    blocks = block if is_lm else (block, text.CategoryBlock)
    getters = {} if is_lm else {"get_y": text.ColReader("label")}
    data = text.DataBlock(
        blocks, get_x=text.ColReader("text"), splitter=text.IndexSplitter(range(len(table) // 4)), **getters
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return data.dataloaders(table, num_workers=0, device=torch.device("cpu"), **options)


def quietly(learn: Any) -> Any:
    """The learner without a progress bar and what it prints."""
    learn.remove_cb(learn.progress)
    learn.logger = lambda _: None
    return learn
