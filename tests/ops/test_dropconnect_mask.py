"""The DropConnect mask: the reference's bits, and its law."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import library

from ulmfit_fast import ops
from ulmfit_fast.ops import reference

# Philox4x32-10 known answers of the Random123 distribution (kat_vectors), with the high half of the counter zero where
# this op leaves it zero.
ZERO_KEY_ZERO_COUNTER = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def test_reference_generator_gives_the_published_bits() -> None:
    bits = reference.philox4x32_10(0, np.zeros(1, dtype=np.uint64))
    assert bits[0].tolist() == ZERO_KEY_ZERO_COUNTER


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (28, 7), (64, 16), (33, 1001), (0, 4)])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1 - 1e-12])
@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1, -1])
def test_equals_reference(shape: tuple[int, int], p: float, seed: int) -> None:
    ours = ops.dropconnect_mask(torch.tensor(seed), *shape, p)
    assert ours.dtype == torch.bool
    assert torch.equal(ours, reference.dropconnect_mask(torch.tensor(seed), *shape, p))


def test_thread_count_does_not_matter() -> None:
    threads = torch.get_num_threads()
    many = ops.dropconnect_mask(torch.tensor(5), 700, 333, 0.3)
    try:
        torch.set_num_threads(1)
        assert torch.equal(many, ops.dropconnect_mask(torch.tensor(5), 700, 333, 0.3))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.8])
def test_keep_rate_is_within_four_standard_deviations(p: float) -> None:
    mask = ops.dropconnect_mask(torch.tensor(99), 1000, 1000, p)
    deviation = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(mask.double().mean().item() - (1 - p)) < 4 * deviation


def test_neighbours_and_seeds_are_independent() -> None:
    mask = ops.dropconnect_mask(torch.tensor(3), 1000, 1000, 0.5).double() - 0.5
    other = ops.dropconnect_mask(torch.tensor(4), 1000, 1000, 0.5).double() - 0.5
    bound = 4 / 1000  # four standard deviations of a correlation over 1e6 pairs
    assert abs((mask[:, 1:] * mask[:, :-1]).mean() / 0.25) < bound
    assert abs((mask[1:] * mask[:-1]).mean() / 0.25) < bound
    assert abs((mask * other).mean() / 0.25) < bound


def test_opcheck() -> None:
    library.opcheck(torch.ops.ulmfit_fast.dropconnect_mask.default, (torch.tensor(1), 5, 6, 0.5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.tensor(1), 2, 2, 1.0), ValueError, r"weight_dropout must be in \[0, 1\), got 1"),
        ((torch.tensor(1), 2, 2, -0.1), ValueError, r"must be in \[0, 1\)"),
        ((torch.tensor(1.0), 2, 2, 0.5), TypeError, "seed must be an int64 tensor, got Float"),
        ((torch.tensor([1, 2]), 2, 2, 0.5), ValueError, "seed must hold one element"),
        ((torch.tensor(1), -2, 2, 0.5), ValueError, "must not be negative"),
    ],
)
def test_bad_arguments(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.dropconnect_mask(*arguments)
