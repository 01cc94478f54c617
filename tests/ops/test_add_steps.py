"""The steps of each sequence added to those of its document."""

from __future__ import annotations

import pytest
import torch
from torch import library

from tests.ops.cases import batch_sizes_of

native = torch.ops.ulmfit_fast


@pytest.mark.parametrize(
    "lengths", [(1,), (3, 3), (9, 7, 7, 2, 1), tuple(range(200, 0, -1))], ids=lambda x: str(len(x))
)
@pytest.mark.parametrize("others", [0, 3])
def test_each_document_gets_its_sequence_s(lengths: tuple[int, ...], others: int) -> None:
    count = torch.randint(0, 50, (len(lengths) + others,))
    expected = count + torch.tensor([*lengths, *[0] * others])
    before = count.clone()
    assert torch.equal(native.add_steps(count, batch_sizes_of(lengths)), expected)
    assert torch.equal(count, before)


def test_without_rows_and_non_contiguous() -> None:
    assert native.add_steps(torch.tensor([4, 5]), torch.zeros(2, dtype=torch.int64)).tolist() == [4, 5]
    counts = torch.arange(6).view(3, 2).t()[1]
    assert native.add_steps(counts, torch.tensor([3, 1])).tolist() == [3, 4, 6]


def test_opcheck() -> None:
    library.opcheck(native.add_steps.default, (torch.arange(4), torch.tensor([3, 2, 2])))


@pytest.mark.parametrize(
    ("count", "sizes", "error", "message"),
    [
        (torch.zeros(3), torch.tensor([3]), TypeError, "count must be int64, got Float"),
        (torch.zeros(3).long(), torch.tensor([3.0]), TypeError, "batch_sizes must be int64, got Float"),
        (
            torch.zeros(2).long(),
            torch.tensor([3, 1]),
            ValueError,
            r"one for each of the 3 rows or more, got shape \[2\]",
        ),
        (torch.zeros(3).long(), torch.tensor([1, 3]), ValueError, "must not increase, got 1 then 3 at step 1"),
        (torch.zeros(3).long(), torch.tensor([[3]]), ValueError, "one-dimensional"),
    ],
)
def test_bad_arguments(count: torch.Tensor, sizes: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"ulmfit_fast\.ops\.add_steps: .*{message}"):
        native.add_steps(count, sizes)
