"""Schedules against values computed by hand from their formulas, and one-cycle against torch's."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from ulmfit_fast import (
    InputError,
    OneCycle,
    Schedule,
    ScheduledLR,
    SlantedTriangularLR,
    cosine_annealing,
    inverse_square_root,
    linear_decay,
    one_cycle,
    one_cycle_momentum,
    reverse_annealing,
    slanted_triangular,
)
from ulmfit_fast.training.schedules import SCHEDULES, TORCH_CYCLE, USES


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


# Shares of the highest rate, by step, computed by hand.
BY_HAND = [
    # T = 100, cut = 10: n/11 in the warm-up; then 90 steps down
    (Schedule("linear"), 100, {0: 1 / 11, 4: 5 / 11, 9: 10 / 11, 10: 1, 55: 0.5, 99: 1 / 90, 100: 0, 500: 0}),
    (Schedule("linear", end_frac=1 / 32), 100, {0: 1 / 11, 10: 1, 55: 33 / 64, 99: 1 / 32 + 31 / 32 / 90, 100: 1 / 32}),
    (Schedule("linear", 0.0), 100, {0: 1, 50: 0.5, 99: 0.01}),
    (Schedule("cosine"), 100, {0: 1, 25: (1 + math.sqrt(0.5)) / 2, 50: 0.5, 75: (1 - math.sqrt(0.5)) / 2, 100: 0}),
    (Schedule("cosine", end_frac=0.2), 100, {0: 1, 50: 0.6, 100: 0.2}),
    # (1 - cos(pi / 11)) / 2 = sin(pi / 22)^2; the warm-up's middle is step 4.5
    (Schedule("reverse-annealing"), 100, {0: 0.142315**2, 10: 1, 55: 0.5, 100: 0}),
    (Schedule("reverse-annealing", 1.0), 3, {0: 0.146447, 1: 0.5, 2: 0.853553}),
    (Schedule("inverse-sqrt"), 100, {0: 1 / 11, 9: 10 / 11, 10: 1, 43: 0.5, 98: 1 / 3}),
    (Schedule("constant"), 100, {0: 1, 10: 1, 99: 1}),
    # peak at 25 of 100; half way down to 1e-5 in the middle of the rest
    (Schedule("one-cycle"), 100, {0: 0.04, 25: 1, 62.5: 0.500005, 100: 1e-5, 200: 1e-5}),
    # peak at step 29, the lowest rate at step 99
    (Schedule("one-cycle-torch"), 100, {0: 0.04, 29: 1, 64: 0.500002, 99: 4e-6, 200: 4e-6}),
    # T = 1, 2, 22 with a cut_frac of 0.01: the cut is no step
    (Schedule("slanted-triangular", 0.01), 1, {0: 1 / 32, 1: 1}),
    (Schedule("linear", 0.01), 1, {0: 1}),
    (Schedule("cosine", 0.01), 1, {0: 1}),
    (Schedule("reverse-annealing", 0.01), 1, {0: 1}),
    (Schedule("inverse-sqrt", 0.01), 1, {0: 1}),
    (Schedule("constant", 0.01), 1, {0: 1}),
    (Schedule("one-cycle"), 1, {0: 0.04}),
    (Schedule("one-cycle-torch"), 1, {0: 1}),
    (Schedule("slanted-triangular", 0.01), 2, {0: 1 / 32, 1: 1}),
    (Schedule("linear", 0.01), 2, {0: 1, 1: 0.5}),
    (Schedule("cosine", 0.01), 2, {0: 1, 1: 0.5}),
    (Schedule("reverse-annealing", 0.01), 2, {0: 1, 1: 0.5}),
    (Schedule("inverse-sqrt", 0.01), 2, {0: 1, 1: math.sqrt(0.5)}),
    (Schedule("one-cycle"), 2, {0: 0.04, 1: 0.7500025}),  # a third of the way down: (1 + cos(pi / 3)) / 2 = 0.75
    (Schedule("one-cycle-torch"), 2, {0: 1, 1: 4e-6}),
    (Schedule("slanted-triangular", 0.01), 22, {0: 1 / 32, 1: 1, 21: (1 + 31 / 21) / 32}),
    (Schedule("linear", 0.01), 22, {0: 1, 11: 0.5, 21: 1 / 22}),
    (Schedule("linear", 0.01, end_frac=1 / 32), 22, {0: 1, 21: 1 / 32 + 31 / 32 / 22}),
    (Schedule("cosine", 0.01), 22, {0: 1, 11: 0.5, 21: 0.0713392**2}),  # sin(pi / 44)^2
    (Schedule("reverse-annealing", 0.01), 22, {0: 1, 11: 0.5, 21: 0.0713392**2}),
    (Schedule("inverse-sqrt", 0.01), 22, {0: 1, 3: 0.5, 21: 1 / math.sqrt(22)}),
    (Schedule("one-cycle"), 22, {0: 0.04, 22: 1e-5}),
    (Schedule("one-cycle-torch"), 22, {0: 0.04, 21: 4e-6}),
]


@pytest.mark.parametrize(("schedule", "total", "values"), BY_HAND, ids=lambda x: getattr(x, "name", None))
def test_values_by_hand(schedule: Schedule, total: int, values: dict[int, float]) -> None:
    for step, value in values.items():
        assert schedule.rate(step, total) == pytest.approx(value, rel=2e-5), step


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_trains_and_none_is_above_the_highest_rate(name: str) -> None:
    for total in (1, 2, 3, 22, 100):
        for cut_frac in (0.0, 0.01, 0.1, 0.5, 1.0):
            rates = [Schedule(name, cut_frac).rate(step, total) for step in range(total)]
            assert all(0 < rate <= 1 + 1e-12 for rate in rates), (total, cut_frac, rates)
            assert max(rates) > 0.03


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_a_schedule_uses(name: str) -> None:
    plain, others = Schedule(name), {"cut_frac": 0.3, "ratio": 4.0, "end_frac": 0.5}
    for field, value in others.items():
        changed = Schedule(**{"name": name, field: value})
        differs = any(changed.rate(step, 50) != plain.rate(step, 50) for step in range(50))
        assert differs == (field in USES[name]), field


@pytest.mark.parametrize("total", [4, 10, 37, 100])
def test_one_cycle_is_torchs(total: int) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], betas=(0.5, 0.99))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: scheduler.step() before optimizer.step()
        torchs = OneCycleLR(optimizer, max_lr=0.3, total_steps=total)
        for step in range(total):
            (group,) = optimizer.param_groups
            assert one_cycle(step, total, 0.3, TORCH_CYCLE) == pytest.approx(group["lr"], rel=1e-9)
            assert one_cycle_momentum(step, total, TORCH_CYCLE) == pytest.approx(group["betas"][0], rel=1e-9)
            if step + 1 < total:
                torchs.step()


def test_one_cycle_is_fastais() -> None:
    """fastai's ``combined_cos``, written down: cosines between start, middle and end, by the share of the run."""

    def cosine(start: float, end: float, share: float) -> float:
        return start + (1 + math.cos(math.pi * (1 - share))) * (end - start) / 2

    for step in range(80):
        share = step / 80
        first, second = share / 0.25, (share - 0.25) / 0.75
        rate = cosine(0.1 / 25, 0.1, first) if share < 0.25 else cosine(0.1, 0.1 / 1e5, second)
        momentum = cosine(0.95, 0.85, first) if share < 0.25 else cosine(0.85, 0.95, second)
        assert one_cycle(step, 80, 0.1) == pytest.approx(rate, rel=1e-9)
        assert one_cycle_momentum(step, 80) == pytest.approx(momentum, rel=1e-9)


def test_scheduler_scales_every_group() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.01)]
    optimizer = torch.optim.SGD(groups)
    scheduler = SlantedTriangularLR(optimizer, total_steps=20)
    for step in range(20):
        expected = [slanted_triangular(step, 20, lr) for lr in (0.1, 0.01)]
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_momentum_follows_where_there_is_one(kind: type[torch.optim.Optimizer]) -> None:
    optimizer = kind([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # type: ignore[call-arg]
    scheduler = ScheduledLR(optimizer, 20, Schedule("one-cycle"))
    for step in range(20):
        (group,) = optimizer.param_groups
        assert group["lr"] == pytest.approx(one_cycle(step, 20, 0.1))
        if kind is torch.optim.Adam:
            assert group["betas"] == pytest.approx((one_cycle_momentum(step, 20), 0.999))
        elif kind is torch.optim.SGD:
            assert group["momentum"] == pytest.approx(one_cycle_momentum(step, 20))
        else:
            assert not {"momentum", "betas"} & group.keys()
        optimizer.step()
        scheduler.step()


def test_a_schedule_without_momentum_leaves_it_alone() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], betas=(0.7, 0.99))
    ScheduledLR(optimizer, 5, Schedule("linear"))
    assert optimizer.param_groups[0]["betas"] == (0.7, 0.99)


def test_a_scheduler_goes_on_from_its_state() -> None:
    def new() -> tuple[torch.optim.Optimizer, ScheduledLR]:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, ScheduledLR(optimizer, 9, Schedule("one-cycle"))

    (optimizer, scheduler), (other, resumed) = new(), new()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    for each in (optimizer, other):
        each.step()
    scheduler.step()
    resumed.step()
    for name in ("lr", "betas"):
        assert other.param_groups[0][name] == optimizer.param_groups[0][name]
    assert resumed.get_last_lr() == [one_cycle(5, 9, 0.1)]


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
    with pytest.raises(InputError, match=f"slanted_triangular: {message}"):
        slanted_triangular(*arguments)


def test_bad_arguments_of_the_others() -> None:
    for function in (linear_decay, cosine_annealing, reverse_annealing, inverse_square_root, one_cycle):
        with pytest.raises(InputError, match=r"total_steps must be at least 1, got 0$"):
            function(0, 0)
    with pytest.raises(InputError, match=r"linear_decay: end_frac must be in \[0, 1\], got 2"):
        linear_decay(0, 5, end_frac=2)
    with pytest.raises(InputError, match=r"OneCycle: pct_start must be in \[0, 1\], got -1"):
        OneCycle(pct_start=-1)
    with pytest.raises(InputError, match=r"div and div_final must be at least 1, got 25\.0 and 0"):
        OneCycle(div_final=0)
    with pytest.raises(InputError, match=r"name must be one of slanted-triangular, linear, .*got 'triangle'"):
        Schedule("triangle")
    with pytest.raises(InputError, match="cut_frac must be in"):
        Schedule("linear", 1.5)
    with pytest.raises(InputError, match="total_steps must be at least 1, got 0"):
        ScheduledLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), 0)
