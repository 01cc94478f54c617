"""Pretrained models by folder and by the name of an installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.tiny import FINETUNE, PRETRAIN, make_task
from ulmfit_fast import InputError, ULMFiTClassifier, finetune_lm, pretrain_lm
from ulmfit_fast.storage.hub import find_pretrained, installed_models


def install(site: Path, name: str, module: str) -> Path:
    """What pip leaves in site-packages of a package that brings a model. Returns the model's folder."""
    metadata = site / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[ulmfit_fast.models]\n{name} = {module}\n")
    (site / module).mkdir()
    (site / module / "__init__.py").write_text("")
    return site / module / "model"


def test_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = make_task(40)[0]
    folder = install(tmp_path, "tiny", "ulmfit_fast_tiny")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(InputError, match=r"tiny: its package ulmfit_fast_tiny holds no model in .* install it again"):
        find_pretrained("tiny")
    pretrain_lm(texts, PRETRAIN, output=folder, progress=False)
    assert installed_models()["tiny"] == "ulmfit_fast_tiny"
    assert find_pretrained("tiny") == folder
    assert finetune_lm(texts, "tiny", FINETUNE, progress=False).model.encoder.config.hidden_size == 16
    estimator = ULMFiTClassifier(pretrained="tiny", finetune_config=FINETUNE, progress=False)
    assert next(estimator._language_models(texts)).tokenizer.direction == "forward"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert find_pretrained("tiny") == Path("tiny")  # the user's own folder


def test_neither_folder_nor_package() -> None:
    with pytest.raises(InputError, match=r"xx: no such model folder, and no .* give a folder"):
        find_pretrained("xx")
    assert find_pretrained("some/folder") == Path("some/folder")  # whose absence the reader of folders explains
