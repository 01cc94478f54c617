"""Bootstrap intervals beside normal theory, McNemar's test beside scipy's binomial test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from ulmfit_fast.inference.intervals import bootstrap, exact_sign_test, mcnemar


def test_intervals_are_those_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = bootstrap(400, lambda places: {"mean": float(values[places].mean()), "none": float("nan")})
    error = values.std() / 20
    assert found["mean"].value == pytest.approx(values.mean())
    assert found["mean"].low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert found["mean"].high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert np.isnan(found["none"].low)


def test_mcnemar_is_the_binomial_test() -> None:
    random = np.random.default_rng(0)
    first, second = random.random(300) < 0.8, random.random(300) < 0.7
    found = mcnemar(first, second)
    assert found.first_alone == sum(a and not b for a, b in zip(first, second, strict=True))
    assert found.second_alone == sum(b and not a for a, b in zip(first, second, strict=True))
    for a, b in ((found.first_alone, found.second_alone), (0, 0), (1, 0), (7, 7), (0, 12), (1500, 1400)):
        expected = binomtest(a, a + b).pvalue if a + b else 1.0
        assert exact_sign_test(a, b) == pytest.approx(expected)
