"""``ULMFiTClassifier`` with models of both directions, as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from tests.test_estimator_tasks import make_estimator, make_sets
from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import InputError, ULMFiTClassifier, pretrain_lm
from ulmfit_fast.cli.main import main
from ulmfit_fast.storage.both_directions import has_both, join
from ulmfit_fast.training import history

TEXTS, LABELS = make_task(60)
NEW, NEW_LABELS = make_task(30, seed=5)
QUICK = replace(CLASSIFY, epochs=4)


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "plot_curves", lambda *_: b"")


@pytest.fixture(scope="module")
def both() -> ULMFiTClassifier:
    return make_estimator(QUICK, direction="both", seed=3).fit(TEXTS, LABELS)


@pytest.fixture(scope="module")
def language_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of both directions."""
    folder = tmp_path_factory.mktemp("lms") / "lm"
    folder.mkdir()
    for direction in ("forward", "backward"):
        pretrain_lm(TEXTS, replace(PRETRAIN, direction=direction), output=folder / direction, progress=False)
    join(folder)
    return folder


def test_it_is_the_mean_of_two_estimators(both: ULMFiTClassifier) -> None:
    alone = [make_estimator(QUICK, direction=each, seed=3).fit(TEXTS, LABELS) for each in ("forward", "backward")]
    assert [each.tokenizer_.direction for each in alone] == ["forward", "backward"]
    found = both.predict_proba(NEW)
    assert np.array_equal(found, np.mean([each.predict_proba(NEW) for each in alone], axis=0))
    assert not np.array_equal(found, alone[0].predict_proba(NEW))
    assert np.array_equal(both.predict(NEW), both.classes_[found.argmax(1)])
    assert both.score(NEW, NEW_LABELS) == np.mean(both.classes_[found.argmax(1)] == np.array(NEW_LABELS))
    assert both.score(NEW, NEW_LABELS) > 0.8
    assert (both.tokenizer_.direction, both.backward_.tokenizer.direction) == ("forward", "backward")
    assert both.backward_.history.records[0]["stage"] == "pretrain LM"


def test_save_and_load(both: ULMFiTClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder is the command line's ``--direction both``, and predicts there as here."""
    folder = tmp_path / "clf"
    both.save(folder)
    assert {path.name for path in folder.iterdir()} == {"config.json", "forward", "backward"}
    loaded = ULMFiTClassifier.load(folder)
    expected = both.predict_proba(NEW)
    assert np.array_equal(loaded.predict_proba(NEW), expected)
    assert loaded.get_params(deep=False) | {"progress": False} == both.get_params(deep=False)
    assert np.array_equal(ULMFiTClassifier.load(folder / "backward").predict_proba(NEW)[:, 0] > 0.5,
                          ULMFiTClassifier.load(folder / "backward").predict(NEW) == "bad")  # fmt: skip
    pd.DataFrame({"text": NEW, "label": NEW_LABELS}).to_csv(tmp_path / "new.csv")
    arguments = ["--model", str(folder), "--output", str(tmp_path / "out.csv"), "--probabilities"]
    assert main(["predict", str(tmp_path / "new.csv"), *arguments]) == 0
    assert pd.read_csv(tmp_path / "out.csv")["probability:good"].to_numpy() == pytest.approx(expected[:, 1], abs=1e-6)
    with pytest.raises(InputError, match="already holds a model"):
        both.save(folder)
    both.save(folder, overwrite=True)
    both.save_pretrained(tmp_path / "card")
    assert "both directions" in (tmp_path / "card" / "README.md").read_text()
    assert np.array_equal(ULMFiTClassifier.from_pretrained(tmp_path / "card").predict_proba(NEW), expected)
    again = loaded.fit(TEXTS, LABELS)
    assert np.array_equal(again.predict_proba(NEW), expected)


def test_one_gives_way_to_two_and_back(both: ULMFiTClassifier, tmp_path: Path) -> None:
    one = make_estimator(QUICK, seed=3).fit(TEXTS, LABELS)
    one.save(tmp_path / "clf")
    both.save(tmp_path / "clf", overwrite=True)
    assert has_both(tmp_path / "clf")
    assert {path.name for path in (tmp_path / "clf").iterdir()} == {"config.json", "forward", "backward"}
    copy = clone(both).set_params(direction=None).fit(TEXTS, LABELS)
    assert not hasattr(copy, "backward_")
    assert np.array_equal(copy.predict_proba(NEW), one.predict_proba(NEW))
    copy.set_params(direction="both").fit(TEXTS, LABELS)
    assert np.array_equal(copy.predict_proba(NEW), both.predict_proba(NEW))
    copy.set_params(direction="forward").fit(TEXTS, LABELS)
    assert not hasattr(copy, "backward_")


def test_quantized(both: ULMFiTClassifier, tmp_path: Path) -> None:
    quantized = both.quantize()
    found = quantized.predict_proba(NEW)
    assert quantized.backward_.model.bpt3c.encoder.__class__.__name__ == "QuantizedAWDLSTM"
    assert np.abs(found - both.predict_proba(NEW)).max() < 0.05
    assert not np.array_equal(found, both.predict_proba(NEW))
    quantized.save(tmp_path / "int8")
    assert np.array_equal(ULMFiTClassifier.load(tmp_path / "int8").predict_proba(NEW), found)
    with pytest.raises(InputError, match="the backward model needs the whole text"):
        both.stream()


def test_parameters(both: ULMFiTClassifier) -> None:
    copy = clone(both)
    assert copy.get_params() == both.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(NEW)
    pair = clone(ULMFiTClassifier(pretrained=("fwd", "bwd")))
    assert pair.pretrained == ("fwd", "bwd")
    texts, labels = make_task(120)
    assert cross_val_score(make_estimator(CLASSIFY, direction="both", seed=0), texts, labels, cv=2).mean() > 0.8


def in_one_folder(folder: Path) -> dict[str, object]:
    return {"pretrained": folder}


def in_two_folders(folder: Path) -> dict[str, object]:
    return {"pretrained": (str(folder / "forward"), folder / "backward")}


@pytest.mark.parametrize("given", [in_one_folder, in_two_folders], ids=lambda f: f.__name__)
def test_pretrained(given: Callable[[Path], dict[str, object]], language_models: Path, tmp_path: Path) -> None:
    estimator = make_estimator(QUICK, seed=1, **given(language_models)).fit(TEXTS, LABELS)
    assert estimator.backward_.tokenizer.direction == "backward"
    alone = make_estimator(QUICK, seed=1, pretrained=language_models / "backward").fit(TEXTS, LABELS)
    for name, tensor in alone.model_.state_dict().items():
        assert torch.equal(tensor, estimator.backward_.model.state_dict()[name]), name
    estimator.save(tmp_path / "clf")
    written = json.loads((tmp_path / "clf" / "backward" / "training_args.json").read_text())["estimator"]
    loaded = ULMFiTClassifier.load(tmp_path / "clf")
    pretrained = estimator.get_params()["pretrained"]
    assert written["pretrained"] == ([*map(str, pretrained)] if isinstance(pretrained, tuple) else str(pretrained))
    assert np.array_equal(loaded.fit(TEXTS, LABELS).predict_proba(NEW), estimator.predict_proba(NEW))


def test_going_on_with_more_labels(both: ULMFiTClassifier) -> None:
    estimator = clone(both).set_params(warm_start=True).fit(TEXTS, LABELS)
    before = estimator.backward_.model.state_dict()["bpt3c.encoder.encoder.weight"].clone()
    estimator.set_params(classifier_config=replace(QUICK, epochs=1, lr=1e-9))
    estimator.fit([*TEXTS, "film film film"], [*LABELS, "none"])
    assert estimator.classes_.tolist() == ["bad", "good", "none"]
    assert estimator.predict_proba(NEW).shape == (30, 3)
    after = estimator.backward_.model.state_dict()["bpt3c.encoder.encoder.weight"]
    assert torch.allclose(before, after, atol=1e-6)


def test_several_labels_and_numbers() -> None:
    texts, sets = make_sets(80)
    tagger = make_estimator(QUICK, direction="both", seed=0).fit(texts, sets)
    assert tagger.predict_proba(texts).shape == (80, 3)
    assert set(tagger.predict(texts)[0]) <= {"animal", "plant", "stone"}
    numbers = [float(len(each)) for each in sets]
    rater = make_estimator(QUICK, direction="both", task="regression", seed=0).fit(texts, numbers)
    parts = [ULMFiTClassifier(task="regression") for _ in range(2)]
    for part, trained in zip(parts, rater._members(), strict=True):
        part._take([trained])
    assert rater.predict(texts) == pytest.approx(np.mean([part.predict(texts) for part in parts], axis=0), abs=1e-5)


def test_both_are_exported(both: ULMFiTClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What of them becomes one graph: see tests/cli/test_directions.py."""
    from ulmfit_fast.interop import deployment_folder

    exported: list[Any] = []
    monkeypatch.setattr(deployment_folder, "save_onnx", lambda folder, models, **_: exported.extend(models))
    both.to_onnx(tmp_path / "onnx")
    assert [each.model for each in exported] == [both.model_, both.backward_.model]


def test_what_is_refused(language_models: Path, tmp_path: Path) -> None:
    forward, backward = language_models / "forward", language_models / "backward"
    for parameters, message in (
        ({"direction": "sideways"}, "direction must be None, forward, backward, both, got 'sideways'"),
        ({"direction": "both", "pretrained": forward}, "direction is 'both', but .*forward has one; give pretrained="),
        ({"direction": "backward", "pretrained": forward}, "the language model reads forward; give one that reads"),
        ({"pretrained": (forward, forward)}, "the language model reads forward; give one that reads backward"),
        ({"pretrained": (backward, forward)}, "the language model reads backward; give one that reads forward"),
        ({"pretrained": (forward,)}, r"takes one model, or \(forward, backward\); got 1"),
        ({"pretrained": (forward, backward), "direction": "forward"}, "does not go with two models"),
        ({"pretrained": (forward, tmp_path / "gone")}, "gone"),
    ):
        with pytest.raises(InputError, match=message):
            make_estimator(QUICK, **parameters).fit(TEXTS, LABELS)
    part = make_estimator(QUICK, pretrained=language_models, direction="backward").fit(TEXTS, LABELS)
    assert part.tokenizer_.direction == "backward"
    assert not hasattr(part, "backward_")
