"""The poolings by the name that ``config.json``, configurations and the command line have for them."""

from __future__ import annotations

from collections.abc import Callable

from ulmfit_fast.nn.attention_pooling import AttentionPooling
from ulmfit_fast.nn.pooling import ConcatPooling, Pooling

CONCAT, ATTENTION = "concat", "attention"
MOST_HEADS = 1000

# Each is made for the number of a state's features and that of the heads.
POOLINGS: dict[str, Callable[[int, int], Pooling]] = {
    CONCAT: lambda features, heads: ConcatPooling(features),
    ATTENTION: AttentionPooling,
}
