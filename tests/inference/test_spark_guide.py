"""The three lines for Spark that the guide shows, on what Spark hands to them: an iterator of pandas Series."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmfit_fast import ULMFiTClassifier

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "bulk.md"


def test_the_guide_s_function_predicts_series(folder: Path) -> None:
    found = re.search(r"## Spark.*?```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    kinds = []

    def pandas_udf(kind: str) -> Callable[[Any], Any]:
        kinds.append(kind)
        return lambda function: function

    names: dict[str, Any] = {
        "pandas_udf": pandas_udf, "pd": pd, "Iterator": Iterator, "ULMFiTClassifier": ULMFiTClassifier
    }  # fmt: skip
    exec(found[1].replace("/shared/clf", str(folder)), names)
    texts = ["the film was great", "its story", None, "superb", "dull and poor"]
    parts = [pd.Series(texts[:3]), pd.Series(texts[3:], index=[90, 91])]
    predicted = list(names["predict"](iter(parts)))
    assert kinds == ["string"]
    assert [len(each) for each in predicted] == [3, 2]
    expected = ULMFiTClassifier.load(folder, device="cpu").predict([text or "" for text in texts])
    np.testing.assert_array_equal(pd.concat(predicted).to_numpy(), expected.astype(str))
