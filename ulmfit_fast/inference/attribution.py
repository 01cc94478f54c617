"""What a classifier's evidence for a label owes to each token, part or chunk of one document.

Evidence is what a task explains (``Task.evidence``): the label's log-odds, or a number.

Source: Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks, arXiv 1703.01365 (integrated gradients);
Zeiler and Fergus, arXiv 1311.2901 (occlusion).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ulmfit_fast.core.errors import InputError
from ulmfit_fast.core.modes import own_modes
from ulmfit_fast.core.progress import Progress
from ulmfit_fast.inference.prediction import logits_of
from ulmfit_fast.nn.chunks import Chunks, attention_of, chunks_of
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.quantized import is_quantized

Evidence = Callable[[Tensor], Tensor]  # of logits [B, outputs] to [B]

# What the gradients of all stretches may be off by before it is divided among the tokens, as a share of the evidence's
# ups and downs on the path. A hundredth of the difference of evidence took 360 to 744 points on six reviews; 64 points
# had each word of two reviews within 3 % of the heaviest one's weight (benchmarks/results/2026-11-28-explanations.md).
_ROUGH = 0.03
_SMALLEST = 1e-3  # difference whose share is asked for: a text that says nothing has none
_POINTS = 4  # of a stretch of the path
_STRETCHES = 4  # at first
_MOST_POINTS = 512
_ROWS = 8192  # tokens that are differentiated at a time
_HEAD_POINTS = 256
_MOST_READ = 20_000_000  # tokens that occlusion reads


class Attribution(NamedTuple):
    """What each token, part or chunk adds.

    Attributes:
        values: float64, one for each.
        evidence: of the whole document.
        baseline: the evidence where nothing is said; None where values are not to sum to the difference.
        points: on the path from the baseline at which gradients were taken.
    """

    values: np.ndarray
    evidence: float
    baseline: float | None = None
    points: int = 0

    @property
    def missing(self) -> float:
        """By how much the values' sum differs from ``evidence - baseline``; 0 where they are not to sum to it."""
        return 0.0 if self.baseline is None else self.evidence - self.baseline - float(self.values.sum())


@own_modes()
def integrated_gradients(
    model: TextClassifier, evidence: Evidence, ids: np.ndarray, baseline: np.ndarray, points: int | None = None,
    bar: Progress | None = None,
) -> Attribution:  # fmt: skip
    """Each token's part of the evidence, by gradients on the straight way from the baseline's embeddings to its own.

    The path is cut where it bends: stretches whose gradients do not sum to their difference of evidence are halved, the
    worst first, until all together are off by a few hundredths of its ups and downs. What a stretch is still off by is
    divided among its tokens by the size of their values, so that all values sum to the difference. Memory is that of
    the embedded document a few times, and of a batch.

    Args:
        model: in eval mode.
        ids: int32 [T], of one document.
        baseline: as many ids, of a document that says nothing.
        points: of one Gauss-Legendre rule over the whole path, which is then not cut; nothing is divided.
        bar: told of the tokens that are read.

    Raises:
        InputError: an int8 model, which has no gradients.
    """
    if is_quantized(model):
        raise InputError(
            "integrated gradients need the float32 model: int8 layers have no gradient; or method 'occlusion'"
        )
    path = _Path(model, evidence, ids, baseline, bar)
    if points is not None:
        (whole,) = path.stretches([(0.0, 1.0)], points)
        return Attribution(whole.values.cpu().numpy(), whole.last, whole.first, points)
    ends = np.linspace(0, 1, _STRETCHES + 1).tolist()
    found = path.stretches(list(pairwise(ends)), _POINTS)
    first, last = found[0].first, found[-1].last
    used = _POINTS * _STRETCHES
    while used < _MOST_POINTS:
        found.sort(key=lambda stretch: stretch.error)
        left = sum(stretch.error for stretch in found)
        allowed = _ROUGH * max(sum(abs(stretch.last - stretch.first) for stretch in found), _SMALLEST)
        if left <= allowed:
            break
        halved = []
        while left > allowed / 2:  # the worst are halved, until the others are good enough by themselves
            worst = found.pop()
            left -= worst.error
            middle = (worst.begin + worst.end) / 2
            halved += [(worst.begin, middle), (middle, worst.end)]
        found += path.stretches(halved, _POINTS)
        used += _POINTS * len(halved)
    values = torch.stack([stretch.settled() for stretch in found]).sum(0)
    return Attribution(values.cpu().numpy(), last, first, used)


class _Stretch(NamedTuple):
    """A part of the path, which goes from 0 to 1: what each token adds on it, and the evidence at both ends."""

    begin: float
    end: float
    values: Tensor  # float64 [T]
    first: float
    last: float

    @property
    def error(self) -> float:
        return abs(float(self.values.sum()) - (self.last - self.first))

    def settled(self) -> Tensor:
        """Values that sum to the difference; where all are 0 there is nothing to divide by."""
        sizes = self.values.abs()
        return self.values + (self.last - self.first - self.values.sum()) * sizes / sizes.sum().clamp(min=1e-300)


class _Path:
    """The straight way between two embedded documents, and what evidence owes to stretches of it."""

    def __init__(
        self, model: TextClassifier, evidence: Evidence, ids: np.ndarray, baseline: np.ndarray, bar: Progress | None
    ) -> None:
        self.model, self.evidence, self.bar = model, evidence, bar
        device = next(model.parameters()).device
        with torch.no_grad():
            self.start, end = (
                model.embed(torch.from_numpy(each.astype(np.int64)).to(device)[None])[0] for each in (baseline, ids)
            )
            self.way = end - self.start
        self.lengths = torch.tensor([len(ids)], device="cpu")

    def stretches(self, waiting: Sequence[tuple[float, float]], points: int) -> list[_Stretch]:
        """Each of these by a Gauss-Legendre rule."""
        nodes, weights = np.polynomial.legendre.leggauss(points)
        inner = [
            (a + (b - a) * (x + 1) / 2, (b - a) * w / 2)
            for a, b in waiting
            for x, w in zip(nodes, weights, strict=True)
        ]
        values = [torch.zeros(len(self.way), dtype=torch.float64, device=self.way.device) for _ in waiting]
        at_once = max(1, _ROWS // len(self.way))
        for begin in range(0, len(inner), at_once):
            some = inner[begin : begin + at_once]
            embedded = self._embedded([alpha for alpha, _ in some]).requires_grad_()
            (gradient,) = torch.autograd.grad(self._evidence(embedded).sum(), embedded)
            each = torch.einsum("bte,te->bt", gradient, self.way.to(gradient.dtype)).double()
            for row, (_, weight) in enumerate(some):
                values[(begin + row) // points] += weight * each[row]
            self._tell(2 * len(some))
        ends = sorted({end for stretch in waiting for end in stretch})
        at: dict[float, float] = {}
        with torch.no_grad():
            for begin in range(0, len(ends), at_once):
                each_end = ends[begin : begin + at_once]
                at |= dict(zip(each_end, self._evidence(self._embedded(each_end)).tolist(), strict=True))
                self._tell(len(each_end))
        return [_Stretch(a, b, each, at[a], at[b]) for (a, b), each in zip(waiting, values, strict=True)]

    def _embedded(self, alphas: Sequence[float]) -> Tensor:
        share = torch.tensor(alphas, dtype=self.way.dtype, device=self.way.device).view(-1, 1, 1)
        return torch.addcmul(self.start, share, self.way)

    def _evidence(self, embedded: Tensor) -> Tensor:
        logits = self.model.forward_embedded(embedded, self.lengths.expand(len(embedded)), frozen=True)
        return self.evidence(logits.double())

    def _tell(self, documents: int) -> None:
        if self.bar is not None:
            self.bar.update(documents * len(self.way))


@own_modes(grad=False)
def occlusion(
    model: TextClassifier, evidence: Evidence, ids: np.ndarray, parts: Sequence[Sequence[int]],
    bar: Progress | None = None,
) -> Attribution:  # fmt: skip
    """By how much the evidence falls without each part, whose tokens are left out.

    Args:
        ids: int32 [T], of one document, whose ``xxbos`` belongs to no part.
        parts: positions of each part's tokens.
        bar: told of the tokens that are read.

    Raises:
        InputError: so many parts of so long a document that reading them would take hours.
    """
    reads = (len(parts) + 1) * len(ids)
    if reads > _MOST_READ:
        raise InputError(
            f"occlusion would read {reads:,} tokens, the text of {len(ids):,} once for each of {len(parts):,} parts, "
            f"at most {_MOST_READ:,}; explain it by method 'integrated_gradients', 'sentence_occlusion' or 'chunks'"
        )
    values = np.zeros(len(parts))
    whole = float(evidence(logits_of(model, [ids]).double())[0])
    at_once = max(1, 1_000_000 // len(ids))
    for begin in range(0, len(parts), at_once):
        some = parts[begin : begin + at_once]
        without = [np.delete(ids, np.asarray(part, dtype=np.int64)) for part in some]
        values[begin : begin + len(some)] = whole - evidence(logits_of(model, without).double()).numpy()
        if bar is not None:
            bar.update(sum(map(len, without)))
    return Attribution(values, whole)


@own_modes(grad=False)
def attention(model: TextClassifier, evidence: Evidence, ids: np.ndarray) -> tuple[Attribution, np.ndarray]:
    """How much attention pooling looks at each token, the mean of its heads; and each head's weights, [T, heads].

    A head's weights sum to one. They are not for or against a label.

    Raises:
        InputError: another pooling; an encoder with hooks.
    """
    device = next(model.parameters()).device
    heads = attention_of(model.bpt3c, torch.from_numpy(ids.astype(np.int64)).to(device)).cpu().numpy()
    return Attribution(heads.mean(1), float(evidence(logits_of(model, [ids]).double())[0])), heads


@own_modes(grad=False)
def chunk_attribution(
    model: TextClassifier, evidence: Evidence, ids: np.ndarray, size: int
) -> tuple[Attribution, Chunks]:
    """Each chunk's part of the evidence by way of the pooled vector: exact, from one pass over the document.

    Integrated gradients of the head, from the average document of training (the mean that its first BatchNorm knows) to
    this one, are divided among chunks as the pooled vector is.

    Raises:
        InputError: an encoder with hooks.
    """
    device = next(model.parameters()).device
    chunks = chunks_of(model.bpt3c, torch.from_numpy(ids.astype(np.int64)).to(device), size)
    pooled = chunks.parts.sum(0)
    average = model.head[0].running_mean
    assert isinstance(average, Tensor)
    base = average.double().cpu()
    alphas = ((torch.arange(_HEAD_POINTS, device="cpu") + 0.5) / _HEAD_POINTS).unsqueeze(1)
    like = next(model.head.parameters())
    path = (base + alphas * (pooled - base)).to(like).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(evidence(model.head(path).double()).sum(), path)
    slope = gradient.double().mean(0).cpu()
    values = (chunks.parts - chunks.owned * base) @ slope
    ends = evidence(model.head(torch.stack([base, pooled]).to(like)).double()).tolist()
    return Attribution(values.numpy(), ends[1], ends[0], _HEAD_POINTS), chunks
