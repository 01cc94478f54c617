"""What a caller has set in torch neither reaches training and prediction nor is changed by them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import CLASSIFY, PRETRAIN, make_task
from ulmfit_fast import ULMFiTClassifier, finetune_lm, pretrain_lm
from ulmfit_fast.training.config import FinetuneLMConfig

TEXTS, LABELS = make_task(40)


def fit() -> ULMFiTClassifier:
    config = replace(CLASSIFY, epochs=2, drop_mult=0.5, variable_bptt=True)
    return ULMFiTClassifier(pretrain_config=PRETRAIN, classifier_config=config, seed=0, progress=False).fit(
        TEXTS, LABELS
    )


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return fit().predict_proba(TEXTS)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize(
    "mode",
    [
        lambda: default_dtype(torch.float64), lambda: default_dtype(torch.bfloat16), lambda: torch.device("meta"),
        torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    ],
    ids=["float64", "bfloat16", "meta", "no_grad", "inference_mode", "autocast"],
)  # fmt: skip
def test_a_caller_s_modes(mode: type[contextlib.AbstractContextManager[None]], expected: np.ndarray) -> None:
    with mode():
        classifier = fit()
        inside = classifier.predict_proba(TEXTS)
    assert np.array_equal(inside, expected)
    assert {p.dtype for p in classifier.model_.parameters()} == {torch.float32}


def test_the_caller_s_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    language_model = pretrain_lm(TEXTS, PRETRAIN, output=tmp_path / "lm", progress=False)
    finetune_lm(TEXTS, tmp_path / "lm", FinetuneLMConfig(batch_size=4, min_frequency=1), progress=False)
    fitted = fit()
    fitted.save(tmp_path / "clf")
    ULMFiTClassifier.load(tmp_path / "clf").predict(TEXTS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)  # and has no influence
    again = pretrain_lm(TEXTS, PRETRAIN, progress=False)
    for one, other in zip(language_model.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_threads_do_not_disturb_each_other(expected: np.ndarray) -> None:
    with ThreadPoolExecutor(3) as threads:
        fitted = list(threads.map(lambda _: fit().predict_proba(TEXTS), range(3)))
    for probabilities in fitted:
        assert np.array_equal(probabilities, expected)
