"""Explanations of predictions: which words, sentences or chunks of a text speak for a label, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from ulmfit_fast.core.errors import InputError, shortened
from ulmfit_fast.core.progress import Progress, progress_bar
from ulmfit_fast.inference.attribution import (
    Attribution,
    attention,
    chunk_attribution,
    integrated_gradients,
    occlusion,
)
from ulmfit_fast.inference.prediction import logits_of
from ulmfit_fast.nn.attention_pooling import AttentionPooling
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.quantized import is_quantized
from ulmfit_fast.tasks.labels import Label
from ulmfit_fast.tasks.task import Task
from ulmfit_fast.text.spans import Part, sentences, token_spans, words
from ulmfit_fast.text.tokenizer import Tokenizer

GRADIENTS, WORDS, SENTENCES, CHUNKS, ATTENTION = METHODS = (
    "integrated_gradients", "occlusion", "sentence_occlusion", "chunks", "attention",
)  # fmt: skip
Member = tuple[TextClassifier, Tokenizer, Task]


class Weighted(NamedTuple):
    """A part of the text, ``text[start:end]``, and what it adds to the evidence for the label.

    Of a chunk also the shares of the pooled vector: of how many features the maximum lies in it, and its part of the
    mean. With the method "attention" the weight is a share of the attention, and ``heads`` are those of each head, of
    several models one model's after the other's.
    """

    text: str
    start: int
    end: int
    weight: float
    share_of_maximum: float | None = None
    share_of_mean: float | None = None
    heads: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a text gets its prediction.

    Evidence for a label is its log-odds, log(p / (1 - p)): 0 is even, 2.2 is nine to one. With a number as the
    prediction it is the number.

    Attributes:
        text: that is explained.
        method: one of ``METHODS``.
        label: that the weights speak for, or against; None where the model predicts a number.
        evidence_for: the label in words: of classes with an order "at least 4"; or "number".
        probability: of the label, None of a number. Of several models the mean.
        evidence: of the whole text.
        baseline: of a text that says nothing; the weights sum to the evidence above it. None where they do not.
        missing: by how much their sum is off; of "attention" what lies on no word.
        parts: words, sentences or chunks in the order of the text.
        predicted: what the model predicts.
    """

    text: str
    method: str
    label: Label | None
    evidence_for: str
    probability: float | None
    evidence: float
    baseline: float | None
    missing: float
    parts: list[Weighted]
    predicted: Any

    def top(self, count: int = 10) -> list[Weighted]:
        """The parts that weigh most, for or against."""
        return sorted(self.parts, key=lambda part: -abs(part.weight))[:count]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the text, which ``start`` and ``end`` of the parts count in characters of."""
        names = ("method", "label", "evidence_for", "probability", "evidence", "baseline", "missing", "predicted")
        parts = [{k: v for k, v in part._asdict().items() if v is not None} for part in self.parts]
        return {name: getattr(self, name) for name in names} | {"parts": parts}

    def to_html(self) -> str:
        """A piece of HTML: the text with coloured parts. A notebook shows it."""
        from ulmfit_fast.inference.highlight import explanation_html

        return explanation_html(self)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        from ulmfit_fast.inference.highlight import explanation_lines

        return explanation_lines(self)


def explain(
    members: Sequence[Member],
    text: str,
    method: str = GRADIENTS,
    label: Label | None = None,
    *,
    chunk_tokens: int | None = None,
    points: int | None = None,
    progress: bool = False,
) -> Explanation:
    """Explain the prediction of one text.

    Args:
        members: a classifier; or several, whose weights' mean it is, as their predictions' mean counts.
        text: of any length.
        method: "integrated_gradients": each word's part of the evidence, from a text of unknown words to this one;
            the parts sum to the whole. "occlusion": what the evidence loses without each word.
            "sentence_occlusion": without each sentence. "chunks": each chunk's part by way of the pooled vector.
            "attention": the share of attention that each word gets, for no label in particular.
        label: that is explained; None: what is predicted, of several labels the most probable.
        chunk_tokens: of a chunk; None: as the model was trained.
        points: as ``attribution.integrated_gradients``; with None the path is cut as need be.
        progress: show a bar.

    Raises:
        InputError: an unknown method or label; a label where there are none; an option of another method; an int8 model
            with "integrated_gradients"; a model without attention pooling with "attention"; a long text with
            "occlusion"; several models that cut a text into other words.
    """
    if method not in METHODS:
        raise InputError(f"explain: method must be one of {', '.join(METHODS)}, got {method!r}")
    for name, value, of in (("chunk_tokens", chunk_tokens, CHUNKS), ("points", points, GRADIENTS)):
        if value is not None and (method != of or value < 1):
            raise InputError(f"explain: {name} is a number of at least 1, for the method {of!r} alone; got {value}")
    task = members[0][2]
    for model, *_ in members:
        model.eval()
    ids = [next(iter(tokenizer.encode([text]))) for _, tokenizer, _ in members]
    logits = [logits_of(model, [each]) for (model, *_), each in zip(members, ids, strict=True)]
    activated = np.mean([t.activate(one).numpy() for (_, _, t), one in zip(members, logits, strict=True)], axis=0)
    if not np.isfinite(activated).all():
        raise InputError("the model computes NaN for this text: its weights are not usable; train it again")
    place = _place(task, label, activated)
    found = []
    with progress_bar("explain", 0, "tok", progress) as bar:
        for member in members:
            found.append(_of_member(member, text, method, place, chunk_tokens, points, bar))
    parts = found[0][1]
    for other, (_, theirs) in zip(members[1:], found[1:], strict=True):
        if [part[:3] for part in parts] != [part[:3] for part in theirs]:
            kinds = "; ".join(f"{each[1].kind}, {each[1].direction}" for each in (members[0], other))
            raise InputError(
                f"explain: the models cut this text into other {'chunks' if method == CHUNKS else 'words'} ({kinds}), "
                "whose weights have no mean; explain one model (of a folder of both directions forward/ or backward/)"
            )
    weights = np.mean([[part.weight for part in each] for _, each in found], axis=0)
    if method == ATTENTION:
        heads = [sum((part.heads or () for part in each), ()) for each in zip(*(own for _, own in found), strict=True)]
        parts = [part._replace(heads=own) for part, own in zip(parts, heads, strict=True)]
    attributions = [attribution for attribution, _ in found]
    baselines = [each.baseline for each in attributions if each.baseline is not None]
    return Explanation(
        text=text,
        method=method,
        label=None if place is None else task.labels[place],
        evidence_for=task.evidence_for(place),
        probability=None if place is None else float(activated[0, place]),
        evidence=float(np.mean([each.evidence for each in attributions])),
        baseline=float(np.mean(baselines)) if baselines else None,
        missing=1 - float(weights.sum()) if method == ATTENTION else float(np.mean([x.missing for x in attributions])),
        parts=[part._replace(weight=float(weight)) for part, weight in zip(parts, weights, strict=True)],
        predicted=task.decode(activated).tolist()[0],
    )


def _place(task: Task, label: Label | None, activated: np.ndarray) -> int | None:
    if label is None:
        return task.explained_place(activated)
    if not task.labels:
        raise InputError(f"explain: the task {task.type} predicts a number, which has no label; leave out label")
    named = [str(each) for each in task.labels]
    if str(label) not in named:
        raise InputError(f"explain: no label {shortened(repr(label))}; there are {shortened(', '.join(named))}")
    return named.index(str(label))


def methods_of(members: Sequence[Member]) -> list[str]:
    """The methods that explain these models: int8 has no gradients, and only attention pooling looks at something."""
    models = [model for model, *_ in members]
    refused = {
        GRADIENTS: any(map(is_quantized, models)),
        ATTENTION: not all(isinstance(model.bpt3c.pooling, AttentionPooling) for model in models),
    }
    return [method for method in METHODS if not refused.get(method)]


def _of_member(
    member: Member, text: str, method: str, place: int | None, chunk_tokens: int | None, points: int | None,
    bar: Progress,
) -> tuple[Attribution, list[Weighted]]:  # fmt: skip
    """One model's attribution, and the parts of the text with their weights."""
    model, tokenizer, task = member

    def evidence(logits: torch.Tensor) -> torch.Tensor:
        return task.evidence(logits, place)

    if method == CHUNKS:
        return _chunks(member, text, evidence, chunk_tokens or model.bpt3c.bptt)
    ids, parts = (sentences if method == SENTENCES else words)(tokenizer, text)
    if method == ATTENTION:
        each, heads = attention(model, evidence, ids)
        looked = [heads[list(part.tokens)].sum(0) for part in parts]
        found = [_weighted(text, part, float(own.mean())) for part, own in zip(parts, looked, strict=True)]
        return each, [one._replace(heads=tuple(own.tolist())) for one, own in zip(found, looked, strict=True)]
    if method == GRADIENTS:
        silent = np.where(ids == tokenizer.bos_id, ids, tokenizer.unk_id).astype(ids.dtype)
        each = integrated_gradients(model, evidence, ids, silent, points, bar)
        weights = [float(each.values[list(part.tokens)].sum()) for part in parts]
    else:
        each = occlusion(model, evidence, ids, [part.tokens for part in parts], bar)
        weights = each.values.tolist()
    return each, [_weighted(text, part, weight) for part, weight in zip(parts, weights, strict=True)]


def _chunks(member: Member, text: str, evidence: Any, size: int) -> tuple[Attribution, list[Weighted]]:
    model, tokenizer, _ = member
    ids, spans = token_spans(tokenizer, text)
    each, chunks = chunk_attribution(model, evidence, ids, size)
    shares = zip(chunks.share_of_maximum().tolist(), chunks.share_of_mean().tolist(), strict=True)
    starts = chunks.starts.tolist()
    found = []
    for begin, stop, weight, (maximum, mean) in zip(starts[:-1], starts[1:], each.values.tolist(), shares, strict=True):
        covered = [span for span in spans[begin:stop] if span[0] < span[1]] or [(0, 0)]
        part = Part(min(span[0] for span in covered), max(span[1] for span in covered), ())
        found.append(_weighted(text, part, weight)._replace(share_of_maximum=maximum, share_of_mean=mean))
    return each, found if tokenizer.direction == "forward" else found[::-1]


def _weighted(text: str, part: Part, weight: float) -> Weighted:
    return Weighted(text[part.start : part.end], part.start, part.end, weight)
