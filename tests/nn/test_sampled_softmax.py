import pytest
import torch
import torch.nn.functional as F

from ulmfit_fast import ops
from ulmfit_fast.core.random import Generators, drawing_from
from ulmfit_fast.nn.sampled_softmax import SampledSoftmax


def zipf(vocab_size: int) -> torch.Tensor:
    return 1 / torch.arange(2, vocab_size + 2).double()


def test_all_words_are_the_whole_softmax() -> None:
    torch.manual_seed(0)
    input, weight, bias = torch.randn(7, 5), torch.randn(20, 5), torch.randn(20)
    target = torch.randint(20, (7,))
    sampled = SampledSoftmax(torch.ones(20), frequent=10, drawn=10)
    torch.testing.assert_close(
        sampled.loss(input, weight, bias, target), F.cross_entropy(F.linear(input, weight, bias), target)
    )


def test_the_step_s_words_and_their_correction_against_a_plain_computation() -> None:
    torch.manual_seed(0)
    counts = torch.tensor([50, 3, 40, 0, 2, 5, 0, 10], dtype=torch.int64)  # by frequency: 0 2 7 5 1 4 3 6
    input, weight, bias = torch.randn(3, 4, dtype=torch.float64), torch.randn(8, 4).double(), torch.randn(8).double()
    target = torch.tensor([2, 1, 1])
    sampled = SampledSoftmax(counts, frequent=2, drawn=2)
    with drawing_from(Generators(1)):
        loss = sampled.loss(input, weight, bias, target)
    drawn = torch.rand(6, generator=torch.Generator().manual_seed(1)) < 2 / 6
    others = torch.tensor([7, 5, 1, 4, 3, 6])
    words = sorted({0, 2, *others[drawn].tolist(), 1})
    share = counts.double() / counts.sum()
    logits = input @ weight.T + bias
    for word in others:  # drawn with a chance of 2 / 6, or the target of one of the 2 other rows
        logits[:, word] -= torch.log(1 - (1 - 2 / 6) * (1 - share[word]) ** 2)
    expected = -(logits[range(3), target] - torch.logsumexp(logits[:, words], dim=1)).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("rows", [16, 64])
def test_what_it_teaches_is_the_distribution_of_the_whole_softmax(rows: int) -> None:
    """Where words are drawn by Zipf's law and the biases are that law's logarithms, the mean gradient is zero."""
    vocab_size, steps = 40, 1500
    share = zipf(vocab_size) / zipf(vocab_size).sum()
    generator = torch.Generator().manual_seed(2)
    sampled = SampledSoftmax(share * 1e6, frequent=5, drawn=5)
    input, weight = torch.zeros(rows, 1, dtype=torch.float64), torch.zeros(vocab_size, 1, dtype=torch.float64)
    gradients = []
    with drawing_from(Generators(3)):
        for _ in range(steps):
            bias = share.log().requires_grad_()
            target = torch.multinomial(share, rows, replacement=True, generator=generator)
            sampled.loss(input, weight, bias, target).backward()
            gradients.append(bias.grad)
    found = torch.stack(gradients)
    standard_error = found.std(0) / steps**0.5
    assert (found.mean(0).abs() < 4 * standard_error).all()
    assert (standard_error < 0.1 * share).all()  # so that a wrong correction, by log 2 or so, would be seen


def test_gradients_reach_all_that_it_reads() -> None:
    torch.manual_seed(0)
    input, weight, bias = (torch.randn(s, requires_grad=True) for s in [(2, 3, 5), (50, 5), (50,)])
    target = torch.randint(50, (2, 3))
    SampledSoftmax(zipf(50), frequent=3, drawn=4).loss(input, weight, bias, target).backward()
    moved = (weight.grad.abs().sum(1) > 0).sum()
    assert 7 <= moved <= 13
    assert torch.equal(weight.grad.abs().sum(1) > 0, bias.grad != 0)
    assert input.grad.abs().min() > 0
    assert ops.linear_cross_entropy(input, weight, target, bias) > 0


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_needs_words(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="frequent and drawn must be at least 1"):
        SampledSoftmax(torch.ones(20), *sizes)
