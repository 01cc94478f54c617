"""Sentences of Wikipedia and the topic of the article that each is from: real texts that the package brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

_FILE = Path(__file__).with_name("wikipedia_topics.csv.xz")


def load_topics() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Texts to train on and texts to test with; no article is in both.

    Returns:
        Two tables with the columns text (a sentence of 60 to 250 characters), topic (one of ten) and article (its
        title). The first has 1,943 rows, the second 1,000, a hundred of each topic. Licence and making:
        ``demo/DATA.md``.
    """
    table = pd.read_csv(_FILE, keep_default_na=False)
    columns = ["text", "topic", "article"]
    return (
        table.loc[table["part"] == "train", columns].reset_index(drop=True),
        table.loc[table["part"] == "test", columns].reset_index(drop=True),
    )


def draw_labelled(table: pd.DataFrame, labels: int, seed: int) -> pd.DataFrame:
    """``labels`` rows of each topic (all where it has fewer), drawn with the seed."""
    random = np.random.default_rng(seed)
    chosen = [rows.iloc[random.permutation(len(rows))[:labels]] for _, rows in table.groupby("topic", sort=True)]
    return pd.concat(chosen, ignore_index=True)
