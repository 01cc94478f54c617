"""A classifier with attention pooling through everything that a classifier does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli.command_line import SIZES, SMALL, assert_one_line, write_task
from tests.test_multitask import counts
from tests.tiny import CLASSIFY, make_task
from tests.training.test_resume import EVERY_STEP, assert_same, train_killed
from ulmfit_fast import (
    InputError,
    LabelledTexts,
    TrainedClassifier,
    ULMFiTClassifier,
    finetune_classifier,
    finetune_multitask,
)
from ulmfit_fast.cli.main import main
from ulmfit_fast.inference.explain import explain
from ulmfit_fast.inference.pooled_vectors import pooled_vectors
from ulmfit_fast.inference.prediction import predict_probabilities
from ulmfit_fast.interop.fastai_export import save_fastai
from ulmfit_fast.interop.fastai_learner import to_fastai
from ulmfit_fast.training import history

TEXTS, LABELS = make_task(64)
CONFIG = replace(CLASSIFY, epochs=5, pooling="attention", attention_heads=2)
TEXT = "the film was really superb and its story lovely too"


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "plot_curves", lambda *_: b"")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attention") / "clf"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "plot_curves", lambda *_: b"")
        finetune_classifier(TEXTS, LABELS, None, CONFIG, output=folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> TrainedClassifier:
    return TrainedClassifier.load(folder)


def probabilities(trained: TrainedClassifier, texts: list[str] = TEXTS) -> np.ndarray:
    return predict_probabilities(trained.model, trained.tokenizer, trained.task, texts)


def test_a_folder_has_its_pooling_and_concat_has_no_word_of_it(
    folder: Path, trained: TrainedClassifier, tmp_path: Path
) -> None:
    head = json.loads((folder / "config.json").read_text())["head"]
    assert (head["pooling"], head["attention_heads"]) == ("attention", 2)
    assert trained.model.bpt3c.pooling.context.any()
    assert trained.labels[int(probabilities(trained, [TEXT]).argmax())] == "good"
    finetune_classifier(TEXTS[:8], LABELS[:8], None, replace(CLASSIFY, epochs=1), output=tmp_path / "concat")
    config = (tmp_path / "concat" / "config.json").read_text()
    assert "pooling" not in config
    assert "attention" not in config
    assert TrainedClassifier.load(tmp_path / "concat").model.bpt3c.config.pooling == "concat"
    (tmp_path / "concat" / "config.json").write_text(config.replace('"head": {', '"head": {"pooling": "sum",'))
    with pytest.raises(InputError, match=r"config\.json has a wrong head .*pooling must be 'concat' or 'attention'"):
        TrainedClassifier.load(tmp_path / "concat")


def test_int8_folders_and_streams(trained: TrainedClassifier, folder: Path, tmp_path: Path) -> None:
    estimator = ULMFiTClassifier.load(folder)
    stream = estimator.stream()
    for begin in range(0, len(TEXT), 7):
        stream.feed(TEXT[begin : begin + 7])
    assert np.array_equal(stream.predict_proba(), estimator.predict_proba([TEXT])[0])
    estimator.quantize().save(tmp_path / "int8")
    int8 = ULMFiTClassifier.load(tmp_path / "int8")
    assert np.abs(int8.predict_proba(TEXTS) - probabilities(trained)).max() < 0.1
    weights = [[part.weight for part in each.explain(TEXT, "attention").parts] for each in (int8, estimator)]
    assert weights[0] == pytest.approx(weights[1], abs=0.02)


def test_vectors_have_a_mean_for_each_head(trained: TrainedClassifier, folder: Path) -> None:
    estimator = ULMFiTClassifier.load(folder)
    names = estimator.get_feature_names_out().tolist()
    assert estimator.transform(TEXTS[:3]).shape == (3, 4 * 12)
    assert [names[i] for i in (0, 12, 24, 36, 47)] == [
        "last0",
        "maximum0",
        "attention0_0",
        "attention1_0",
        "attention1_11",
    ]


def test_attention_is_a_plain_softmax_over_the_states(trained: TrainedClassifier) -> None:
    member = (trained.model, trained.tokenizer, trained.task)
    found = explain([member], TEXT, "attention")
    ids = torch.from_numpy(next(iter(trained.tokenizer.encode([TEXT])))).long()
    with torch.no_grad():
        states, _ = trained.model.bpt3c.encoder(ids, torch.ones(len(ids), dtype=torch.int64))
        pooling = trained.model.bpt3c.pooling
        scores = torch.tanh(states @ pooling.projection.T + pooling.bias) @ pooling.context.T
    exact = scores.double().softmax(0)
    assert [part.text for part in found.parts] == TEXT.split()
    assert len(ids) == 1 + len(found.parts)  # xxbos, which belongs to no word
    heads = np.array([part.heads for part in found.parts])
    np.testing.assert_allclose(heads, exact[1:].numpy(), atol=1e-6)
    np.testing.assert_allclose([part.weight for part in found.parts], exact[1:].mean(1).numpy(), atol=1e-6)
    assert sum(part.weight for part in found.parts) + found.missing == pytest.approx(1, abs=1e-12)
    assert found.missing == pytest.approx(float(exact[0].mean()), abs=1e-6)
    vector = pooled_vectors(trained.model, trained.tokenizer, [TEXT])[0]
    np.testing.assert_allclose(vector[24:], (exact.T @ states.double()).flatten().numpy(), atol=1e-6)
    empty = explain([member], " ", "attention")
    assert not empty.parts
    assert empty.missing == 1
    assert "the text has no words" in str(empty)
    twice = explain([member, member], TEXT, "attention")
    assert [part.weight for part in twice.parts] == pytest.approx([part.weight for part in found.parts])
    assert [part.heads for part in twice.parts] == [(*part.heads, *part.heads) for part in found.parts]
    trained.model.bpt3c.pool_window = 4
    try:
        parts = explain([member], TEXT, "attention").parts
    finally:
        trained.model.bpt3c.pool_window = None
    assert not any(part.weight for part in parts[:-4])
    assert sum(part.weight for part in parts) == pytest.approx(1)


def test_other_explanations(trained: TrainedClassifier) -> None:
    member = (trained.model, trained.tokenizer, trained.task)
    exact = explain([member], TEXT)
    assert sum(part.weight for part in exact.parts) == pytest.approx(exact.evidence - exact.baseline, rel=0.011)
    chunks = explain([member], TEXT, "chunks", chunk_tokens=4)
    assert abs(chunks.missing) <= 0.01 * abs(chunks.evidence - chunks.baseline)
    assert sum(part.share_of_mean for part in chunks.parts) == pytest.approx(1)


def test_a_classifier_goes_on_with_its_pooling(trained: TrainedClassifier) -> None:
    config = replace(CLASSIFY, epochs=1, lr=1e-9, discriminative_factor=1.0)  # which says concat: the head has its own
    going_on = finetune_classifier(TEXTS, [*LABELS[:-1], "other"], trained, config).model
    for name, tensor in trained.model.bpt3c.pooling.state_dict().items():
        torch.testing.assert_close(going_on.bpt3c.pooling.state_dict()[name], tensor, atol=1e-6, rtol=0)
    assert going_on.bpt3c.config.attention_heads == 2
    new = finetune_classifier(TEXTS, ["x", "y"] * 32, trained, config).model
    assert new.bpt3c.config.pooling == "concat"  # with a new head as the configuration says
    for other, name in (
        ({"pooling": "attention", "attention_heads": 3}, "attention_heads is 3, .* has 2"),
        ({"head_size": 7}, "head_size is 7, .* has 50"),
    ):
        with pytest.raises(InputError, match=f"{name}; leave it out"):
            finetune_classifier(TEXTS, LABELS, trained, replace(config, **other))


def test_killed_runs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, epochs=2, unfreezing="gradual", drop_mult=0.5, checkpoint_minutes=EVERY_STEP)

    def train(output: Path | None, resume: bool) -> TrainedClassifier:
        return finetune_classifier(TEXTS, LABELS, None, config, output=output, resume=resume)

    whole = train(None, False)
    assert whole.model.bpt3c.pooling.context.any()
    assert_same(train_killed(train, tmp_path / "killed", monkeypatch), whole)


def test_several_tables_have_a_pooling_each(tmp_path: Path) -> None:
    tables = {"mood": LabelledTexts(TEXTS, LABELS), "count": LabelledTexts(TEXTS, counts(TEXTS), task="regression")}
    found = finetune_multitask(tables, None, replace(CONFIG, epochs=2), output=tmp_path / "both")
    contexts = [each.model.bpt3c.pooling.context for each in found.values()]
    assert all(context.any() for context in contexts)
    assert not torch.equal(*contexts)
    loaded = TrainedClassifier.load(tmp_path / "both" / "mood")
    assert torch.equal(loaded.model.bpt3c.pooling.context, contexts[0])


def test_fastai_is_refused(trained: TrainedClassifier, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fastai 2 has no attention pooling"):
        to_fastai(trained)
    with pytest.raises(InputError, match="fastai 2 has no attention pooling; write the encoder alone"):
        save_fastai(tmp_path / "fastai", trained)


def test_on_the_command_line(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, output = str(write_task(tmp_path / "train.csv")), str(tmp_path / "clf")
    small = [*SIZES, *SMALL, "--epochs", "2"]
    assert main(["train", data, "--output", output, *small, "--attention-heads", "2"]) == 2
    assert_one_line(capsys, "attention_heads=2 goes with pooling='attention', got 'concat'")
    assert not (tmp_path / "clf").exists()
    arguments = ["train", data, "--output", output, *small, "--pooling", "attention", "--attention-heads", "2"]
    assert main(arguments) == 0
    assert main(["info", output]) == 0
    assert "head.pooling: attention" in capsys.readouterr().out
    page, lines = tmp_path / "page.html", tmp_path / "lines.jsonl"
    shown = ["--html", str(page), "--json", str(lines)]
    assert main(["explain", TEXT, "--model", output, "--method", "attention", *shown]) == 0
    printed = capsys.readouterr().out
    assert "the weights are shares of the attention, of which words get" in printed
    found = json.loads(lines.read_text())
    assert sum(part["weight"] for part in found["parts"]) + found["missing"] == pytest.approx(1)
    assert {len(part["heads"]) for part in found["parts"]} == {2}
    assert "what the model looks at" in page.read_text()
    assert main(["explain", TEXT, "--model", str(models / "clf"), "--method", "attention"]) == 2
    assert_one_line(capsys, "train one with --pooling attention, or take method 'integrated_gradients'")
