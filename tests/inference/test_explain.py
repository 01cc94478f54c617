"""Explanations: exact where they say so, equal to captum's, about the words that carry the label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ulmfit_fast import ULMFiTClassifier
from ulmfit_fast.core.errors import InputError
from ulmfit_fast.inference.attribution import chunk_attribution, integrated_gradients, occlusion
from ulmfit_fast.inference.explain import ATTENTION, METHODS, explain
from ulmfit_fast.inference.prediction import logits_of
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.chunks import attention_of, chunks_of
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.nn.qrnn import QRNN, QRNNConfig
from ulmfit_fast.tasks.task import Task, task_of
from ulmfit_fast.text.batching import pack_documents
from ulmfit_fast.text.tokenizer import Tokenizer

SIZES = {"vocab_size": 40, "embedding_size": 8, "hidden_size": 10, "num_layers": 2}
TASKS = [
    task_of("single_label", ["a", "b", "c"], {"temperature": 1.7}),
    task_of("binary", ["a", "b"]),
    task_of("multi_label", ["a", "b", "c"], {"temperature": 0.8}),
    task_of("ordinal", [1, 2, 3, 4]),
    task_of("regression", [], {"mean": 3.0, "scale": 2.0}),
]
NAMES = [task.type for task in TASKS]
OF_ANY_MODEL = [method for method in METHODS if method != ATTENTION]


def made(outputs: int, kind: str = "awd_lstm", **options: object) -> TextClassifier:
    """In eval mode, float64, with batch norms that are not the identity and embeddings that matter."""
    encoder = AWDLSTM(AWDLSTMConfig(**SIZES)) if kind == "awd_lstm" else QRNN(QRNNConfig(**SIZES))
    model = TextClassifier(encoder, outputs, **options).double().eval()
    nn.init.normal_(encoder.encoder.weight, std=0.7)
    for norm in (model.head[0], model.head[4]):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.05, 0.3)
        nn.init.normal_(norm.weight, 1, 0.2)
    return model


def document(length: int = 30) -> np.ndarray:
    return np.concatenate([[2], np.random.default_rng(1).integers(9, 40, length - 1)]).astype(np.int32)


def silent(ids: np.ndarray) -> np.ndarray:
    return np.where(ids == 2, 2, 0).astype(np.int32)


def evidence_of(task: Task, place: int | None) -> object:
    return lambda logits: task.evidence(logits, place)


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_evidence_is_the_log_odds_of_what_is_activated(task: Task) -> None:
    logits = torch.randn(5, task.outputs, dtype=torch.float64)
    activated = task.activate(logits)
    for place in range(len(task.labels)) or [None]:
        found = task.evidence(logits, place)
        if place is None:
            torch.testing.assert_close(found, activated[:, 0])
            continue
        p = activated[:, place] if task.type != "ordinal" or place == 0 else activated[:, place:].sum(1)
        torch.testing.assert_close(found, (p / (1 - p)).log())


@pytest.mark.parametrize("kind", ["awd_lstm", "qrnn"])
@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_integrated_gradients_sum_to_the_difference(task: Task, kind: str) -> None:
    model, ids = made(task.outputs, kind, bptt=7), document()
    evidence = evidence_of(task, 1 if task.labels else None)
    found = integrated_gradients(model, evidence, ids, silent(ids))
    whole, nothing = (
        float(evidence(model.requires_grad_(False)(pack_documents([torch.from_numpy(x)])))) for x in (ids, silent(ids))
    )
    assert found.evidence == pytest.approx(whole, abs=1e-6)
    assert found.baseline == pytest.approx(nothing, abs=1e-6)
    assert abs(found.missing) <= 1e-9 * max(abs(whole), abs(nothing))  # nothing is left over
    assert found.values[0] == 0  # xxbos is in both
    fine = integrated_gradients(model, evidence, ids, silent(ids), points=500)
    assert abs(fine.missing) <= 0.01 * abs(whole - nothing)  # what the gradients alone sum to
    assert found.points < 200
    assert np.abs(found.values - fine.values).max() <= 0.05 * np.abs(fine.values).max()


def test_integrated_gradients_are_captum_s() -> None:
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    task, ids = TASKS[0], document()
    model = made(task.outputs, bptt=7)
    embedded, base = (model.embed(torch.from_numpy(x).long()[None]).detach() for x in (ids, silent(ids)))

    def evidence(each: Tensor) -> Tensor:
        return task.evidence(model.forward_embedded(each, torch.full((len(each),), len(ids))), 2)

    theirs = attr.IntegratedGradients(evidence).attribute(embedded, base, n_steps=50, method="gausslegendre")
    ours = integrated_gradients(model, evidence_of(task, 2), ids, silent(ids), points=50)
    np.testing.assert_allclose(ours.values, theirs.sum(2)[0].detach().numpy(), atol=1e-10, rtol=1e-7)
    adaptive = integrated_gradients(model, evidence_of(task, 2), ids, silent(ids))
    assert np.abs(adaptive.values - ours.values).max() < 0.05 * np.abs(ours.values).max()  # of 16 points


def test_occlusion_is_by_the_definition() -> None:
    task, ids = TASKS[2], document(12)
    model = made(task.outputs)
    evidence = evidence_of(task, 0)
    parts = [[1], [2, 3], [11]]
    found = occlusion(model, evidence, ids, parts)
    for part, value in zip(parts, found.values, strict=True):
        kept = [i for place, i in enumerate(ids.tolist()) if place not in part]
        whole, without = (
            float(evidence(model.requires_grad_(False)(pack_documents([torch.tensor(x)]))))
            for x in (ids.tolist(), kept)
        )
        assert value == pytest.approx(whole - without, abs=1e-5)
    with pytest.raises(InputError, match="occlusion would read"):
        occlusion(model, evidence, np.zeros(30_000, np.int32), [[i] for i in range(30_000)])


@pytest.mark.parametrize("options", [{}, {"pool_window": 11}, {"pool_window": 11, "keep": "first"}])
def test_chunks_are_those_of_the_states(options: dict) -> None:
    model, ids = made(3, **options), document()
    states, _ = model.bpt3c.encoder(torch.from_numpy(ids).long(), torch.ones(len(ids), dtype=torch.int64))
    read = states[:11] if options.get("keep") else states
    first = len(read) - 11 if options and not options.get("keep") else 0
    chunks = chunks_of(model.bpt3c, torch.from_numpy(ids).long(), 7)
    pooled = model.bpt3c(pack_documents([torch.from_numpy(ids)]))[0]
    torch.testing.assert_close(chunks.parts.sum(0), pooled)
    torch.testing.assert_close(chunks.owned.sum(0), torch.ones_like(pooled))
    where = read[first:].max(0).indices + first
    torch.testing.assert_close(
        chunks.share_of_maximum(), torch.stack([(where // 7 == k).double().mean() for k in range(len(chunks.parts))])
    )
    sums = torch.stack([read[max(first, 7 * k) : 7 * k + 7].sum(0) for k in range(len(chunks.parts))])
    mean = read[first:].mean(0)
    torch.testing.assert_close(chunks.share_of_mean(), (sums / len(read[first:])) @ mean / mean.square().sum())


@pytest.mark.parametrize("options", [{}, {"pool_window": 11}])
def test_chunks_of_attention_are_those_of_the_weights(options: dict) -> None:
    model, ids = made(3, pooling="attention", attention_heads=2, **options), document()
    for parameter in model.bpt3c.pooling.parameters():
        nn.init.normal_(parameter)
    tokens = torch.from_numpy(ids).long()
    states, _ = model.bpt3c.encoder(tokens, torch.ones(len(ids), dtype=torch.int64))
    chunks, weights = chunks_of(model.bpt3c, tokens, 7), attention_of(model.bpt3c, tokens)
    torch.testing.assert_close(chunks.parts.sum(0), model.bpt3c(pack_documents([tokens]))[0])
    torch.testing.assert_close(weights.sum(0), torch.ones(2).double())
    for head in range(2):
        features = slice(8 * (2 + head), 8 * (3 + head))
        each = torch.stack([w.sum() for w in weights[:, head].split(7)])
        torch.testing.assert_close(chunks.owned[:, features], each.unsqueeze(1).expand(-1, 8))
        weighted = weights[:, head, None] * states
        parts = torch.stack([each.sum(0) for each in weighted.split(7)])
        torch.testing.assert_close(chunks.parts[:, features], parts)


def test_chunks_sum_to_the_evidence_above_the_average_document() -> None:
    task, ids = TASKS[0], document(50)
    model = made(task.outputs)
    found, chunks = chunk_attribution(model, evidence_of(task, 0), ids, 7)
    assert len(found.values) == len(chunks.parts) == 8
    average = task.evidence(model.head(model.head[0].running_mean[None]), 0)
    assert found.baseline == pytest.approx(float(average))
    assert found.evidence == pytest.approx(float(task.evidence(model(pack_documents([torch.from_numpy(ids)])), 0)))
    assert abs(found.missing) <= 0.01 * abs(found.evidence - found.baseline)


def test_memory_does_not_grow_with_the_document() -> None:
    """The autograd graph of a document would hold all of its states; two passes hold a block's."""
    model = made(2, memory="recompute", bptt=20)
    model.bpt3c.block_rows = 100
    kept: list[int] = []
    for length in (200, 2000):
        ids = document(length)
        most = 0

        def pack(x: Tensor, size: int = length) -> Tensor:
            nonlocal most
            most = max(most, x.numel() if x.shape != (size, 8) else 0)  # but for the embedded text itself
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            integrated_gradients(model, lambda logits: logits[:, 0], ids, silent(ids), points=1)
        kept.append(most)
    assert kept[0] == kept[1]


@pytest.fixture(scope="module")
def fitted(models: Path) -> ULMFiTClassifier:
    return ULMFiTClassifier.load(models / "clf", device="cpu")


@pytest.mark.parametrize("method", OF_ANY_MODEL)
def test_the_words_of_the_label_weigh_most(fitted: ULMFiTClassifier, method: str) -> None:
    found = fitted.explain("The film was superb and lovely.\n\nThe story was the film.", method)
    assert found.label == found.predicted == "good"
    assert found.probability == pytest.approx(float(fitted.predict_proba([found.text])[0, 1]))
    for part in found.parts:
        assert found.text[part.start : part.end] == part.text
    if method in ("integrated_gradients", "occlusion"):
        assert [part.text for part in found.parts][:3] == ["The", "film", "was"]
        assert {part.text for part in found.top(3)} >= {"superb", "lovely"}  # a mark is unknown to the model
        assert all(part.weight > 0 for part in found.parts if part.text in ("superb", "lovely"))
    if method == "sentence_occlusion":
        assert [part.text.strip() for part in found.parts] == [
            "The film was superb and lovely.",
            "The story was the film.",
        ]
        assert found.parts[0].weight > 0
    if found.baseline is not None:
        total = sum(part.weight for part in found.parts)
        assert total == pytest.approx(found.evidence - found.baseline, rel=0.011)
    other = fitted.explain(found.text, method, "bad")
    assert [part.weight for part in other.parts] == pytest.approx([-part.weight for part in found.parts], abs=0.02)


def test_several_models_are_explained_by_their_mean(models: Path, fitted: ULMFiTClassifier) -> None:
    one = (fitted.model_, fitted.tokenizer_, fitted.task_)
    backward = (fitted.model_, fitted.tokenizer_.reading("backward"), fitted.task_)
    text = "the film was really superb and its story lovely too"
    found = [explain(each, text) for each in ([one], [backward], [one, backward])]
    weights = [[part.weight for part in each.parts] for each in found]
    assert [part.text for part in found[1].parts] == text.split()
    assert weights[2] == pytest.approx(np.mean(weights[:2], axis=0).tolist())
    assert found[2].probability == pytest.approx((found[0].probability + found[1].probability) / 2)
    spaces = Tokenizer.from_vocabulary(fitted.tokenizer_.vocabulary, "whitespace")
    with pytest.raises(InputError, match=r"other words \(word, forward; whitespace, forward\)"):
        explain([one, (fitted.model_, spaces, fitted.task_)], "a superb, lovely film")


def test_bad_requests_get_a_reason(fitted: ULMFiTClassifier) -> None:
    with pytest.raises(InputError, match="method must be one of integrated_gradients, occlusion"):
        fitted.explain("a text", "magic")
    with pytest.raises(InputError, match="no label 'neutral'; there are bad, good"):
        fitted.explain("a text", label="neutral")
    with pytest.raises(InputError, match="chunk_tokens is a number of at least 1, for the method 'chunks'"):
        fitted.explain("a text", chunk_tokens=5)
    with pytest.raises(TypeError):
        fitted.explain(5)  # type: ignore[arg-type]
    int8 = fitted.quantize()
    with pytest.raises(InputError, match="int8 layers have no gradient"):
        int8.explain("a great film")
    assert int8.explain("a great film", "occlusion").top(1)[0].text == "great"
    number = task_of("regression", [])
    with pytest.raises(InputError, match="predicts a number, which has no label"):
        explain([(made(1).float(), fitted.tokenizer_, number)], "the", label="good")


def test_empty_texts_have_no_words(fitted: ULMFiTClassifier) -> None:
    for method in OF_ANY_MODEL:
        found = fitted.explain(" ", method)
        assert [part.text for part in found.parts if part.text] == []
        assert "no words" in str(found) or method == "chunks"
    assert logits_of(fitted.model_, [np.array([2], np.int32)]).shape == (1, 2)
