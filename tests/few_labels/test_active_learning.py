"""Which texts are suggested: uncertainty by hand, spread against a search over all choices, files to fill in."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy as scipy_entropy

from tests.cli.command_line import assert_one_line
from tests.tiny import make_task
from ulmfit_fast import InputError
from ulmfit_fast.cli.main import main
from ulmfit_fast.few_labels.active_learning import disagreement, entropy, first_of_each, margin, suggest
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.inference.pooled_vectors import language_model_vectors, vectors_and_predictions
from ulmfit_fast.storage.model_folder import load_language_model

THREE = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.4, 0.35, 0.25]])


def test_uncertainty_by_hand() -> None:
    assert entropy(THREE, False) == pytest.approx(scipy_entropy(THREE, axis=1))
    assert margin(THREE, False) == pytest.approx([0.8, 0.0, 0.95])
    several = np.array([[0.5, 0.9], [0.99, 0.02]])
    assert entropy(several, True) == pytest.approx(
        [sum(scipy_entropy([p, 1 - p]) for p in row) for row in several], abs=1e-9
    )
    assert margin(several, True) == pytest.approx([1.0, 1 - 0.96])
    each = np.stack([THREE, THREE[:, ::-1]])
    expected = scipy_entropy(each.mean(0), axis=1) - scipy_entropy(each, axis=2).mean(0)
    assert disagreement(each, False) == pytest.approx(expected, abs=1e-9)
    assert disagreement(np.stack([THREE, THREE]), False) == pytest.approx(0, abs=1e-12)


def test_the_most_unsure_come_first() -> None:
    found = suggest("margin", 2, activated=THREE[None])
    assert found.rows.tolist() == [2, 0]
    assert found.scores == pytest.approx([0.95, 0.8])
    assert suggest("entropy", 9, activated=THREE[None]).rows.tolist() == [2, 0, 1]


def radius(vectors: np.ndarray, centres: list[int]) -> float:
    return max(min(np.linalg.norm(v - vectors[c]) for c in centres) for v in vectors)


def test_the_core_set_is_near_the_best_there_is() -> None:
    """Greedy k-center is at most twice as far from any text as the best choice of all."""
    vectors = np.random.default_rng(0).normal(size=(14, 3))
    vectors /= vectors.std(0)
    found = suggest("core-set", 4, vectors=vectors)
    best = min(radius(vectors, list(choice)) for choice in combinations(range(14), 4))
    assert best <= radius(vectors, found.rows.tolist()) <= 2 * best
    labelled = vectors[found.rows[:2]] + 1e-9
    after = suggest("core-set", 2, vectors=vectors, labelled=labelled)
    assert after.rows.tolist() == found.rows[2:].tolist()  # what is labelled counts as chosen


def test_spread_takes_one_of_each_group() -> None:
    random = np.random.default_rng(1)
    groups = np.repeat(np.arange(5), 20)
    vectors = 100.0 * np.eye(5)[groups] + random.normal(size=(100, 5))
    for strategy in ("core-set", "k-means++"):
        found = suggest(strategy, 5, vectors=vectors, seed=3)
        assert sorted(groups[found.rows]) == [0, 1, 2, 3, 4], strategy
    unsure = np.where(groups[:, None] < 2, [[0.55, 0.45]], [[0.99, 0.01]])  # of two groups alone
    found = suggest("margin-spread", 4, activated=unsure[None], vectors=vectors, seed=3)
    assert set(groups[found.rows]) == {0, 1}
    assert len(set(found.rows.tolist())) == 4
    same = suggest("k-means++", 5, vectors=np.ones((5, 2)))
    assert sorted(same.rows) == [0, 1, 2, 3, 4]  # nothing tells them apart


def test_what_cannot_be_suggested() -> None:
    with pytest.raises(InputError, match="strategy must be one of margin-spread, entropy"):
        suggest("best", 1, vectors=THREE)
    with pytest.raises(InputError, match="there is none yet; use core-set"):
        suggest("margin", 1, vectors=THREE)
    with pytest.raises(InputError, match="core-set needs vectors"):
        suggest("core-set", 1, activated=THREE[None])
    with pytest.raises(InputError, match="needs two classifiers"):
        suggest("disagreement", 1, activated=THREE[None])
    assert first_of_each(["a", " ", "b", "a", "c"], ["c"]).tolist() == [0, 2]


def test_vectors_are_what_the_head_sees(models: Path) -> None:
    classifiers, (texts, _) = Classifiers.load([models / "clf"]), make_task(20, seed=2)
    vectors, activated = vectors_and_predictions(classifiers, texts, batch_size=7)
    assert np.array_equal(activated[0], classifiers.activated(texts))
    assert vectors.shape == (20, 3 * 12)
    alone, _ = vectors_and_predictions(classifiers, texts[3:4])
    assert np.array_equal(alone[0], vectors[3])
    model, tokenizer = load_language_model(models / "lm")
    (ids,) = tokenizer.encode(texts[:1])
    import torch

    with torch.inference_mode():
        states = model.eval()(torch.from_numpy(ids).long().unsqueeze(1)).raw[:, 0]
    expected = torch.cat([states[-1], states.max(0).values, states.mean(0)]).numpy()
    assert language_model_vectors(model, tokenizer, texts)[0] == pytest.approx(expected, abs=1e-5)


def test_a_model_that_computes_nan_suggests_nothing(models: Path) -> None:
    for broken in ("head.0.weight", "bpt3c.encoder.encoder.weight"):
        classifiers = Classifiers.load([models / "clf"])
        dict(classifiers.members[0][0].named_parameters())[broken].data.fill_(float("nan"))
        with pytest.raises(InputError, match="the model computes NaN for some texts"):
            vectors_and_predictions(classifiers, make_task(4)[0])


def test_the_command(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that have a label, here and in another table, are not suggested; the output is filled in and trained on."""
    texts, labels = make_task(40, seed=7)
    given = [label if i < 5 else "" for i, label in enumerate(labels)]
    pd.DataFrame({"text": texts, "label": given}).to_csv(tmp_path / "pool.csv", index=False)
    pd.DataFrame({"text": texts[5:10], "label": labels[5:10]}).to_csv(tmp_path / "done.csv", index=False)
    arguments = ["suggest", str(tmp_path / "pool.csv"), "--labeled", str(tmp_path / "done.csv"), "--count", "6"]
    output = tmp_path / "next.csv"
    clf = ["--model", str(models / "clf"), "--strategy", "margin-spread"]
    assert main([*arguments, *clf, "--output", str(output)]) == 0
    assert "6 of 30 texts by margin-spread" in capsys.readouterr().out
    table = pd.read_csv(output, keep_default_na=False)
    assert list(table.columns) == ["row", "text", "label", "prediction", "confidence", "score"]
    assert set(table["label"]) == {""}
    assert table["row"].min() > 10
    assert [texts[row - 1] for row in table["row"]] == table["text"].tolist()
    lm = ["--model", str(models / "lm"), "--output", str(tmp_path / "first.jsonl")]
    assert main([*arguments, *lm]) == 0
    assert "by k-means++" in capsys.readouterr().out
    assert list(pd.read_json(tmp_path / "first.jsonl", lines=True).columns) == ["row", "text", "label", "score"]
    assert main([*arguments, *lm, "--overwrite", "--strategy", "margin"]) == 2
    assert_one_line(capsys, "there is none yet")
    assert main([*arguments, *clf[:2], "--output", str(tmp_path / "last.csv")]) == 0
    assert "by margin" in capsys.readouterr().out
    assert main([*arguments, *clf[:2], "--output", str(output)]) == 2
    assert_one_line(capsys, "exists; choose another file or pass --overwrite")
