"""A classifier that is made in a moment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import make_task
from ulmfit_fast.inference.classifiers import Classifiers
from ulmfit_fast.nn.awd_lstm import AWDLSTM, AWDLSTMConfig
from ulmfit_fast.nn.classifier import TextClassifier
from ulmfit_fast.storage.model_folder import save_model
from ulmfit_fast.tasks.single_label import SingleLabel
from ulmfit_fast.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's folder. What it predicts has no sense, but is another thing for each text."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train_words(make_task(80)[0], min_frequency=1)
    encoder = AWDLSTM(AWDLSTMConfig(len(tokenizer), 12, 16, 2, pad_id=tokenizer.pad_id))
    model = TextClassifier(encoder, 2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    made = tmp_path_factory.mktemp("served") / "clf"
    save_model(made, model.eval(), tokenizer, SingleLabel(["bad", "good"]))
    return made


@pytest.fixture(scope="session")
def loaded(folder: Path) -> Classifiers:
    return Classifiers.load([folder])
