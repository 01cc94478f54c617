"""Slanted triangular rates against values computed by hand from the paper's equation 3."""

from __future__ import annotations

import pytest
import torch

from ulmfit_fast import SlantedTriangularLR, slanted_triangular


def test_first_peak_and_last_value() -> None:
    # T = 100, cut = 10: p = 0 at 0, 1 at 10, 1/90 at 99
    assert slanted_triangular(0, 100, 0.01) == pytest.approx(0.01 / 32)
    assert slanted_triangular(5, 100, 0.01) == pytest.approx(0.01 * (1 + 0.5 * 31) / 32)
    assert slanted_triangular(10, 100, 0.01) == pytest.approx(0.01)
    assert slanted_triangular(55, 100, 0.01) == pytest.approx(0.01 * (1 + 0.5 * 31) / 32)
    assert slanted_triangular(99, 100, 0.01) == pytest.approx(0.01 * (1 + 31 / 90) / 32)


def test_equals_the_papers_formula_where_the_cut_is_whole() -> None:
    total, cut_frac, ratio = 200, 0.05, 16
    cut = 10
    for t in range(total):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / cut_frac - 1))
        assert slanted_triangular(t, total, 0.4, cut_frac, ratio) == pytest.approx(0.4 * (1 + p * (ratio - 1)) / ratio)


def test_a_cut_of_zero_still_trains() -> None:
    """T = 22 and cut_frac = 0.01 divide by zero as printed (seen with PaddleHub)."""
    rates = [slanted_triangular(t, 22, 0.01, 0.01) for t in range(22)]
    assert max(rates) == pytest.approx(0.01)
    assert all(rate >= 0.01 / 32 for rate in rates)


@pytest.mark.parametrize(("total", "cut_frac"), [(1, 0.1), (25, 0.1), (7, 0.5), (10, 1.0), (3, 0.0)])
def test_never_below_the_lowest_rate_and_never_negative(total: int, cut_frac: float) -> None:
    for t in range(total + 5):
        assert 1.0 >= slanted_triangular(t, total, 1.0, cut_frac) >= 1 / 32 - 1e-12


def test_scheduler_scales_every_group() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups)
    scheduler = SlantedTriangularLR(optimizer, total_steps=20)
    for step in range(20):
        expected = [slanted_triangular(step, 20, lr) for lr in (0.1, 0.01)]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "total_steps must be at least 1, got 0"),
        ((-1, 5), "step must not be negative, got -1"),
        ((0, 5, 0.1, 1.5), r"cut_frac must be in \[0, 1\], got 1.5"),
        ((0, 5, 0.1, 0.1, 0.5), "ratio must be at least 1, got 0.5"),
    ],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slanted_triangular(*arguments)
